package release

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
)

// Mirror is a custodian's own copy of the blobs, checked against their digests when they came in.
type Mirror interface {
	evaluator.Inputs
	// Fetch makes the blobs of a layout's vectors available here and checks them; it is quick when they already are.
	Fetch(ctx context.Context, keyset enclave.Digest, params string, layout *enclave.Layout, vectors []int) error
	// Damaged re-checks the blobs, names those that are no longer what they should be, and drops what was derived.
	Damaged(ctx context.Context, blobs []enclave.Digest) []enclave.Digest
	// Drop deletes the copies of a lineage's blobs.
	Drop(ctx context.Context, lineage enclave.Digest) error
}

// Member is a custodian as the gate and its peers call it.
type Member interface {
	Name() string
	// Records returns ledger records that a caller with the given heights lacks.
	Records(ctx context.Context, heights map[string]int64) ([]canon.Signed, error)
	// Seen returns the last checkpoint of the log that the custodian has followed, as it was signed; "" before the first.
	Seen(ctx context.Context) (string, error)
	// Commit checks the dossier, executes the plan and charges the budget.
	Commit(ctx context.Context, b *enclave.Bundle, active []string) error
	// Share gives the custodian's shares of a stage, once every active custodian has committed. Stage 2 needs stage 1's
	// shares of all active custodians and yields shares only for cells that pass the cohort rule.
	Share(ctx context.Context, b *enclave.Bundle, stage int, active []string, first []canon.Signed) (canon.Signed, error)
	// Endorse signs a release that agrees with the shares, after its log entry.
	Endorse(ctx context.Context, b *enclave.Bundle, r enclave.Release, proof enclave.LogProof, active []string, first, second []canon.Signed) (canon.Signature, error)
}

// Config is what a custodian works with. All fields but Clock and Logger are required.
type Config struct {
	Dir     string            // own durable state: ledger, stored shares, last seen checkpoint
	Signer  keys.Signer       // own signing key
	Keys    keys.Keyring      // own pieces
	Mirror  Mirror            // own copy of the blobs
	RootKey ed25519.PublicKey // the lab's root key, pinned
	Roster  canon.Signed      // roster to start with; a dossier may bring a later one
	Log     Log
	Build   BuildFunc
	Workers int  // goroutines for execution; 0 = 1
	Node    Node // this body's compute node; nil = joint plans are refused
	// Open decrypts what was encrypted to this custodian, such as keys of components; needed with Node.
	Open   func(info, sealed []byte) ([]byte, error)
	Clock  func() time.Time // nil = time.Now
	Logger *slog.Logger     // nil = slog.Default
}

// Custodian holds pieces of keysets and decides alone about each opening.
type Custodian struct {
	cfg    Config
	ledger *ledger

	roster  atomic.Pointer[operators.Roster] // replaced only under mu, by a later one that root signed
	seen    atomic.Pointer[seenFile]         // how far the log was followed, for those who do not wait for mu
	journal *journal

	mu       sync.Mutex // serialises everything that decides; peers' Records calls do not take it
	follow   *follower
	peers    map[string]Member
	sessions map[enclave.Digest]*session
	turn     int64                              // counts uses of sessions
	dealt    map[enclave.Digest]*enclave.Keyset // keysets that were dealt to this custodian
	purged   map[enclave.Digest]bool            // lineages that were disposed of and of which nothing is left here
	greeted  bool
}

// New opens a custodian's state.
func New(cfg Config) (*Custodian, error) {
	switch {
	case cfg.Dir == "", cfg.Signer == nil, cfg.Keys == nil, cfg.Mirror == nil, cfg.RootKey == nil, cfg.Log == nil, cfg.Build == nil:
		return nil, errors.New("release: a required field of the custodian's configuration is missing")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := durable.MkdirAll(filepath.Join(cfg.Dir, "shares"), 0o700); err != nil {
		return nil, fmt.Errorf("custodian %q: %w", cfg.Signer.Name(), err)
	}
	for _, dir := range []string{cfg.Dir, filepath.Join(cfg.Dir, "shares")} {
		if err := durable.Sweep(dir); err != nil {
			return nil, fmt.Errorf("custodian %q: %w", cfg.Signer.Name(), err)
		}
	}
	c := &Custodian{cfg: cfg, peers: map[string]Member{}, sessions: map[enclave.Digest]*session{}}
	err := c.openRoster()
	if err != nil {
		return nil, fmt.Errorf("custodian %q: %w", cfg.Signer.Name(), err)
	}
	if c.follow, err = openFollower(cfg.Dir, cfg.Signer.Name(), cfg.Log); err != nil {
		return nil, fmt.Errorf("custodian %q: %w", cfg.Signer.Name(), err)
	}
	c.noteSeen()
	if c.journal, err = openJournal(cfg.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("custodian %q: %w", cfg.Signer.Name(), err), c.follow.close())
	}
	if c.ledger, err = openLedger(cfg.Dir, cfg.Signer, c.key); err != nil {
		return nil, errors.Join(fmt.Errorf("custodian %q: %w", cfg.Signer.Name(), err), c.journal.close(), c.follow.close())
	}
	if err := c.openDealt(); err != nil {
		return nil, errors.Join(fmt.Errorf("custodian %q: %w", cfg.Signer.Name(), err), c.Close())
	}
	return c, nil
}

// key finds a custodian's verification key.
func (c *Custodian) key(name string) (ed25519.PublicKey, error) {
	p, ok := c.Roster().Find(name)
	if !ok || p.Role != operators.RoleCustodian {
		return nil, fmt.Errorf("%q is not a custodian of the roster", name)
	}
	return p.Key(), nil
}

// Connect tells the custodian how to reach its peers, directly and not through the control plane.
func (c *Custodian) Connect(peers ...Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range peers {
		if p.Name() != c.Name() {
			c.peers[p.Name()] = p
		}
	}
}

// Close ends the custodian's use of its files.
func (c *Custodian) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.sessions)
	return errors.Join(c.ledger.close(), c.journal.close(), c.follow.close())
}

// Name is the custodian's name in the roster.
func (c *Custodian) Name() string { return c.cfg.Signer.Name() }

// Records implements Member. It is all a peer needs to merge ledgers or to restore a lost one.
func (c *Custodian) Records(_ context.Context, heights map[string]int64) ([]canon.Signed, error) {
	return c.ledger.since(heights)
}

// settle makes sure that the ledger is not an old copy before anything is written to it. Peers hold this custodian's
// records too: the first time, it takes over what they have. If the log then still shows charges that this custodian
// announced and its ledger lacks, all peers must be heard; what none of them has was announced and never committed.
func (c *Custodian) settle(ctx context.Context) error {
	if err := c.ledger.healthy(); err != nil {
		return err
	}
	if err := c.readLog(ctx); err != nil {
		return err
	}
	lacks := func() bool {
		return slices.ContainsFunc(c.follow.own, func(d enclave.Digest) bool { return !c.ledger.has(d) })
	}
	if c.greeted && !lacks() {
		c.follow.own = nil
		return nil
	}
	var silent error
	for name, peer := range c.peers {
		records, err := peer.Records(ctx, c.ledger.heights())
		if err != nil {
			silent = errors.Join(silent, fmt.Errorf("custodian %q: %w", name, err))
			continue
		}
		if err := c.ledger.commit(records...); err != nil {
			return refuse(ErrLedger, "records from %q", name).Because(err)
		}
	}
	if silent != nil && lacks() {
		return refuse(ErrLedger, "the log shows charges of this custodian that its ledger lacks, as after a restore; it needs all its peers once").
			Because(&refusal.UnavailableError{What: "a peer", Cause: silent})
	}
	c.follow.own, c.greeted = nil, true
	return nil
}

// examine checks a dossier against everything this custodian knows, now. Every call of a release runs it again, so a
// revocation between two stages stops the second.
func (c *Custodian) examine(ctx context.Context, b *enclave.Bundle) (*session, error) {
	d, err := Check(b, c.cfg.RootKey, c.cfg.Build, c.cfg.Clock())
	if err != nil {
		return nil, err
	}
	if err := c.hold(ctx, b.Roster, d); err != nil {
		return nil, err
	}
	return c.session(ctx, d)
}

// hold holds a dossier, in itself sound, against what this custodian has seen: rosters, the log, disposals, refreshes.
func (c *Custodian) hold(ctx context.Context, roster canon.Signed, d *Dossier) error {
	if known := c.Roster().Serial; d.Roster.Serial < known {
		return refuse(ErrDossier, "roster %d is older than %d, which is known here", d.Roster.Serial, known)
	}
	if err := c.takeRoster(roster, d.Roster); err != nil {
		return err
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if err := c.follow.check(d.Checkpoint); err != nil {
		return refuse(ErrLogFork, "proofs lead to another log").Because(err)
	}
	if err := c.current(ctx, d); err != nil {
		return err
	}
	if r := c.withheld(d); r != nil {
		return r
	}
	if !slices.Contains(d.Keyset.Custodians, c.Name()) {
		return refuse(ErrForeignKeyset, "keyset %s was not dealt to this custodian", d.KeysetSum.Short())
	}
	return nil
}

// execute computes the plan from the custodian's own mirror and compares the digest.
func (c *Custodian) execute(ctx context.Context, d *Dossier) (*session, error) {
	if d.Program != nil {
		return c.prepareJoint(ctx, d)
	}
	params, err := he.Compile(d.Keyset.Params)
	if err != nil || d.Plan.Params != d.Keyset.Params {
		return nil, refuse(ErrPlanMismatch, "plan is for parameter set %q, keyset for %q", d.Plan.Params, d.Keyset.Params).Because(err)
	}
	inputs, vectors := d.Layout.Inputs(d.Terms)
	if err := c.cfg.Mirror.Fetch(ctx, d.KeysetSum, d.Keyset.Params, d.Layout, vectors); err != nil {
		if errors.Is(err, enclave.ErrBlob) || errors.Is(err, evaluator.ErrBlobFormat) {
			return nil, refuse(ErrForeignKeyset, "a blob is not what the manifest says").Because(err)
		}
		return nil, fmt.Errorf("mirroring inputs: %w", err)
	}
	cts, err := evaluator.Evaluate(ctx, params.Params, d.Layout, d.Terms, c.cfg.Mirror, max(1, c.cfg.Workers), nil)
	if err != nil {
		return nil, fmt.Errorf("executing plan %s: %w", d.PlanDigest.Short(), err)
	}
	if got := evaluator.OutputDigest(cts); got != d.Receipt.Output {
		r := refuse(ErrOutput, "receipt of node %q says %s, this custodian computes %s", d.Receipt.By, d.Receipt.Output.Short(), got.Short())
		if bad := c.cfg.Mirror.Damaged(ctx, inputs); len(bad) > 0 {
			r.Text += fmt.Sprintf("; this custodian's own copies of %v are damaged and must be fetched again", bad)
		}
		return nil, r
	}
	s := &session{cts: cts, output: d.Receipt.Output, own: map[int]*ShareSet{}}
	for _, t := range d.Terms {
		s.keys = append(s.keys, d.Plan.NoiseKey(&d.Manifest, t))
	}
	return s, nil
}

// Commit implements Member.
func (c *Custodian) Commit(ctx context.Context, b *enclave.Bundle, active []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.examine(ctx, b)
	if err == nil {
		err = c.charge(ctx, s, active)
	}
	if err != nil {
		return c.refused(ctx, b, err)
	}
	return nil
}

func (c *Custodian) checkActive(d *Dossier, active []string) *Refusal {
	if d.Program != nil {
		if r := d.allNodes(active); r != nil {
			return r
		}
	}
	if len(active) < d.Keyset.Quorum || !slices.IsSorted(active) || len(slices.Compact(slices.Clone(active))) != len(active) || !slices.Contains(active, c.Name()) {
		return refuse(ErrNotCommitted, "active custodians %q are not a sorted quorum of %d that includes this one", active, d.Keyset.Quorum)
	}
	for _, name := range active {
		if !slices.Contains(d.Keyset.Custodians, name) {
			return refuse(ErrNotCommitted, "%q is not a custodian of keyset %s", name, d.KeysetSum.Short())
		}
	}
	return nil
}

// merge takes over the active peers' records, and this custodian's own that only they still have. It makes sure that
// they follow the same log.
func (c *Custodian) merge(ctx context.Context, active []string) error {
	for _, name := range active {
		if name == c.Name() {
			continue
		}
		peer := c.peers[name]
		if peer == nil {
			return fmt.Errorf("no connection to custodian %q", name)
		}
		records, err := peer.Records(ctx, c.ledger.heights())
		if err != nil {
			return fmt.Errorf("reading the ledger of custodian %q: %w", name, err)
		}
		if err := c.ledger.commit(records...); err != nil {
			return refuse(ErrLedger, "records from %q", name).Because(err)
		}
		text, err := peer.Seen(ctx)
		if err != nil {
			return fmt.Errorf("asking custodian %q what log it sees: %w", name, err)
		}
		if err := c.compare(ctx, name, text); err != nil {
			return err
		}
	}
	return nil
}

func (c *Custodian) charge(ctx context.Context, s *session, active []string) error {
	d := s.dossier
	if r := c.checkActive(d, active); r != nil {
		return r
	}
	if d.Program != nil {
		if err := c.cfg.Node.Check(ctx, &d.Receipt); err != nil {
			return err
		}
	}
	if err := c.merge(ctx, active); err != nil {
		return err
	}
	charge := &Charge{Keyset: d.KeysetSum, Epoch: d.Keyset.Epoch, Scenario: d.Grant.Scenario}
	for _, o := range d.Others {
		charge.Also = append(charge.Also, AlsoCharged{Keyset: o.KeysetDigest, Epoch: o.Keyset.Epoch})
	}
	newOpenings, r := c.price(s, charge)
	if r != nil {
		return r
	}
	return c.pay(ctx, d, charge, newOpenings)
}

// pay commits a charge, after its log entry, unless this custodian has committed it before.
func (c *Custodian) pay(ctx context.Context, d *Dossier, charge *Charge, newOpenings int64) error {
	if old, ok := c.ledger.charged(d.PlanDigest); ok && old.by[c.Name()] {
		return nil // a repeated request: committed before
	}
	if r := c.afford(d, charge.DatasetMicro, charge.ScenarioMicro, newOpenings); r != nil {
		return r
	}
	rec, err := c.ledger.prepare(Record{Type: recordCharge, Plan: d.PlanDigest, Job: d.Receipt.Job, Charge: charge, At: canon.At(c.cfg.Clock())})
	if err != nil {
		return err
	}
	entry := enclave.Entry{Type: enclave.EntryCharge, Subject: rec.Digest(), By: c.Name(), Job: d.Receipt.Job, At: canon.At(c.cfg.Clock())}
	proof, err := c.announce(ctx, entry)
	if err != nil {
		return err
	}
	// Before the log is read on, which may fail: a charge that was announced and is not in the ledger would have all
	// peers asked for it.
	failpoint.Hit(failpoint.ChargeLogged)
	if err := c.ledger.commit(rec); err != nil {
		return err
	}
	failpoint.Hit(failpoint.ChargeStored)
	return c.catchUp(ctx, d, proof)
}

// price lists what the plan opens and what it costs beyond what was asked before. A measure whose every noise key the
// dataset has already paid for in this epoch is free for the dataset; for a scenario, once that scenario has paid.
func (c *Custodian) price(s *session, charge *Charge) (newOpenings int64, _ *Refusal) {
	d := s.dossier
	datasetPays := make([]bool, len(d.Plan.Measures))
	scenarioPays := make([]bool, len(d.Plan.Measures))
	counted := map[enclave.Digest]bool{}
	for i, t := range d.Terms {
		have := c.ledger.paid(s.keys[i], d.KeysetSum, d.Keyset.Quorum, d.Grant.Scenario)
		if !have.ciphertext.IsZero() && have.ciphertext != s.cts[i].Digest {
			return 0, refuse(ErrSecondCiphertext, "term %d: ciphertext %s, committed was %s", i, s.cts[i].Digest.Short(), have.ciphertext.Short())
		}
		if !have.byDataset {
			datasetPays[t.Measure] = true
		}
		if !have.counted && !counted[s.keys[i]] {
			counted[s.keys[i]] = true
			newOpenings++
		}
		if !have.byScenario {
			scenarioPays[t.Measure] = true
		}
		charge.Opens = append(charge.Opens, Opening{Key: s.keys[i], Ciphertext: s.cts[i].Digest})
	}
	for i, me := range d.Plan.Measures {
		if datasetPays[i] {
			charge.DatasetMicro += me.EpsilonMicro
		}
		if scenarioPays[i] {
			charge.ScenarioMicro += me.EpsilonMicro
		}
	}
	return newOpenings, nil
}

// afford checks the budgets of scenario, of every dataset and of the scenario on it, and the cap on openings. What another
// custodian has charged for the plan is among what is spent, and is not asked for again.
func (c *Custodian) afford(d *Dossier, dataset, scenario, openings int64) *Refusal {
	before, _ := c.ledger.charged(d.PlanDigest)
	for _, o := range d.datasets() {
		name := o.Keyset.Dataset
		_, limit, ok := d.Grant.Dataset(name)
		if !ok {
			return refuse(ErrUnauthorized, "grant does not cover dataset %q", name)
		}
		spent, ofScenario, all := c.ledger.spent(o.KeysetDigest, o.Keyset.Epoch, d.Grant.Scenario)
		for _, b := range []struct {
			what               string
			spent, cost, limit int64
			on                 account
		}{
			{"dataset " + name, spent, dataset, o.Keyset.BudgetMicro, account{keyset: o.KeysetDigest, epoch: o.Keyset.Epoch}},
			{"the scenario on dataset " + name, ofScenario, scenario, limit.EpsilonMicro, account{keyset: o.KeysetDigest, epoch: o.Keyset.Epoch, scenario: d.Grant.Scenario}},
			{"the scenario", all, scenario, d.Grant.EpsilonMicro, account{scenario: d.Grant.Scenario}},
		} {
			if max(0, b.cost-before.on[b.on]) > b.limit-b.spent {
				return refuse(ErrBudget, "%s has ε %s of %s left, this job costs %s", b.what, micro(b.limit-b.spent), micro(b.limit), micro(b.cost))
			}
		}
	}
	set, err := enclave.LookupParams(d.Keyset.Params)
	if err != nil {
		return refuse(ErrPlanMismatch, "parameters").Because(err)
	}
	limitOpen := set.OpeningCap(len(d.Keyset.Pieces))
	if used := c.ledger.openings(d.KeysetSum); openings > limitOpen-used {
		return refuse(ErrOpenings, "keyset %s may open %d more ciphertexts, this job wants %d; the owner must deal a new keyset", d.KeysetSum.Short(), limitOpen-used, openings)
	}
	return nil
}

func micro(v int64) string { return enclave.FormatScaled(v, 6) }
