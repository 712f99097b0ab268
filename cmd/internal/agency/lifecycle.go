package agency

import (
	"context"
	"errors"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// owned finds a dataset of this agency.
func (a *Agency) owned(ctx context.Context, dataset string) (*lab.Dataset, error) {
	d, err := a.cfg.Lab.Dataset(ctx, dataset)
	if err != nil {
		return nil, err
	}
	if d.Keyset.Owner != a.party.Body {
		return nil, fmt.Errorf("dataset %q %w: it is of %s, and %s acts for %s", dataset, ErrNotYours, d.Keyset.Owner, a.party.Name, a.party.Body)
	}
	return d, nil
}

// Refresh deals a dataset's key again to the custodians that the roster has now, in fresh pieces and with fresh noise
// keys, and registers the new keyset, which is in force from then on. budgetMicro is what the new epoch may cost; 0 keeps
// what the epoch before had. Pieces of a refresh that was cut off before it was registered are of no use to anyone.
func (a *Agency) Refresh(ctx context.Context, dataset string, budgetMicro int64) (canon.Signed, error) {
	d, err := a.owned(ctx, dataset)
	if err != nil {
		return canon.Signed{}, err
	}
	if d.Disposal != nil {
		return canon.Signed{}, fmt.Errorf("refreshing dataset %q: %w: it was disposed of, for good", dataset, sandbox.ErrConflict)
	}
	if budgetMicro == 0 {
		budgetMicro = d.Keyset.BudgetMicro
	}
	_, roster, err := a.cfg.Lab.Roster(ctx)
	if err != nil {
		return canon.Signed{}, err
	}
	params, err := he.Compile(d.Keyset.Params)
	if err != nil {
		return canon.Signed{}, err
	}
	key, err := a.ownKey(ctx, params, d)
	if err != nil {
		return canon.Signed{}, err
	}
	defer key.Erase()
	dealt, err := seal.Refresh(d.Keyset, d.Dealing, roster.WithRole(operators.RoleCustodian), budgetMicro, canon.At(a.cfg.Clock()), key, a.steward)
	if err != nil {
		return canon.Signed{}, err
	}
	for _, p := range dealt.Pieces {
		if err := a.cfg.Deal(ctx, dealt.Keyset, p); err != nil {
			return canon.Signed{}, fmt.Errorf("refreshing dataset %q: %w", dataset, err)
		}
	}
	return dealt.Keyset, a.cfg.Lab.RegisterKeyset(ctx, dealt.Keyset)
}

// Ender is what it takes of a lab to sign a disposal order.
type Ender interface {
	Dataset(ctx context.Context, name string) (*lab.Dataset, error)
	Disposal(ctx context.Context, dataset string) (*lab.Disposal, error)
}

// SignOrder signs the order that ends a dataset for good (art. 19), as a steward of its owner or as an official. Where an
// official has asked for the same already, with the same cause and reason, a second one signs the same bytes; where with
// another, that is a conflict, and the text says what was asked for.
func SignOrder(ctx context.Context, l Ender, by operators.Party, id *keys.Identity, now canon.Time, dataset, cause, reason string) (*lab.Dataset, canon.Signed, error) {
	d, err := l.Dataset(ctx, dataset)
	if err != nil {
		return nil, canon.Signed{}, err
	}
	if by.Role == operators.RoleSteward && d.Keyset.Owner != by.Body {
		return nil, canon.Signed{}, fmt.Errorf("dataset %q %w: it is of %s, and %s acts for %s", dataset, ErrNotYours, d.Keyset.Owner, by.Name, by.Body)
	}
	order := enclave.DisposalOrder{Dataset: dataset, Owner: d.Keyset.Owner, Keyset: d.KeysetDigest, Cause: cause, Reason: reason, By: by.Name, Made: now}
	if err := order.Validate(); err != nil {
		return nil, canon.Signed{}, err
	}
	if by.Role == operators.RoleOfficial && d.Disposal == nil {
		was, err := l.Disposal(ctx, dataset)
		if err == nil && !was.InForce {
			var o enclave.DisposalOrder
			if err := was.Order.Open(enclave.KindDisposalOrder, &o); err != nil {
				return nil, canon.Signed{}, err
			}
			if o.Cause == cause && o.Reason == reason {
				order = o
			} else if o.By != by.Name {
				return nil, canon.Signed{}, fmt.Errorf("disposing of dataset %q: %w: %s has asked for it, cause %s, reason %q; whoever agrees says the same", dataset, sandbox.ErrConflict, o.By, o.Cause, o.Reason)
			}
		} else if err != nil && !errors.Is(err, sandbox.ErrNotFound) {
			return nil, canon.Signed{}, err
		}
	}
	s, err := keys.SealWith(id, enclave.KindDisposalOrder, order)
	return d, s, err
}

// Forget removes the agency's own copy of a dataset's key.
func (a *Agency) Forget(ctx context.Context, d *lab.Dataset) error {
	err := a.ring.Forget(ctx, ownKeyName(d))
	failpoint.Hit(failpoint.KeyForgotten)
	return err
}
