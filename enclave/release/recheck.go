package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// A piece has several holders so that they can compare. While a holder is away, the others' shares of its pieces go
// uncompared: one of them could shift a result unseen. So whoever endorses a release keeps the signed shares that it
// rests on, and a holder that was away derives its own later and compares. A share is a function of the piece, so there
// is nothing to argue about: the altered set carries its author's signature.

// Evidence is what a release rests on beyond its bundle: the share sets of every active custodian, as its author signed
// them. Like shares it is for custodians only, since whoever has all of it has the noised counts of suppressed cells.
type Evidence struct {
	Release enclave.Digest `json:"release"` // the same question asked again, of another quorum, is another release
	First   []canon.Signed `json:"first"`
	Second  []canon.Signed `json:"second"`
}

func (c *Custodian) evidencePath(release enclave.Digest) string {
	return filepath.Join(c.cfg.Dir, "shares", fmt.Sprintf("%x-evidence.json", release[:]))
}

// keepEvidence comes before the signature that it backs.
func (c *Custodian) keepEvidence(e Evidence) error {
	if e.Second == nil {
		e.Second = []canon.Signed{}
	}
	data, err := canon.Marshal(e)
	if err != nil {
		return err
	}
	err = durable.WriteFile(c.evidencePath(e.Release), data, 0o600)
	failpoint.Hit(failpoint.EvidenceStored)
	return err
}

// Evidence returns the share sets behind a release that this custodian endorsed. One that it did not is
// enclave.ErrNotFound.
func (c *Custodian) Evidence(_ context.Context, release enclave.Digest) (Evidence, error) {
	var e Evidence
	data, err := os.ReadFile(c.evidencePath(release))
	if errors.Is(err, fs.ErrNotExist) {
		return e, fmt.Errorf("custodian %q has not endorsed release %s: %w", c.Name(), release.Short(), enclave.ErrNotFound)
	}
	if err == nil {
		err = canon.Unmarshal(data, &e)
	}
	if err == nil && e.Release != release {
		err = fmt.Errorf("it is of release %s", e.Release.Short())
	}
	if err != nil {
		return Evidence{}, fmt.Errorf("evidence of release %s at custodian %q: %w", release.Short(), c.Name(), err)
	}
	return e, nil
}

// Recheck holds a finished release against this custodian's own pieces: it executes the plan, derives its shares,
// compares them with those in the evidence, combines all, and arrives at the release or does not. It may have taken part
// or not. Nothing is issued or charged. A share that was altered is ErrCrossCheck with a *CrossCheckError; any other
// difference is ErrRelease. What it refuses is recorded as refusals are.
//
// Rechecking does not ask whether the job would be authorised today. After a refresh or a disposal the pieces behind a
// release are gone: ErrReplaced or ErrDisposed says so, and says nothing about the release.
func (c *Custodian) Recheck(ctx context.Context, b *enclave.Bundle, e Evidence) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.recheck(ctx, b, e)
	var r *Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r) && (errors.Is(r.Rule, ErrReplaced) || errors.Is(r.Rule, ErrDisposed)): // nothing is wrong with what was asked
		r.Custodian = c.Name()
		return r
	}
	return c.refused(ctx, b, err)
}

// erased tells that shares cannot be derived again because their pieces were meant to go.
func (c *Custodian) erased(d *Dossier, err error) error {
	if !errors.Is(err, keys.ErrNoPiece) {
		return err
	}
	rule := ErrReplaced
	if c.follow.logged[entryKey{d.KeysetSum, enclave.EntryDisposal}] {
		rule = ErrDisposed
	}
	return refuse(rule, "the pieces of epoch %d of keyset %s are not held here any more, so its shares cannot be derived again", d.Keyset.Epoch, d.KeysetSum.Short())
}

func (c *Custodian) recheck(ctx context.Context, b *enclave.Bundle, e Evidence) error {
	d, rel, err := CheckRelease(b, c.cfg.RootKey, c.cfg.Build)
	if err != nil {
		return err
	}
	if e.Release != b.Release.Digest() {
		return refuse(ErrRelease, "evidence is of release %s, the bundle of %s", e.Release.Short(), b.Release.Digest().Short())
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if err := c.follow.check(d.Checkpoint); err != nil {
		return refuse(ErrLogFork, "proofs lead to another log").Because(err)
	}
	if _, known := c.ledger.charged(d.PlanDigest); !known { // it was away; the charge is in its peers' ledgers
		if err := c.merge(ctx, rel.Custodians); err != nil {
			return err
		}
	}
	s, err := c.execute(ctx, d)
	if err != nil {
		return err
	}
	s.dossier = d
	_, mine, err := c.outcome(ctx, s, rel.Custodians, e.First, e.Second)
	if err != nil {
		return c.erased(d, err)
	}
	// The charge and the time were agreed on by those who took part, and a later repetition of the job changes what a
	// ledger says of both. Everything that the shares decide is compared.
	mine.ChargedMicro, mine.Made = rel.ChargedMicro, rel.Made
	if canon.DigestOf(mine) != b.Release.Digest() {
		return refuse(ErrRelease, "the custodians signed table %s, the shares give %s", rel.Table.Short(), mine.Table.Short())
	}
	return nil
}
