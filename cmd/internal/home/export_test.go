package home

import (
	"context"

	"yingzhou.dev/lab/enclave"
)

// AnnounceOnly is what a crash leaves of recording a statement: its log entry, and the statement not in the store.
func (h *Home) AnnounceOnly(ctx context.Context, s enclave.Signed, by string) error {
	return statements{h}.announce(ctx, s, by)
}

// PendOnly is what an earlier crash leaves: no log entry either.
func (h *Home) PendOnly(s enclave.Signed) error { return statements{h}.pend(s) }
