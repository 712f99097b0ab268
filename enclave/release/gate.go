package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
)

// Outcome is what leaves the gate: the release with a quorum of signatures, the table sealed to the analyst who asked,
// and the proof of the release's log entry.
type Outcome struct {
	Release canon.Signed
	Sealed  []byte
	Proof   enclave.LogProof
}

// Stages of a release, as Lead reports them.
const (
	StageCommit  = "commit"  // dossier checked, plan executed, budget charged
	StageCounts  = "counts"  // counts opened
	StageValues  = "values"  // other measures of the cells that passed opened
	StageEndorse = "endorse" // table agreed on and signed
)

// Endorse implements Member.
func (c *Custodian) Endorse(ctx context.Context, b *enclave.Bundle, r enclave.Release, proof enclave.LogProof, active []string, first, second []canon.Signed) (canon.Signature, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sig, err := c.endorse(ctx, b, r, proof, active, first, second)
	if err != nil {
		return canon.Signature{}, c.refused(ctx, b, err)
	}
	return sig, nil
}

func (c *Custodian) endorse(ctx context.Context, b *enclave.Bundle, r enclave.Release, proof enclave.LogProof, active []string, first, second []canon.Signed) (canon.Signature, error) {
	s, err := c.examine(ctx, b)
	if err != nil {
		return canon.Signature{}, err
	}
	if err := c.committed(ctx, s, active); err != nil {
		return canon.Signature{}, err
	}
	_, mine, err := c.outcome(ctx, s, active, first, second)
	if err != nil {
		return canon.Signature{}, err
	}
	if canon.DigestOf(r) != canon.DigestOf(mine) {
		return canon.Signature{}, refuse(ErrRelease, "gate says %s, this custodian has %s", canon.DigestOf(r).Short(), canon.DigestOf(mine).Short())
	}
	entry, cp, err := proof.Check(s.dossier.Keys)
	if err != nil || entry.Type != enclave.EntryRelease || entry.Subject != canon.DigestOf(r) {
		return canon.Signature{}, refuse(ErrNotLogged, "release %s", canon.DigestOf(r).Short()).Because(err)
	}
	if err := c.follow.check(cp); err != nil {
		return canon.Signature{}, refuse(ErrLogFork, "release %s is in another log", canon.DigestOf(r).Short()).Because(err)
	}
	if err := c.keepEvidence(Evidence{Release: canon.DigestOf(r), First: first, Second: second}); err != nil {
		return canon.Signature{}, err
	}
	if !c.ledger.released(s.dossier.PlanDigest) {
		if _, err := c.ledger.append(Record{Type: recordRelease, Plan: s.dossier.PlanDigest, Job: r.Job, Release: canon.DigestOf(r), At: canon.At(c.cfg.Clock())}); err != nil {
			return canon.Signature{}, err
		}
		failpoint.Hit(failpoint.ReleaseKept)
	}
	delete(c.sessions, s.dossier.PlanDigest)
	return c.cfg.Signer.Sign(enclave.KindRelease, canon.MustMarshal(r))
}

// Lead runs a release as the gate: this custodian asks the members, combines their shares, applies disclosure control
// and seals the result. Any custodian may lead; all of them check everything the leader says. It can be repeated after
// any failure and gives the same bytes. step, which may be nil, hears of each stage as it starts.
//
// A member that has committed and then cannot do its part, because its disk is full or a file of its own is damaged, is
// left out and the rest begin again, as long as they are a quorum: it would fail at every attempt, and shares are the same
// bytes in any company. What a member refuses is not passed over: it may have seen what the others have still to see.
func (c *Custodian) Lead(ctx context.Context, b *enclave.Bundle, members []Member, step func(stage string)) (*Outcome, error) {
	if step == nil {
		step = func(string) {}
	}
	var lost []error
	for {
		out, err := c.lead(ctx, b, members, step)
		var refused *Refusal
		var quorum *QuorumError
		var unable *unableError
		switch {
		case err == nil || ctx.Err() != nil:
			return out, err
		case errors.As(err, &quorum):
			quorum.Causes = append(lost, quorum.Causes...)
			return nil, err
		case errors.As(err, &refused) || !errors.As(err, &unable):
			return nil, err
		case unable.name == c.Name():
			why := "which cannot do its own part"
			if down := (*refusal.UnavailableError)(nil); errors.As(err, &down) { // in words for people, unlike other errors
				why = "which is without " + down.What
			}
			return nil, &refusal.UnavailableError{What: fmt.Sprintf("a leader: custodian %q, %s,", c.Name(), why), Cause: err}
		}
		c.cfg.Logger.WarnContext(ctx, "left out of a release", "custodian", unable.name, "plan", b.Plan.Digest(), "error", err)
		lost = append(lost, err)
		members = slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Name() == unable.name })
	}
}

// unableError is a member's failure after it has committed.
type unableError struct {
	name string
	err  error
}

func (e *unableError) Error() string { return e.err.Error() }
func (e *unableError) Unwrap() error { return e.err }

// able names the member that an error is of.
func able(m Member, err error) error {
	if err == nil {
		return nil
	}
	return &unableError{m.Name(), err}
}

func (c *Custodian) lead(ctx context.Context, b *enclave.Bundle, members []Member, step func(stage string)) (*Outcome, error) {
	step(StageCommit)
	active, err := c.gather(ctx, b, members)
	if err != nil {
		return nil, err
	}
	names := namesOf(active)
	step(StageCounts)
	first, err := shareAll(ctx, b, active, names, 1, nil)
	if err != nil {
		return nil, err
	}
	s, second, err := c.second(ctx, b, active, names, first, step)
	if err != nil {
		return nil, err
	}
	step(StageEndorse)
	table, rel, err := c.outcomeLocked(ctx, s, names, first, second)
	if err != nil {
		return nil, c.refusedLocked(ctx, b, err)
	}
	entry := enclave.Entry{Type: enclave.EntryRelease, Subject: canon.DigestOf(rel), By: c.Name(), Job: rel.Job, At: canon.At(c.cfg.Clock())}
	proof, err := c.announceLocked(ctx, b, s.dossier, entry)
	if err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.ReleaseLogged)
	signed := canon.Signed{Kind: enclave.KindRelease, Body: canon.MustMarshal(rel)}
	sigs := make([]canon.Signature, len(active))
	g, gctx := errgroup.WithContext(ctx)
	for i, m := range active {
		g.Go(func() (err error) {
			sigs[i], err = m.Endorse(gctx, b, *rel, proof, names, first, second)
			return able(m, err)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.ReleaseGathers)
	signed.Sigs = sigs
	sealed, err := c.sealTable(s.dossier, b, table, signed.Digest())
	if err != nil {
		return nil, err
	}
	return &Outcome{Release: signed, Sealed: sealed, Proof: proof}, nil
}

// second opens stage 2, where there is anything to open.
func (c *Custodian) second(ctx context.Context, b *enclave.Bundle, active []Member, names []string, first []canon.Signed, step func(string)) (*session, []canon.Signed, error) {
	c.mu.Lock()
	s, err := c.examine(ctx, b)
	var any bool
	if err == nil && s.dossier.Program == nil { // nodes open both stages in one go
		var counts []int64
		if counts, err = c.tally(ctx, s, 1, nil, names, first); err == nil {
			keep, _ := c.decide(s.dossier, counts)
			any = len(s.dossier.terms(2, keep)) > 0
		}
	}
	if err != nil {
		err = c.refused(ctx, b, err)
	}
	c.mu.Unlock()
	if err != nil || !any {
		return s, nil, err
	}
	step(StageValues)
	second, err := shareAll(ctx, b, active, names, 2, first)
	return s, second, err
}

func (c *Custodian) outcomeLocked(ctx context.Context, s *session, active []string, first, second []canon.Signed) (*enclave.Table, *enclave.Release, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outcome(ctx, s, active, first, second)
}

func (c *Custodian) announceLocked(ctx context.Context, b *enclave.Bundle, d *Dossier, entry enclave.Entry) (enclave.LogProof, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	proof, err := c.announce(ctx, entry)
	if err == nil {
		err = c.catchUp(ctx, d, proof)
	}
	if err != nil {
		return proof, c.refused(ctx, b, err)
	}
	return proof, nil
}

func (c *Custodian) refusedLocked(ctx context.Context, b *enclave.Bundle, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused(ctx, b, err)
}

// gather has the members commit. Whoever cannot be reached or refuses is left out and the others commit again under the
// smaller list, as long as a quorum remains; committing twice charges once. A leader that is left out itself cannot go on,
// but another could: that is no refusal.
func (c *Custodian) gather(ctx context.Context, b *enclave.Bundle, members []Member) ([]Member, error) {
	quorum := c.quorum(b)
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name(), b.Name()) })
	met := make([]error, len(members))
	var greetings sync.WaitGroup
	for i, m := range members {
		greetings.Go(func() { met[i] = c.meet(ctx, m) })
	}
	greetings.Wait()
	var lost []error
	var active []Member
	for i, err := range met {
		var fork *Refusal
		switch {
		case errors.As(err, &fork): // whoever it is that was shown another log
			return nil, c.refusedLocked(ctx, b, fork)
		case err != nil:
			lost = append(lost, err)
		default:
			active = append(active, members[i])
		}
	}
	for len(active) >= quorum {
		errs := make([]error, len(active))
		var wg sync.WaitGroup
		for i, m := range active {
			wg.Go(func() { errs[i] = m.Commit(ctx, b, namesOf(active)) })
		}
		wg.Wait()
		var willing []Member
		for i, err := range errs {
			if err == nil {
				willing = append(willing, active[i])
			} else {
				lost = append(lost, err)
			}
		}
		if len(willing) == len(active) {
			for _, err := range lost { // whoever keeps the lab running wants to know that a custodian is missing
				c.cfg.Logger.WarnContext(ctx, "a release goes on without a custodian", "plan", b.Plan.Digest(), "error", err)
			}
			return active, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		me := slices.IndexFunc(active, func(m Member) bool { return m.Name() == c.Name() })
		if me < 0 || errs[me] != nil && len(willing) >= quorum {
			var own error
			if me >= 0 {
				own = errs[me]
			}
			return nil, &refusal.UnavailableError{What: fmt.Sprintf("a leader: custodian %q, which does not take part itself,", c.Name()), Cause: own}
		}
		active = willing
	}
	return nil, &QuorumError{Have: len(active), Need: quorum, Causes: lost}
}

// meet finds out whether a member is there and follows the same log.
func (c *Custodian) meet(ctx context.Context, m Member) error {
	if m.Name() == c.Name() {
		return nil
	}
	text, err := m.Seen(ctx)
	if err != nil {
		return fmt.Errorf("custodian %q: %w", m.Name(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.compare(ctx, m.Name(), text)
}

func (c *Custodian) quorum(b *enclave.Bundle) int {
	var p enclave.Plan
	if b.Plan.Open(enclave.KindPlan, &p) == nil && p.Joint != nil {
		return mpc.Nodes // without one of them the others cannot go on: whoever is away is waited for
	}
	var m enclave.Manifest
	if b.Manifest.Open(enclave.KindManifest, &m) == nil {
		for _, s := range b.Keysets {
			var ks enclave.Keyset
			if s.Digest() == m.Keyset && s.Open(enclave.KindKeyset, &ks) == nil {
				return max(1, ks.Quorum) // only steers whom to ask: each custodian checks the quorum itself
			}
		}
	}
	return c.Roster().Quorum
}

func shareAll(ctx context.Context, b *enclave.Bundle, active []Member, names []string, stage int, first []canon.Signed) ([]canon.Signed, error) {
	sets := make([]canon.Signed, len(active))
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range active {
		g.Go(func() (err error) {
			sets[i], err = m.Share(ctx, b, stage, names, first)
			return able(m, err)
		})
	}
	return sets, g.Wait()
}

func (c *Custodian) sealTable(d *Dossier, b *enclave.Bundle, table *enclave.Table, rel enclave.Digest) ([]byte, error) {
	analyst, err := d.Roster.Signer(b.Plan, enclave.KindPlan, operators.RoleAnalyst)
	if err != nil {
		return nil, err
	}
	return keys.SealTo(analyst.HPKE, keys.TableInfo(rel), canon.MustMarshal(table))
}

func namesOf(members []Member) []string {
	out := make([]string, len(members))
	for i, m := range members {
		out[i] = m.Name()
	}
	return out
}
