package desk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/sandbox/client"
)

// A client remembers the last checkpoint of the log that it verified, so that it notices a log that goes back or forks.
const (
	seenFile = "log-seen.json"
	forkFile = "log-fork.json" // evidence: both signed checkpoints
)

type seenNote struct {
	Note string `json:"note"`
}

// fork is two checkpoints of one log, both signed and witnessed, of which neither extends the other.
type fork struct {
	Seen    string `json:"seen"`
	Offered string `json:"offered"`
}

// Fsck verifies the log and all that it announces, as client.Fsck does, and remembers the checkpoint in the folder. If the
// log does not extend the one remembered, both stay there as evidence, and nothing is remembered over it.
func (r *Remote) Fsck(ctx context.Context) (*client.Audited, error) {
	path := filepath.Join(r.dir, seenFile)
	var seen seenNote
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := canon.Unmarshal(data, &seen); err != nil {
			return nil, fmt.Errorf("checkpoint seen before, %s: %w", path, err)
		}
	}
	out, err := r.Client.Fsck(ctx, seen.Note)
	var split *refusal.SplitViewError
	if errors.As(err, &split) {
		evidence := filepath.Join(r.dir, forkFile)
		if werr := durable.WriteFile(evidence, canon.MustMarshal(fork{split.Seen, split.Offered}), 0o600); werr != nil {
			return nil, errors.Join(err, werr)
		}
		return nil, fmt.Errorf("%w; both signed checkpoints are in %s: keep it", err, evidence)
	}
	if err != nil {
		return nil, err
	}
	return out, durable.WriteFile(path, canon.MustMarshal(seenNote{out.Note}), 0o600)
}
