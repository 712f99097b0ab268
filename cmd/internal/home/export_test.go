package home

import (
	"context"
	"encoding/hex"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
)

// AnnounceOnly is what a crash leaves of recording a statement: its log entry, and the statement not in the store.
func (h *Home) AnnounceOnly(ctx context.Context, s enclave.Signed, by string) error {
	return h.keeper.Announce(ctx, s, by)
}

// PendOnly is what an earlier crash leaves: no log entry either.
func (h *Home) PendOnly(s enclave.Signed) error {
	d := s.Digest()
	return durable.WriteFile(h.path("plane", "pending", hex.EncodeToString(d[:])+".json"), canon.MustMarshal(s), 0o600)
}
