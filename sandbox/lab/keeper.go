package lab

import (
	"context"
	"fmt"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
)

// Keeper is the registry's store and its way to the log.
//
// Custodians refuse a dossier that keeps back a statement which the log announces. A statement that a crash lost between
// its log entry and the store would therefore stop every later release. So the order is: pending, log entry, stored (and
// no longer pending); Settle ends what a crash left in between, of this process or of another on the same store.
type Keeper struct{ lab *Lab }

// NewKeeper makes a keeper and settles what was left pending.
func NewKeeper(ctx context.Context, l *Lab) (*Keeper, error) {
	k := &Keeper{lab: l}
	return k, k.Settle(ctx)
}

// Announce implements registry.Log.
func (k *Keeper) Announce(ctx context.Context, signed enclave.Signed, by string) error {
	if err := k.lab.cfg.Store.KeepPending(ctx, signed, k.lab.cfg.Clock()); err != nil {
		return fmt.Errorf("keeping a statement for its log entry: %w", err)
	}
	failpoint.Hit(failpoint.StatementPending)
	err := k.lab.Announce(ctx, enclave.Entry{Type: enclave.EntryStatement, Subject: signed.Digest(), By: by, At: k.lab.now()})
	failpoint.Hit(failpoint.StatementLogged)
	return err
}

// Append implements registry.Store.
func (k *Keeper) Append(ctx context.Context, signed enclave.Signed) error {
	_, err := k.lab.cfg.Store.AppendStatement(ctx, signed, k.lab.cfg.Clock())
	failpoint.Hit(failpoint.StatementStored)
	return err
}

// All implements registry.Store.
func (k *Keeper) All(ctx context.Context) ([]enclave.Signed, error) {
	st, err := k.lab.statements(ctx)
	return st.All, err
}

// unlogged is after how long a statement that did not reach the log is forgotten: its author was never told that it had
// been recorded, and no call takes so long.
const unlogged = 24 * time.Hour

// Settle stores what is pending and in the log. It may run beside those who record statements, here or in another process:
// storing twice is storing once.
func (k *Keeper) Settle(ctx context.Context) error {
	pending, err := k.lab.cfg.Store.Pending(ctx)
	if err != nil || len(pending) == 0 {
		return err
	}
	if err := k.lab.index(ctx); err != nil { // the entry may be another process's that could not note it any more
		return err
	}
	for _, p := range pending {
		if err := k.settle(ctx, p); err != nil {
			return fmt.Errorf("settling statement %s: %w", p.Signed.Digest().Short(), err)
		}
	}
	return nil
}

func (k *Keeper) settle(ctx context.Context, p sandbox.Statement) error {
	logged, err := k.lab.cfg.Store.Entries(ctx, sandbox.EntryFilter{Subject: p.Signed.Digest(), Type: enclave.EntryStatement})
	switch {
	case err != nil:
		return err
	case len(logged) > 0:
		return k.Append(ctx, p.Signed)
	case k.lab.cfg.Clock().Sub(p.Recorded) > unlogged:
		return k.lab.cfg.Store.DropPending(ctx, p.Signed.Kind, p.Signed.Digest())
	}
	return nil
}
