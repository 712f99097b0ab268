package home

import (
	"context"
	"fmt"
	"slices"
	"time"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/sandbox/lab"
)

// agency opens the side of a steward's agency in this folder.
func (h *Home) agency(ctx context.Context, steward string) (*agency.Agency, error) {
	return agency.Open(ctx, agency.Config{Identity: h.Identity, Lab: h.Lab, Blobs: h.Blobs, Deal: h.deal, Clock: h.opts.Clock,
		Sweep: func(ctx context.Context) error { _, err := h.SweepBlobs(ctx); return err }},
		steward, func(body string) string { return h.path("agencies", body) })
}

// deal hands a piece to the custodian whose folder is here.
func (h *Home) deal(ctx context.Context, keyset enclave.Signed, p seal.DealtPiece) error {
	i := slices.IndexFunc(h.Custodians, func(c *release.Custodian) bool { return c.Name() == p.Custodian })
	if i < 0 {
		return fmt.Errorf("custodian %q is not here; a key is dealt to all custodians or to none", p.Custodian)
	}
	return h.Custodians[i].Accept(ctx, keyset, p.Piece, p.Sealed, h.parties[p.Custodian].Open)
}

// RegisterDataset deals a dataset's key to the custodians and registers its keyset, as its steward.
func (h *Home) RegisterDataset(ctx context.Context, sc *schema.Schema, steward string) (*enclave.Keyset, error) {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	return a.Register(ctx, sc)
}

// SealTable seals a file as the next version of a dataset, as its steward.
func (h *Home) SealTable(ctx context.Context, path, dataset, steward string, opts agency.SealOptions) (*agency.Sealed, error) {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	return a.Seal(ctx, path, dataset, opts)
}

// SweepBlobs removes blobs that no manifest names: what a crash between sealing and publishing left.
func (h *Home) SweepBlobs(ctx context.Context) (removed int, err error) {
	return h.Blobs.Sweep(time.Time{}, func() (map[enclave.Digest]bool, error) { return lab.NamedBlobs(ctx, h.records) })
}
