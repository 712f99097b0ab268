package desk

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/client"
	"yingzhou.dev/lab/sandbox/lab"
)

// ask calls a custodian, who is held to its name by the certificate.
func (r *Remote) ask(ctx context.Context, info *client.Info, name string, call func(*custodian.Client) error) error {
	address, ok := info.Custodians[name]
	if !ok {
		return fmt.Errorf("custodian %q: %w: the lab does not say where it is", name, sandbox.ErrNotFound)
	}
	conn, err := rpc.Dial(address, r.tls.Client(pki.Name{Role: string(operators.RoleCustodian), Party: name}))
	if err != nil {
		return err
	}
	return errors.Join(call(custodian.New(name, conn)), conn.Close())
}

// Refresh deals a dataset's key again, as its steward, and has the old pieces erased.
func (r *Remote) Refresh(ctx context.Context, dataset, steward string, budgetMicro int64) (_ *enclave.Keyset, err error) {
	a, done, err := r.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	before, err := r.Dataset(ctx, dataset)
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
	if late := r.retire(ctx, signed, append(slices.Clone(ks.Custodians), before.Keyset.Custodians...)); late != nil {
		return &ks, fmt.Errorf("dataset %q is refreshed, but old pieces are not all erased yet: %w", dataset, late)
	}
	return &ks, nil
}

// retire tells custodians of a refresh. One that has left is not let in anywhere any more: what it has is of no use.
func (r *Remote) retire(ctx context.Context, keyset enclave.Signed, names []string) (late error) {
	info, err := r.Info(ctx)
	if err != nil {
		return err
	}
	signed, _, err := r.Roster(ctx)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if p, ok := info.Roster.Find(name); !ok || p.Absent {
			continue
		}
		late = errors.Join(late, r.ask(ctx, info, name, func(c *custodian.Client) error { return c.Retire(ctx, keyset, &signed) }))
	}
	return late
}

// Rotate has the custodian whose folder this is wrap its pieces of a dataset's key under new wrapping keys.
func (r *Remote) Rotate(ctx context.Context, dataset string) ([]string, error) {
	if r.tls.Name().Role != string(operators.RoleCustodian) {
		return nil, fmt.Errorf("rotating wrapping keys: %w: they are each custodian's own, whose people rotate them from its folder; %s is no custodian", operators.ErrRole, r.Acting())
	}
	d, err := r.Dataset(ctx, dataset)
	if err != nil {
		return nil, err
	}
	if d.Disposal != nil {
		return nil, fmt.Errorf("rotating the keys of dataset %q: %w: it was disposed of, for good", dataset, sandbox.ErrConflict)
	}
	info, err := r.Info(ctx)
	if err != nil {
		return nil, err
	}
	return []string{r.Acting()}, r.ask(ctx, info, r.Acting(), func(c *custodian.Client) error { return c.Rotate(ctx, d.KeysetDigest) })
}

// rootKey loads the key that signs rosters, if it lies here.
func (r *Remote) rootKey(what string) (*keys.Identity, error) {
	if r.cfg.RootKey == "" {
		return nil, fmt.Errorf("%s: %w: %s names no root_key, which must sign the roster", what, sandbox.ErrNotFound, ConfigFile)
	}
	root, err := keys.LoadIdentity(r.cfg.RootKey)
	if err != nil {
		return nil, fmt.Errorf("signing the roster: %w", err)
	}
	return root, nil
}

// putRoster signs the next roster and hands it in.
func (r *Remote) putRoster(ctx context.Context, root *keys.Identity, before *operators.Roster, parties []operators.Party) error {
	next := *before
	next.Serial, next.Made, next.Parties = before.Serial+1, canon.At(r.clock()), parties
	if err := next.Validate(); err != nil {
		return err
	}
	signed, err := keys.SealWith(root, operators.KindRoster, next)
	if err != nil {
		return err
	}
	return r.PutRoster(ctx, signed)
}

// ReplaceCustodian signs a roster in which p, whose keys its own body has made, acts in place of one that leaves.
func (r *Remote) ReplaceCustodian(ctx context.Context, old string, p operators.Party) error {
	root, err := r.rootKey(fmt.Sprintf("replacing custodian %q", old))
	if err != nil {
		return err
	}
	_, roster, err := r.Roster(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(roster.Parties, func(q operators.Party) bool { return q.Name == old && q.Role == operators.RoleCustodian && !q.Absent })
	if at < 0 {
		return fmt.Errorf("custodian %q: %w", old, sandbox.ErrNotFound)
	}
	if have, taken := roster.Find(p.Name); taken {
		return fmt.Errorf("adding custodian %q: %w: the name belongs to %s of %s", p.Name, sandbox.ErrConflict, have.Role, have.Body)
	}
	if len(p.Verify) == 0 || len(p.HPKE) == 0 {
		return fmt.Errorf("adding custodian %q: %w: its body makes its keys, `lab key make` writes the public ones for --keys", p.Name, operators.ErrInvalid)
	}
	p.Role = operators.RoleCustodian
	parties := slices.Clone(roster.Parties)
	parties[at].Absent = true
	return r.putRoster(ctx, root, roster, append(parties, p))
}

// DisposeDataset orders the end of a dataset, as a steward of its owner, whose own copy of the key goes at once, or as an
// official. labd carries it out, and goes on with what it could not do at once.
func (r *Remote) DisposeDataset(ctx context.Context, dataset, who, cause, reason string) (_ *lab.Disposal, err error) {
	_, roster, err := r.Roster(ctx)
	if err != nil {
		return nil, err
	}
	by, ok := roster.Find(who)
	if !ok {
		return nil, fmt.Errorf("%q: %w: `lab person list` names the people", who, sandbox.ErrNotFound)
	}
	id, err := r.Identity(who)
	if err != nil {
		return nil, err
	}
	d, order, err := agency.SignOrder(ctx, r, by, id, canon.At(r.clock()), dataset, cause, reason)
	if err != nil {
		return nil, err
	}
	state, err := r.OrderDisposal(ctx, order)
	if err != nil || by.Role != operators.RoleSteward {
		return state, err
	}
	a, done, err := r.agency(ctx, who)
	if err != nil {
		return nil, err
	}
	return state, errors.Join(a.Forget(ctx, d), done())
}

// Recheck has every custodian that can be reached hold a release against its own key pieces, with the record of every
// custodian that endorsed it.
func (r *Remote) Recheck(ctx context.Context, id sandbox.JobID) (out []home.Rechecked, _ error) {
	b, err := r.Bundle(ctx, id)
	if err != nil {
		return nil, err
	}
	var rel enclave.Release
	if err := b.Release.Open(enclave.KindRelease, &rel); err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	info, err := r.Info(ctx)
	if err != nil {
		return nil, err
	}
	answered, last := 0, error(nil)
	for _, by := range info.Roster.WithRole(operators.RoleCustodian) {
		for _, of := range rel.Custodians {
			err := r.ask(ctx, info, by.Name, func(c *custodian.Client) error { _, err := c.Recheck(ctx, b, of); return err })
			if ctx.Err() != nil {
				return nil, err
			}
			found := home.Rechecked{By: by.Name, TookPart: slices.Contains(rel.Custodians, by.Name), Of: of, Err: err, Unanswered: home.Incomparable(err)}
			if out, last = append(out, found), err; !found.Unanswered {
				answered++
			}
		}
	}
	if answered == 0 {
		return nil, fmt.Errorf("job %s: no custodian could recheck its release: %w", id, errors.Join(last, sandbox.ErrNotFound))
	}
	return out, nil
}
