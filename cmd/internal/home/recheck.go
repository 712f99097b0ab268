package home

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/sandbox"
)

// Rechecked is what one custodian concludes of another's record of a release.
type Rechecked struct {
	By       string // who derived its shares again
	TookPart bool
	Of       string // whose record of everybody's shares it compared with
	Err      error  // nil: they give the release that was signed

	Unanswered bool // Err is why it could not be asked, or could not ask whose record it was to compare with
}

// Incomparable says whether an error of a recheck means that nothing was compared: the custodian could not be asked, or its
// pieces have gone since, as they were meant to.
func Incomparable(err error) bool {
	var r *release.Refusal
	return err != nil && (!errors.As(err, &r) || errors.Is(err, release.ErrReplaced) || errors.Is(err, release.ErrDisposed))
}

// Recheck has every custodian that is here hold a release against its own key pieces.
func (h *Home) Recheck(ctx context.Context, id sandbox.JobID) ([]Rechecked, error) {
	job, err := h.Lab.Job(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	if job.Release.IsZero() {
		return nil, fmt.Errorf("job %s is %s and has no release to recheck: %w", id, job.State, sandbox.ErrConflict)
	}
	b, err := h.Lab.Bundle(ctx, id)
	if err != nil {
		return nil, err
	}
	var rel enclave.Release
	if err := b.Release.Open(enclave.KindRelease, &rel); err != nil {
		return nil, err
	}
	var out []Rechecked
	compared, last := 0, error(nil)
	for _, keeper := range h.Custodians {
		kept, err := keeper.Evidence(ctx, job.Release)
		if errors.Is(err, enclave.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, c := range h.Custodians {
			err := c.Recheck(ctx, b, kept)
			var r *release.Refusal
			if err != nil && !errors.As(err, &r) {
				return nil, err
			}
			found := Rechecked{By: c.Name(), TookPart: slices.Contains(rel.Custodians, c.Name()), Of: keeper.Name(), Err: err, Unanswered: Incomparable(err)}
			if out, last = append(out, found), err; !found.Unanswered {
				compared++
			}
		}
	}
	if len(out) > 0 && compared == 0 {
		return nil, fmt.Errorf("job %s: no custodian could recheck its release: %w", id, errors.Join(last, sandbox.ErrNotFound))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("job %s: no custodian that endorsed its release is here, and only those keep its shares: %w", id, sandbox.ErrNotFound)
	}
	return out, nil
}
