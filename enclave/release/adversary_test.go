package release_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
)

// commit asks one custodian whether it would take part.
func (w *world) commit(b *enclave.Bundle) error {
	return w.custodians["cust-a"].Commit(w.t.Context(), b, []string{"cust-a", "cust-b"})
}

// alterPlan re-signs a changed plan with the analyst's own key, so that only the rebuilding can notice.
func (w *world) alterPlan(b *enclave.Bundle, change func(*enclave.Plan)) {
	var p enclave.Plan
	w.check(b.Plan.Open(enclave.KindPlan, &p))
	change(&p)
	w.plan(b, &p)
}

func TestCustodianRefusesAPlanThatDoesNotRebuild(t *testing.T) {
	w := ready(t)
	for name, change := range map[string]func(*enclave.Plan){
		"less noise":        func(p *enclave.Plan) { p.Measures[0].EpsilonMicro *= 1000 },
		"smaller cohort":    func(p *enclave.Plan) { p.MinCohort = 1 },
		"no margin":         func(p *enclave.Plan) { p.MarginMilli = 0 },
		"smaller delta":     func(p *enclave.Plan) { p.Measures[1].Delta = 1 },
		"narrower cells":    func(p *enclave.Plan) { p.Keep = []enclave.Run{{From: 2, Count: 1}} },
		"all in one stage":  func(p *enclave.Plan) { p.Measures[1].Stage = 1 },
		"fewer entity rows": func(p *enclave.Plan) { p.EntityRows = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			b := w.job(cubeQuery, 2_000_000)
			w.alterPlan(b, change)
			w.wantRefusal(w.commit(b), release.ErrPlanMismatch)
		})
	}
}

func TestCustodianRefusesWithoutAuthority(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing after another, in many cases")
	}
	for name, spoil := range map[string]func(*world, *enclave.Bundle){
		"missing approval": func(w *world, b *enclave.Bundle) { b.Statements = b.Statements[:len(b.Statements)-1] },
		"self-made approval": func(w *world, b *enclave.Bundle) {
			// An official's name under the analyst's key, in place of the second approval.
			last := len(b.Statements) - 1
			var d operators.Decision
			w.check(b.Statements[last].Open(operators.KindDecision, &d))
			forged := w.sign("analyst", operators.KindDecision, d)
			forged.Sigs[0].By = "official-2"
			b.Statements[last] = forged
		},
		"expired": func(w *world, b *enclave.Bundle) { w.pass(3 * 365 * 24 * time.Hour) },
		"revoked": func(w *world, b *enclave.Bundle) {
			b.Statements = append(b.Statements, w.decide("official-1", w.scenario, operators.Revoke))
			w.tick()
		},
		"suspended": func(w *world, b *enclave.Bundle) {
			b.Statements = append(b.Statements, w.decide("official-2", w.scenario, operators.Suspend))
			w.tick()
		},
		"withheld":       func(w *world, b *enclave.Bundle) { w.decide("official-1", w.scenario, operators.Revoke); w.tick() },
		"plan by nobody": func(w *world, b *enclave.Bundle) { b.Plan = w.sign("steward", enclave.KindPlan, planOf(w, b)) },
		"wider grant": func(w *world, b *enclave.Bundle) {
			var g operators.Grant
			w.check(b.Grant.Open(operators.KindGrant, &g))
			g.MinCohort = 1
			b.Grant = w.sign("lab", operators.KindGrant, g)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := ready(t)
			b := w.job(cubeQuery, 2_000_000)
			spoil(w, b)
			w.prove(b)
			w.wantRefusal(w.commit(b), release.ErrUnauthorized)
		})
	}
}

func planOf(w *world, b *enclave.Bundle) *enclave.Plan {
	var p enclave.Plan
	w.check(b.Plan.Open(enclave.KindPlan, &p))
	return &p
}

// A revocation that comes between two stages stops the second.
func TestRevocationBetweenStagesStopsTheRelease(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	_, err := w.custodians["cust-a"].Lead(t.Context(), b, w.members(custodianNames...), func(stage string) {
		if stage == release.StageValues { // counts are open, nothing else is
			b.Statements = append(slices.Clone(b.Statements), w.decide("official-1", w.scenario, operators.Revoke))
			w.tick()
		}
	})
	if !errors.Is(err, release.ErrUnauthorized) {
		t.Errorf("revoked midway: %v", err)
	}
}

func TestCustodianRefusesAFalseReceipt(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing after another, in many cases")
	}
	for name, c := range map[string]struct {
		rule  error
		alter func(*enclave.Receipt)
	}{
		"other output":  {release.ErrOutput, func(r *enclave.Receipt) { r.Output[0] ^= 1 }},
		"other worker":  {release.ErrReceipt, func(r *enclave.Receipt) { r.Worker = canon.Sum([]byte("another program")) }},
		"other plan":    {release.ErrReceipt, func(r *enclave.Receipt) { r.Plan[3] ^= 1 }},
		"other inputs":  {release.ErrReceipt, func(r *enclave.Receipt) { r.Inputs[0][3] ^= 1 }},
		"fewer terms":   {release.ErrReceipt, func(r *enclave.Receipt) { r.Terms-- }},
		"not by a node": {release.ErrReceipt, func(r *enclave.Receipt) { r.By = "lab" }},
	} {
		t.Run(name, func(t *testing.T) {
			w := ready(t)
			b := w.job(cubeQuery, 2_000_000)
			w.receipt(b, planOf(w, b), c.alter)
			w.wantRefusal(w.commit(b), c.rule)
		})
	}
}

func TestCustodianRefusesWhatIsNotInTheLog(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	for i := range b.Proofs {
		bad := *b
		bad.Proofs = slices.Delete(slices.Clone(b.Proofs), i, i+1)
		w.wantRefusal(w.commit(&bad), release.ErrNotLogged)
	}
	bad := *b
	bad.Proofs = slices.Clone(b.Proofs)
	bad.Proofs[0].Index++
	w.wantRefusal(w.commit(&bad), release.ErrNotLogged)
}

func TestCustodianFailsClosedWhenTheLogIsDown(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	w.check(w.custodians["cust-a"].Close())
	log := &logView{Log: w.log, down: true}
	c := w.openCustodianOn("cust-a", log)
	w.connect()
	if err := w.commit(b); err == nil || c.Charges() != 0 {
		t.Errorf("without the log: %v, %d charges", err, c.Charges())
	}
	log.down = false
	w.check(w.commit(b))
}

// A log that was rewritten, with the same keys, is not the one that the custodian has followed.
func TestCustodianRefusesAForkedLog(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	w.check(w.commit(b))
	w.check(w.custodians["cust-a"].Close())
	w.check(os.Remove(filepath.Join(w.dir, "cust-a", "state", "log-entries"))) // its own copy of what it read
	other := ready(t)                                                          // another history
	w.openCustodianOn("cust-a", &mixedLog{Log: w.log, leaves: other.log})
	w.connect()
	w.wantRefusal(w.commit(b), release.ErrLogFork)
}

// mixedLog answers with checkpoints of one log and entries of another.
type mixedLog struct {
	*audit.Log
	leaves *audit.Log
}

func (l *mixedLog) Checkpoint(ctx context.Context) (string, error) {
	text, _, err := l.Log.Checkpoint(ctx)
	return text, err
}

func (l *mixedLog) Leaves(ctx context.Context, from, to int64) ([][]byte, error) {
	_, cp, err := l.leaves.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	view := logView{Log: l.leaves}
	out, err := view.Leaves(ctx, from, min(to, cp.Size))
	for err == nil && int64(len(out)) < to-from {
		out = append(out, out[len(out)-1])
	}
	return out, err
}

func TestBudgets(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing after another, in many cases")
	}
	queries := []string{"SELECT COUNT(*) FROM water", "SELECT town, COUNT(*) FROM water GROUP BY town", "SELECT COUNT(*) FROM water WHERE town = 'north'", "SELECT COUNT(*) FROM water WHERE town = 'south'",
		"SELECT COUNT(*) FROM water WHERE town <> 'south'"}
	t.Run("dataset", func(t *testing.T) {
		w := newWorld(t)
		w.register("water", "steward", agency, 3)
		w.approve(20_000_000, map[string]string{"water": "steward"})
		_, _, err := w.open(w.job(queries[0], 2_000_000), custodianNames...)
		w.check(err)
		w.wantRefusal(w.commit(w.job(queries[1], 2_000_000)), release.ErrBudget)
		_, _, err = w.open(w.job(queries[0], 2_000_000), custodianNames...) // the same question costs nothing
		w.check(err)
		w.check(w.commit(w.job(queries[1], 1_000_000)))
	})
	t.Run("scenario", func(t *testing.T) {
		w := newWorld(t)
		w.register("water", "steward", agency, 20)
		w.approve(3_000_000, map[string]string{"water": "steward"})
		w.check(w.commit(w.job(queries[0], 2_000_000)))
		w.wantRefusal(w.commit(w.job(queries[1], 2_000_000)), release.ErrBudget)
	})
	// Separate ledgers of rotating pairs would spend half as much again: A and B would each see two of three charges.
	t.Run("rotating quorums", func(t *testing.T) {
		w := newWorld(t)
		w.register("water", "steward", agency, 4)
		w.approve(20_000_000, map[string]string{"water": "steward"})
		pairs := [][]string{{"cust-a", "cust-b"}, {"cust-b", "cust-c"}, {"cust-a", "cust-c"}}
		for i, pair := range pairs[:2] {
			_, _, err := w.open(w.job(queries[i], 2_000_000), pair...)
			w.check(err)
		}
		_, _, err := w.open(w.job(queries[3], 2_000_000), pairs[2]...) // a cell of the second question: costs nothing
		w.check(err)
		_, _, err = w.open(w.job(queries[4], 2_000_000), pairs[2]...)
		w.wantRefusal(err, release.ErrBudget)
		if spent := w.custodians["cust-a"].Spent(w.manifest("water").Keyset, 1); spent != 4_000_000 {
			t.Errorf("cust-a's merged ledger shows %d spent", spent)
		}
	})
	t.Run("openings", func(t *testing.T) {
		w := ready(t)
		set, err := enclave.LookupParams("bgv13-t36")
		w.check(err)
		keyset := w.manifest("water").Keyset
		charge := release.Charge{Keyset: keyset, Epoch: 1, Scenario: w.scenario}
		for i := range set.OpeningCap(3) - 1 {
			charge.Opens = append(charge.Opens, release.Opening{Key: canon.Digest{1, byte(i), byte(i >> 8), byte(i >> 16)}, Ciphertext: canon.Digest{2}})
		}
		w.check(w.custodians["cust-a"].ForceCharge(canon.Digest{3}, charge, w.at()))
		w.check(w.commit(w.job(queries[0], 1_000_000)))
		w.wantRefusal(w.commit(w.job(queries[2], 1_000_000)), release.ErrOpenings)
	})
}

// One corrupt custodian charges a question before anybody asks it: nothing, or to another dataset, or to another scenario.
// What the others then charge counts all the same.
func TestCorruptCustodianCannotPayForAQuestion(t *testing.T) {
	const query, price, budget = "SELECT COUNT(*) FROM water", 2_000_000, 3
	charges := map[string]func(c *release.Charge){
		"nothing":          func(*release.Charge) {},
		"another dataset":  func(c *release.Charge) { c.Keyset, c.DatasetMicro, c.ScenarioMicro = canon.Digest{1}, price, price },
		"another epoch":    func(c *release.Charge) { c.Epoch, c.DatasetMicro, c.ScenarioMicro = 2, price, price },
		"another scenario": func(c *release.Charge) { c.Scenario, c.DatasetMicro, c.ScenarioMicro = canon.Digest{1}, 0, price },
		"less than it owes": func(c *release.Charge) {
			c.DatasetMicro, c.ScenarioMicro = -price, -price
		},
	}
	for what, alter := range charges {
		for _, same := range []bool{true, false} { // for the plan itself, or for another plan that asks the same
			t.Run(fmt.Sprintf("%s, same plan %v", what, same), func(t *testing.T) {
				if testing.Short() && what != "nothing" {
					t.Skip("each makes a lab of its own")
				}
				w := newWorld(t)
				w.register("water", "steward", agency, budget)
				w.approve(20_000_000, map[string]string{"water": "steward"})
				b := w.job(query, price)
				p, m := planOf(w, b), w.manifest("water")
				_, terms, err := p.Expand(m)
				w.check(err)
				charge := release.Charge{Keyset: m.Keyset, Epoch: 1, Scenario: w.scenario, Opens: []release.Opening{{Key: p.NoiseKey(m, terms[0]), Ciphertext: w.evaluate(m, p)[0].Digest}}}
				alter(&charge)
				plan := canon.Digest{9}
				if same {
					plan = b.Plan.Digest()
				}
				w.check(w.custodians["cust-c"].ForceCharge(plan, charge, w.at()))
				_, _, err = w.open(b, "cust-a", "cust-c")
				w.check(err)
				if spent := w.custodians["cust-a"].Spent(m.Keyset, 1); spent != price {
					t.Errorf("cust-a's ledger shows %d spent, want %d", spent, price)
				}
				_, _, err = w.open(w.job("SELECT town, COUNT(*) FROM water GROUP BY town", price), "cust-a", "cust-b")
				w.wantRefusal(err, release.ErrBudget)
			})
		}
	}
}

func TestCustodianRefusesASecondCiphertextForANoiseKey(t *testing.T) {
	w := ready(t)
	b := w.job("SELECT COUNT(*) FROM water", 2_000_000)
	p, m := planOf(w, b), w.manifest("water")
	_, terms, err := p.Expand(m)
	w.check(err)
	w.check(w.custodians["cust-b"].ForceCharge(canon.Digest{9}, release.Charge{Keyset: m.Keyset, Epoch: 1, Scenario: w.scenario,
		Opens: []release.Opening{{Key: p.NoiseKey(m, terms[0]), Ciphertext: canon.Digest{8}}}}, w.at()))
	// cust-a learns of the other ciphertext from cust-b's ledger.
	w.wantRefusal(w.commit(b), release.ErrSecondCiphertext)
}

// A plan that was executed comes again with a receipt that says something else, for the release to name.
func TestCustodianRefusesASecondReceiptThatLies(t *testing.T) {
	w := ready(t)
	b := w.job("SELECT COUNT(*) FROM water", 2_000_000)
	w.check(w.commit(b))
	again := *b
	w.receipt(&again, planOf(w, b), func(r *enclave.Receipt) { r.Output = canon.Digest{1} })
	w.wantRefusal(w.commit(&again), release.ErrOutput)
	w.check(w.commit(b))
}

// backup saves a custodian's folder as it is now. The function that it returns puts it back and opens it again.
func (w *world) backup(name string) (restore func() *release.Custodian) {
	w.t.Helper()
	state, saved := filepath.Join(w.dir, name, "state"), filepath.Join(w.t.TempDir(), "state")
	w.check(w.custodians[name].Close())
	w.check(exec.Command("cp", "-a", state, saved).Run())
	open := func() *release.Custodian {
		c := w.openCustodian(name)
		w.connect()
		return c
	}
	open()
	return func() *release.Custodian {
		w.check(w.custodians[name].Close())
		w.check(os.RemoveAll(state))
		w.check(exec.Command("cp", "-a", saved, state).Run())
		return open()
	}
}

// A custodian put back from an old backup has forgotten a charge; its peers have not.
func TestRestoredCustodianMergesItsLedger(t *testing.T) {
	w := newWorld(t)
	w.register("water", "steward", agency, 3)
	w.approve(20_000_000, map[string]string{"water": "steward"})
	restore := w.backup("cust-a")
	_, _, err := w.open(w.job("SELECT COUNT(*) FROM water", 2_000_000), "cust-a", "cust-b")
	w.check(err)
	restore()
	if n := w.custodians["cust-a"].Charges(); n != 0 {
		t.Fatalf("the backup has %d charges", n)
	}
	err = w.commit(w.job("SELECT town, COUNT(*) FROM water GROUP BY town", 2_000_000))
	w.wantRefusal(err, release.ErrBudget)
	if n := w.custodians["cust-a"].Charges(); n != 1 {
		t.Errorf("the restored custodian has %d charges of its own, want the 1 that its peer kept", n)
	}
}

// Restored while the only peer that knows is away, it must wait: the log shows a charge that its ledger lacks.
func TestRestoredCustodianWaitsForThePeerThatKnows(t *testing.T) {
	w := newWorld(t)
	w.register("water", "steward", agency, 3)
	w.approve(20_000_000, map[string]string{"water": "steward"})
	restore := w.backup("cust-a")
	_, _, err := w.open(w.job("SELECT COUNT(*) FROM water", 2_000_000), "cust-a", "cust-b")
	w.check(err)
	c := restore()
	away := errors.New("away")
	gone := &faulty{Member: w.custodians["cust-b"], records: func() error { return away }}
	c.Connect(gone, w.custodians["cust-c"])
	b := w.job("SELECT COUNT(*) FROM water WHERE town = 'north'", 500_000)
	if err := c.Commit(t.Context(), b, []string{"cust-a", "cust-c"}); !errors.Is(err, release.ErrLedger) || !errors.Is(err, away) || c.Charges() != 0 {
		t.Errorf("behind its own log entries it answers %v, with %d charges", err, c.Charges())
	}
	away = nil
	w.check(c.Commit(t.Context(), b, []string{"cust-a", "cust-c"}))
	if n := c.Charges(); n != 2 {
		t.Errorf("%d own charges after the peer is back, want 2", n)
	}
}

// The cheating custodian alters one share in stage 1 or 2. Whoever holds the same piece names it.
func TestCheatingCustodianIsNamed(t *testing.T) {
	for stage := 1; stage <= 2; stage++ {
		w := ready(t)
		b := w.job(cubeQuery, 2_000_000)
		members := w.members(custodianNames...)
		calls := 0
		members[1] = &faulty{Member: members[1], shares: func(s canon.Signed) canon.Signed {
			if calls++; calls != stage {
				return s
			}
			var set release.ShareSet
			w.check(s.Open(release.KindShares, &set))
			set.Pieces[0].Shares = bytes.Clone(set.Pieces[0].Shares)
			set.Pieces[0].Shares[5] ^= 1
			return w.sign("cust-b", release.KindShares, set)
		}}
		// cust-c holds the altered piece, or cust-a does: one of them compares it with its own.
		var named bool
		for _, lead := range []string{"cust-a", "cust-c"} {
			calls = 0
			_, err := w.custodians[lead].Lead(t.Context(), b, members, nil)
			if !errors.Is(err, release.ErrCrossCheck) {
				t.Fatalf("stage %d: an altered share gives %v", stage, err)
			}
			var e *release.CrossCheckError
			if errors.As(err, &e) && slices.Equal(e.Accused, []string{"cust-b"}) && e.By != "cust-b" {
				named = true
			} else if e == nil || !slices.Contains(e.Accused, "cust-b") {
				t.Errorf("stage %d: %v does not accuse cust-b", stage, err)
			}
		}
		if !named {
			t.Errorf("stage %d: nobody named the cheater", stage)
		}
	}
}

// A forged share set: signed by another, for another plan, or with pieces that its author does not hold.
func TestForgedShareSetsAreRefused(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	for name, forge := range map[string]func(*release.ShareSet) string{
		"another's signature": func(s *release.ShareSet) string { return "cust-c" },
		"another plan":        func(s *release.ShareSet) string { s.Plan[0] ^= 1; return "cust-b" },
		"fewer pieces":        func(s *release.ShareSet) string { s.Pieces = s.Pieces[:1]; return "cust-b" },
		"another's piece":     func(s *release.ShareSet) string { s.Pieces[0].Piece = 1; return "cust-b" },
		"short shares":        func(s *release.ShareSet) string { s.Pieces[0].Shares = s.Pieces[0].Shares[1:]; return "cust-b" },
		"fewer terms":         func(s *release.ShareSet) string { s.Terms = s.Terms[1:]; return "cust-b" },
		"duplicate piece":     func(s *release.ShareSet) string { s.Pieces[1] = s.Pieces[0]; return "cust-b" },
	} {
		t.Run(name, func(t *testing.T) {
			members := w.members(custodianNames...)
			members[1] = &faulty{Member: members[1], shares: func(s canon.Signed) canon.Signed {
				var set release.ShareSet
				w.check(s.Open(release.KindShares, &set))
				by := forge(&set)
				out := w.sign(by, release.KindShares, set)
				return out
			}}
			if _, err := w.custodians["cust-a"].Lead(t.Context(), b, members, nil); !errors.Is(err, release.ErrCrossCheck) {
				t.Errorf("forged shares give %v", err)
			}
		})
	}
}

// The malicious agency wants to open the water agency's rows through an approved scenario on its own data.
func TestMaliciousAgencyLearnsNothingOfAnother(t *testing.T) {
	const evilQuery = "SELECT COUNT(*) FROM evil"
	setup := func(t *testing.T) *world {
		w := newWorld(t)
		w.register("water", "steward", agency, 20)
		w.register("evil", "rival-steward", rival, 20)
		w.approve(20_000_000, map[string]string{"water": "steward", "evil": "rival-steward"})
		return w
	}
	republish := func(w *world, change func(*enclave.Manifest)) {
		m := *w.manifest("evil")
		change(&m)
		w.manifests["evil"] = w.sign("rival-steward", enclave.KindManifest, m)
		w.announce(enclave.EntryManifest, w.manifests["evil"].Digest())
	}
	t.Run("another's keyset", func(t *testing.T) {
		w := setup(t)
		b := w.job(evilQuery, 1_000_000)
		m := *w.manifest("evil")
		water := w.manifest("water")
		m.Keyset, m.Layouts = water.Keyset, water.Layouts
		b.Manifest = w.sign("rival-steward", enclave.KindManifest, m)
		w.announce(enclave.EntryManifest, b.Manifest.Digest())
		w.prove(b)
		w.wantRefusal(w.commit(b), release.ErrForeignKeyset)
	})
	t.Run("another's blob as it is", func(t *testing.T) {
		w := setup(t)
		b := w.job(evilQuery, 1_000_000)
		water := w.manifest("water")
		m := *w.manifest("evil")
		m.Layouts = water.Layouts
		b.Manifest = w.sign("rival-steward", enclave.KindManifest, m)
		w.manifests["evil"] = b.Manifest
		w.announce(enclave.EntryManifest, b.Manifest.Digest())
		p := planOf(w, b)
		again, err := build(w.question(b, p))
		w.check(err)
		b.Plan = w.sign("analyst", enclave.KindPlan, again)
		w.announce(enclave.EntryPlan, b.Plan.Digest())
		layout, _ := m.Layout(again.Layout)
		_, terms, err := again.Expand(&m)
		w.check(err)
		inputs, _ := layout.Inputs(terms)
		b.Receipt = w.sign("node", enclave.KindReceipt, enclave.Receipt{Job: "job-x", Plan: b.Plan.Digest(), Inputs: inputs, Worker: program, Isolation: "t",
			Terms: int64(len(terms)), Started: w.at(), Ended: w.at(), By: "node"})
		w.announce(enclave.EntryReceipt, b.Receipt.Digest())
		w.prove(b)
		w.wantRefusal(w.commit(b), release.ErrForeignKeyset)
	})
	t.Run("another's ciphertext, shifted, under the own keyset", func(t *testing.T) {
		w := setup(t)
		water, evil := w.manifest("water"), w.manifest("evil")
		stolen, err := os.ReadFile(w.blobs.Path(water.Layouts[0].Vectors[0].Blob))
		w.check(err)
		blob, err := evaluator.ParseBlob(stolen)
		w.check(err)
		page, err := evaluator.NewBlobHeader(evil.Keyset, blob.Header.Params, blob.Header.Layout, blob.Header.Name, blob.Seed).Encode()
		w.check(err)
		shifted := append(page, stolen[evaluator.BlobHeaderBytes:]...)
		shifted[evaluator.BlobHeaderBytes] ^= 1
		d, n, err := w.blobs.Put(t.Context(), bytes.NewReader(shifted), canon.Digest{})
		w.check(err)
		republish(w, func(m *enclave.Manifest) {
			m.Layouts = slices.Clone(m.Layouts)
			m.Layouts[0].Vectors = slices.Clone(m.Layouts[0].Vectors)
			m.Layouts[0].Vectors[0] = enclave.Vector{Name: "n", Blob: d, Bytes: n, Chunks: blob.Chunks}
		})
		_, table, err := w.open(w.job(evilQuery, 1_000_000), custodianNames...)
		w.check(err)
		// Under the rival's key the water agency's ciphertext decrypts to a uniform value mod 2^36, if it is shown at all.
		if len(table.Rows) == 1 {
			if got := number(t, table.Rows[0].Values[0]); got > -1e5 && got < 1e5 {
				t.Errorf("another agency's ciphertext opened as %v, near the true 503", got)
			}
		}
	})
	t.Run("another's dataset name", func(t *testing.T) {
		w := setup(t)
		b := w.job(cubeQuery, 1_000_000)
		var ks enclave.Keyset
		evil := w.keysets["evil"]
		w.check(evil.Open(enclave.KindKeyset, &ks))
		ks.Dataset = "water"
		claim := w.sign("rival-steward", enclave.KindKeyset, ks)
		w.announce(enclave.EntryKeyset, claim.Digest())
		b.Keysets = append(b.Keysets, claim)
		w.prove(b)
		w.wantRefusal(w.commit(b), release.ErrForeignKeyset)
	})
}

// question is what a bundle's plan is rebuilt from.
func (w *world) question(b *enclave.Bundle, p *enclave.Plan) release.Question {
	var g operators.Grant
	w.check(b.Grant.Open(operators.KindGrant, &g))
	var m enclave.Manifest
	w.check(b.Manifest.Open(enclave.KindManifest, &m))
	for _, s := range b.Keysets {
		if s.Digest() == m.Keyset {
			var ks enclave.Keyset
			w.check(s.Open(enclave.KindKeyset, &ks))
			return release.Question{Query: p.Query, EpsilonMicro: p.AskedMicro, Grant: &g, GrantDigest: b.Grant.Digest(), Keyset: &ks, KeysetDigest: s.Digest(),
				Manifest: &m, ManifestDigest: b.Manifest.Digest()}
		}
	}
	w.t.Fatal("the bundle lacks the manifest's keyset")
	return release.Question{}
}

func TestAcceptRefusesPiecesThatAreNotAsCommitted(t *testing.T) {
	w := newWorld(t)
	w.register("water", "steward", agency, 20)
	ks := w.keysets["water"]
	if err := w.custodians["cust-a"].Accept(t.Context(), ks, 0, []byte("x"), w.ids["cust-a"].Open); err == nil {
		t.Error("a piece that the custodian must not hold was accepted")
	}
	if err := w.custodians["cust-a"].Accept(t.Context(), ks, 1, []byte("x"), w.ids["cust-a"].Open); err == nil {
		t.Error("garbage was accepted as a piece")
	}
	forged := w.sign("analyst", enclave.KindKeyset, struct {
		By string `json:"by"`
	}{"analyst"})
	if err := w.custodians["cust-a"].Accept(t.Context(), forged, 1, nil, w.ids["cust-a"].Open); err == nil {
		t.Error("a keyset by an analyst was accepted")
	}
}

func TestOfflineVerificationNeedsEveryPart(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	out, _, err := w.open(b, custodianNames...)
	w.check(err)
	b.Release, b.Proofs = out.Release, append(b.Proofs, out.Proof)
	_, _, err = release.CheckRelease(b, w.root.Verify(), build)
	w.check(err)
	fail := func(name string, change func(b *enclave.Bundle)) {
		bad := *b
		bad.Proofs = slices.Clone(b.Proofs)
		bad.Statements = slices.Clone(b.Statements)
		change(&bad)
		if _, _, err := release.CheckRelease(&bad, w.root.Verify(), build); err == nil {
			t.Errorf("%s: verified all the same", name)
		}
	}
	fail("one signature", func(b *enclave.Bundle) { b.Release.Sigs = b.Release.Sigs[:1] })
	fail("one signature twice", func(b *enclave.Bundle) { b.Release.Sigs = []canon.Signature{b.Release.Sigs[0], b.Release.Sigs[0]} })
	fail("no release entry", func(b *enclave.Bundle) { b.Proofs = b.Proofs[:len(b.Proofs)-1] })
	fail("a statement less", func(b *enclave.Bundle) { b.Statements = b.Statements[1:] })
	fail("flipped release", func(b *enclave.Bundle) { b.Release.Body = flip(b.Release.Body) })
	fail("flipped manifest", func(b *enclave.Bundle) { b.Manifest.Body = flip(b.Manifest.Body) })
	fail("flipped plan", func(b *enclave.Bundle) { b.Plan.Body = flip(b.Plan.Body) })
	fail("flipped receipt", func(b *enclave.Bundle) { b.Receipt.Body = flip(b.Receipt.Body) })
	other := w.identity("other root")
	if _, _, err := release.CheckRelease(b, other.Verify(), build); err == nil {
		t.Error("verified under another root key")
	}
	w.pass(time.Hour) // verification is as of the release, not of today
	if _, _, err := release.CheckRelease(b, w.root.Verify(), build); err != nil {
		t.Error(err)
	}
}

func flip(b []byte) []byte {
	out := bytes.Clone(b)
	out[len(out)/2] ^= 1
	return out
}
