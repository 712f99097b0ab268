package lab

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

// Keeper is the registry's store and its way to the log.
//
// Custodians refuse a dossier that keeps back a statement which the log announces. A statement that a crash lost between
// its log entry and the store would therefore stop every later release. So the order is: pending file, log entry, store,
// pending file removed; NewKeeper ends what a crash left in between.
type Keeper struct {
	lab *Lab
	dir string
}

// NewKeeper keeps pending statements in a folder of its own. It stores those that reached the log and forgets those that
// did not: their authors were never told that they had been recorded.
func NewKeeper(ctx context.Context, l *Lab, dir string) (*Keeper, error) {
	k := &Keeper{lab: l, dir: dir}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keeping statements: %w", err)
	}
	if err := durable.Sweep(dir); err != nil {
		return nil, fmt.Errorf("keeping statements: %w", err)
	}
	pending, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("keeping statements: %w", err)
	}
	for _, path := range pending {
		if err := k.settle(ctx, path); err != nil {
			return nil, fmt.Errorf("settling statement %s: %w", filepath.Base(path), err)
		}
	}
	return k, nil
}

// Announce implements registry.Log.
func (k *Keeper) Announce(ctx context.Context, signed enclave.Signed, by string) error {
	if err := durable.WriteFile(k.path(signed.Digest()), canon.MustMarshal(signed), 0o600); err != nil {
		return fmt.Errorf("keeping a statement for its log entry: %w", err)
	}
	failpoint.Hit(failpoint.StatementPending)
	err := k.lab.Announce(ctx, enclave.Entry{Type: enclave.EntryStatement, Subject: signed.Digest(), By: by, At: k.lab.now()})
	failpoint.Hit(failpoint.StatementLogged)
	return err
}

// Append implements registry.Store.
func (k *Keeper) Append(ctx context.Context, signed enclave.Signed) error {
	if _, err := k.lab.cfg.Store.AppendStatement(ctx, signed, k.lab.cfg.Clock()); err != nil {
		return err
	}
	failpoint.Hit(failpoint.StatementStored)
	return remove(k.path(signed.Digest()))
}

// All implements registry.Store.
func (k *Keeper) All(ctx context.Context) ([]enclave.Signed, error) {
	st, err := k.lab.statements(ctx)
	return st.All, err
}

func (k *Keeper) path(d enclave.Digest) string {
	return filepath.Join(k.dir, strings.TrimPrefix(d.String(), "sha256:")+".json")
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("recording a statement: %w", err)
	}
	return nil
}

func (k *Keeper) settle(ctx context.Context, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var signed enclave.Signed
	if err := canon.Unmarshal(data, &signed); err != nil {
		return err
	}
	logged, err := k.lab.cfg.Store.Entries(ctx, sandbox.EntryFilter{Subject: signed.Digest(), Type: enclave.EntryStatement})
	if err != nil {
		return err
	}
	if len(logged) > 0 {
		return k.Append(ctx, signed)
	}
	return remove(path)
}
