package home

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// Refresh deals a dataset's key again, as its steward, and has the old pieces erased.
func (h *Home) Refresh(ctx context.Context, dataset, steward string, budgetMicro int64) (*enclave.Keyset, error) {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	signed, err := a.Refresh(ctx, dataset, budgetMicro)
	if err != nil {
		return nil, err
	}
	var ks enclave.Keyset
	if err := signed.Open(enclave.KindKeyset, &ks); err != nil {
		return nil, err
	}
	// The refresh is in force. A custodian that cannot be asked now erases the old pieces when it next meets the new keyset.
	var late error
	for _, c := range h.Custodians {
		late = errors.Join(late, c.Retire(ctx, signed))
	}
	if late != nil {
		return &ks, fmt.Errorf("dataset %q is refreshed, but old pieces are not all erased yet: %w", dataset, late)
	}
	return &ks, nil
}

// Rotate has every custodian wrap its pieces of a dataset's key under new wrapping keys, and names them.
func (h *Home) Rotate(ctx context.Context, dataset string) (rotated []string, _ error) {
	d, err := h.Lab.Dataset(ctx, dataset)
	if err != nil {
		return nil, err
	}
	if d.Disposal != nil {
		return nil, fmt.Errorf("rotating the keys of dataset %q: %w: it was disposed of, for good", dataset, sandbox.ErrConflict)
	}
	for _, c := range h.Custodians {
		if err := c.Rotate(ctx, d.KeysetDigest); err != nil {
			return rotated, err
		}
		rotated = append(rotated, c.Name())
	}
	return rotated, nil
}

// ReplaceCustodian makes a new custodian in place of one that leaves: a new roster, in which the old one is absent. Its
// pieces are of use until each dataset's steward has refreshed the key, which is how the new one comes by its own.
func (h *Home) ReplaceCustodian(ctx context.Context, old string, p operators.Party) error {
	if err := checkName(p.Name); err != nil {
		return err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return err
	}
	next := *roster
	next.Parties = slices.Clone(roster.Parties)
	at := slices.IndexFunc(next.Parties, func(q operators.Party) bool {
		return q.Name == old && q.Role == operators.RoleCustodian && !q.Absent
	})
	if at < 0 {
		return fmt.Errorf("custodian %q: %w", old, sandbox.ErrNotFound)
	}
	if have, taken := roster.Find(p.Name); taken {
		return fmt.Errorf("adding custodian %q: %w: the name belongs to %s of %s", p.Name, sandbox.ErrConflict, have.Role, have.Body)
	}
	if len(p.Verify) > 0 {
		return fmt.Errorf("adding custodian %q: %w: in one folder its keys are made here", p.Name, sandbox.ErrConflict)
	}
	p.Role = operators.RoleCustodian
	if p.Verify, p.HPKE, err = newParty(ctx, h.path("custodians", p.Name), p.Name); err != nil {
		return fmt.Errorf("adding custodian %q: %w", p.Name, err)
	}
	next.Parties[at].Absent = true
	next.Parties = append(next.Parties, p)
	signed, err := h.newRoster(ctx, next)
	if err != nil {
		return err
	}
	return h.openCustodian(ctx, p, signed)
}

// DisposeDataset ends a dataset for good (art. 19), on the word of its owner's steward or of two officials: every custodian
// destroys its pieces and their wrapping keys and tries to use them, the sealed blobs and, where the steward ends it, the
// owner's own copy of the key go, and a certificate of all that is recorded. If a custodian cannot be reached the order
// stands, nothing of the dataset can be opened any more, and the same call again ends what is left to do.
func (h *Home) DisposeDataset(ctx context.Context, dataset, who, cause, reason string) (*lab.Disposal, error) {
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	by, ok := roster.Find(who)
	if !ok {
		return nil, fmt.Errorf("%q: %w: `lab person list` names the people", who, sandbox.ErrNotFound)
	}
	id, err := h.Identity(who)
	if err != nil {
		return nil, err
	}
	d, order, err := agency.SignOrder(ctx, h.Lab, by, id, canon.At(h.opts.Clock()), dataset, cause, reason)
	if err != nil {
		return nil, err
	}
	_, inForce, err := h.Lab.OrderDisposal(ctx, order)
	if err != nil {
		return nil, err
	}
	if inForce && by.Role == operators.RoleSteward {
		a, err := h.agency(ctx, who)
		if err == nil {
			err = a.Forget(ctx, d)
		}
		if err != nil {
			return nil, err
		}
	}
	return h.Lab.Dispose(ctx, dataset)
}

// destroyer carries out disposals by what lies in this folder.
type destroyer struct{ h *Home }

// Destroy implements lab.Destroyer.
func (d destroyer) Destroy(ctx context.Context, custodian string, order, roster enclave.Signed) (enclave.Signed, error) {
	i := slices.IndexFunc(d.h.Custodians, func(c *release.Custodian) bool { return c.Name() == custodian })
	if i < 0 {
		return enclave.Signed{}, fmt.Errorf("custodian %q is not here", custodian)
	}
	if err := d.h.Custodians[i].UseRoster(roster); err != nil {
		return enclave.Signed{}, err
	}
	return d.h.Custodians[i].Dispose(ctx, order)
}

// Discard implements lab.Destroyer: blobs go wherever this folder has them. The wrapping key goes first: what copies of the
// blobs there are is noise from then on.
func (d destroyer) Discard(ctx context.Context, lineage enclave.Digest, blobs []enclave.Digest) (keys int64, attempt string, err error) {
	if d.h.dataKeys != nil {
		destroyed, err := d.h.dataKeys.Destroy(ctx, lineage)
		if err != nil {
			return 0, "", err
		}
		if destroyed {
			keys = 1
		}
	}
	for _, at := range d.h.stores {
		for _, b := range blobs {
			if err := at.Delete(b); err != nil {
				return keys, "", err
			}
		}
	}
	failpoint.Hit(failpoint.BlobsDiscarded)
	for _, b := range blobs {
		if err := d.h.Blobs.Verify(ctx, b); !errors.Is(err, enclave.ErrNotFound) {
			return keys, "", fmt.Errorf("blob %s is still there: %w", b.Short(), err)
		}
	}
	return keys, enclave.ErrNotFound.Error(), nil
}
