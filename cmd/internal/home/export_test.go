package home

import (
	"context"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox"
)

// AnnounceOnly is what a crash leaves of recording a statement: its log entry, and the statement not in the store.
func (h *Home) AnnounceOnly(ctx context.Context, s enclave.Signed, by string) error {
	return h.keeper.Announce(ctx, s, by)
}

// PendOnly is what an earlier crash leaves: no log entry either.
func (h *Home) PendOnly(ctx context.Context, s enclave.Signed) error {
	return h.records.KeepPending(ctx, s, h.Now())
}

// Pending is what is on its way.
func (h *Home) Pending(ctx context.Context) ([]sandbox.Statement, error) {
	return h.records.Pending(ctx)
}
