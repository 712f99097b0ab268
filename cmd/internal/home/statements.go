package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
)

// statements is the registry's store and its way to the log.
//
// Custodians refuse a dossier that keeps back a statement which the log announces. A statement that a crash lost between
// its log entry and the store would therefore stop every later release. So the order is: pending file, log entry, store,
// pending file removed; settle ends at the next opening what a crash left in between.
type statements struct{ h *Home }

func (s statements) announce(ctx context.Context, signed enclave.Signed, by string) error {
	if err := s.pend(signed); err != nil {
		return err
	}
	failpoint.Hit(failpoint.StatementPending)
	err := s.h.Lab.Announce(ctx, enclave.Entry{Type: enclave.EntryStatement, Subject: signed.Digest(), By: by, At: canon.At(s.h.Now())})
	failpoint.Hit(failpoint.StatementLogged)
	return err
}

func (s statements) pend(signed enclave.Signed) error {
	if err := durable.WriteFile(s.h.pendingFile(signed.Digest()), canon.MustMarshal(signed), 0o600); err != nil {
		return fmt.Errorf("keeping a statement for its log entry: %w", err)
	}
	return nil
}

// Append implements registry.Store.
func (s statements) Append(ctx context.Context, signed enclave.Signed) error {
	if _, err := s.h.records.AppendStatement(ctx, signed, s.h.Now()); err != nil {
		return err
	}
	failpoint.Hit(failpoint.StatementStored)
	return s.h.removePending(s.h.pendingFile(signed.Digest()))
}

// All implements registry.Store.
func (s statements) All(ctx context.Context) ([]enclave.Signed, error) {
	st, err := s.h.Lab.Statements(ctx)
	return st.All, err
}

func (h *Home) pendingDir() string { return h.path("plane", "pending") }

func (h *Home) pendingFile(d enclave.Digest) string {
	return filepath.Join(h.pendingDir(), strings.TrimPrefix(d.String(), "sha256:")+".json")
}

func (h *Home) removePending(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("recording a statement: %w", err)
	}
	return nil
}

// settle stores pending statements that reached the log and forgets those that did not: their authors were never told
// that they had been recorded.
func (h *Home) settle(ctx context.Context) error {
	if err := durable.MkdirAll(h.pendingDir(), 0o700); err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	if err := durable.Sweep(h.pendingDir()); err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	pending, err := filepath.Glob(filepath.Join(h.pendingDir(), "*.json"))
	if err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	for _, path := range pending {
		if err := h.settleOne(ctx, path); err != nil {
			return fmt.Errorf("opening lab: settling statement %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

func (h *Home) settleOne(ctx context.Context, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var signed enclave.Signed
	if err := canon.Unmarshal(data, &signed); err != nil {
		return err
	}
	logged, err := h.records.Entries(ctx, sandbox.EntryFilter{Subject: signed.Digest(), Type: enclave.EntryStatement})
	if err != nil {
		return err
	}
	if len(logged) > 0 {
		return statements{h}.Append(ctx, signed)
	}
	return h.removePending(path)
}
