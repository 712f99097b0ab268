package home

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
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

// Rotate has every custodian wrap its pieces of a dataset's key under new wrapping keys.
func (h *Home) Rotate(ctx context.Context, dataset string) error {
	d, err := h.Lab.Dataset(ctx, dataset)
	if err != nil {
		return err
	}
	if d.Disposal != nil {
		return fmt.Errorf("rotating the keys of dataset %q: %w: it was disposed of, for good", dataset, sandbox.ErrConflict)
	}
	for _, c := range h.Custodians {
		if err := c.Rotate(ctx, d.KeysetDigest); err != nil {
			return err
		}
	}
	return nil
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

// Dispose ends a dataset for good, on its owner's order (art. 19): every custodian destroys its pieces and their wrapping
// keys and tries to use them, the sealed blobs and the owner's own copy of the key go, and a certificate of all that is
// recorded. If a custodian cannot be reached the order stands, nothing of the dataset can be opened any more, and the
// same call again ends what is left to do.
func (h *Home) Dispose(ctx context.Context, dataset, steward, cause, reason string) (enclave.Signed, *enclave.Disposal, error) {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return enclave.Signed{}, nil, err
	}
	d, order, err := a.Order(ctx, dataset, cause, reason)
	if err != nil {
		return enclave.Signed{}, nil, err
	}
	blobs, err := h.blobsOf(ctx, d.KeysetDigest)
	if err != nil {
		return enclave.Signed{}, nil, err
	}
	if order, err = h.Lab.OrderDisposal(ctx, order); err != nil {
		return enclave.Signed{}, nil, err
	}
	cert := enclave.Disposal{Order: order, Destructions: []enclave.Signed{}, Blobs: blobs}
	if cert.Keysets, err = h.Lab.Lineage(ctx, dataset); err != nil {
		return enclave.Signed{}, nil, err
	}
	if cert.Destructions, err = h.destroy(ctx, d.Keyset, order); err != nil {
		return enclave.Signed{}, nil, fmt.Errorf("the disposal of dataset %q is ordered and not complete, repeat it: %w", dataset, err)
	}
	if h.dataKeys != nil { // the wrapping key first: what copies of the blobs there are is noise from then on
		destroyed, err := h.dataKeys.Destroy(ctx, d.KeysetDigest)
		if err != nil {
			return enclave.Signed{}, nil, fmt.Errorf("the disposal of dataset %q is ordered and not complete, repeat it: %w", dataset, err)
		}
		if destroyed {
			cert.DataKeys = 1
		}
	}
	if cert.Attempt, err = h.discard(ctx, a, d, blobs); err != nil {
		return enclave.Signed{}, nil, fmt.Errorf("the disposal of dataset %q is ordered and not complete, repeat it: %w", dataset, err)
	}
	signed, err := h.Lab.Certify(ctx, cert)
	if err != nil {
		return signed, nil, err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return signed, nil, err
	}
	checked, err := release.CheckDisposal(signed, roster)
	return signed, checked, err
}

// destroy asks every custodian that is here, and insists on those that hold pieces.
func (h *Home) destroy(ctx context.Context, ks *enclave.Keyset, order enclave.Signed) (out []enclave.Signed, missing error) {
	out = []enclave.Signed{}
	for _, name := range ks.Custodians {
		if !slices.ContainsFunc(h.Custodians, func(c *release.Custodian) bool { return c.Name() == name }) {
			missing = errors.Join(missing, fmt.Errorf("custodian %q is not here", name))
		}
	}
	for _, c := range h.Custodians {
		word, err := c.Dispose(ctx, order)
		if err != nil {
			missing = errors.Join(missing, err)
			continue
		}
		out = append(out, word)
	}
	return out, missing
}

// blobsOf lists the sealed blobs of every version of a lineage.
func (h *Home) blobsOf(ctx context.Context, origin enclave.Digest) ([]enclave.Digest, error) {
	manifests, err := h.records.Artefacts(ctx, enclave.KindManifest)
	if err != nil {
		return nil, err
	}
	out := []enclave.Digest{}
	for _, s := range manifests {
		var m enclave.Manifest
		if err := s.Open(enclave.KindManifest, &m); err != nil {
			return nil, err
		}
		for _, l := range m.Layouts {
			for _, v := range l.Vectors {
				if m.Keyset == origin {
					out = append(out, v.Blob)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b enclave.Digest) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(out), nil
}

// discard removes what is left: blobs wherever this folder has them, and the owner's own copy of the key. It returns what
// reading a blob gave afterwards.
func (h *Home) discard(ctx context.Context, a *agency.Agency, d *lab.Dataset, blobs []enclave.Digest) (attempt string, _ error) {
	for _, at := range h.stores {
		for _, b := range blobs {
			if err := at.Delete(b); err != nil {
				return "", err
			}
		}
	}
	failpoint.Hit(failpoint.BlobsDiscarded)
	if err := a.Forget(ctx, d); err != nil {
		return "", err
	}
	failpoint.Hit(failpoint.KeyForgotten)
	for _, b := range blobs {
		if err := h.Blobs.Verify(ctx, b); !errors.Is(err, enclave.ErrNotFound) {
			return "", fmt.Errorf("blob %s is still there: %w", b.Short(), err)
		}
	}
	return enclave.ErrNotFound.Error(), nil
}
