package release_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
)

// The malicious control plane. It has its own certificate, which lets it ask any custodian to lead and show them any log
// entry and blob it likes; the lab's signing key; and every artefact that ever passed through it. It has no key of an
// official, an analyst, a node or a custodian.

// nothingOpened checks that no custodian has given a share of a plan.
func (n *wire) nothingOpened(b *enclave.Bundle) {
	n.t.Helper()
	d := b.Plan.Digest()
	for _, name := range custodianNames {
		files, err := filepath.Glob(filepath.Join(n.dir, name, "state", "shares", fmt.Sprintf("%x-*.json", d[:])))
		n.check(err)
		if len(files) > 0 {
			n.t.Errorf("%s gave shares: %q", name, files)
		}
	}
}

// refusedOnRecord checks that whoever refused wrote it into its own journal.
func (n *wire) refusedOnRecord(names []string, plan enclave.Digest, rule error) {
	n.t.Helper()
	for _, name := range names {
		if !slices.ContainsFunc(n.journal(name), func(r release.Refused) bool { return r.Rule == rule.Error() && r.Plan == plan }) {
			n.t.Errorf("the journal of %s does not have the refusal by rule %q", name, rule)
		}
	}
}

func TestMaliciousDossiers(t *testing.T) {
	n := overTheWire(t)
	good := n.job(cubeQuery, 2_000_000)
	other := n.job(rowsQuery, 1_000_000)
	for _, c := range []struct {
		name string
		rule error
		make func(b *enclave.Bundle)
	}{
		{"forged approval", release.ErrUnauthorized, func(b *enclave.Bundle) {
			last := len(b.Statements) - 1
			var d operators.Decision
			n.check(b.Statements[last].Open(operators.KindDecision, &d))
			forged := n.sign("lab", operators.KindDecision, d)
			forged.Sigs[0].By = d.By
			b.Statements[last] = forged
		}},
		{"one official's approval under another's name", release.ErrUnauthorized, func(b *enclave.Bundle) {
			last := len(b.Statements) - 1
			b.Statements[last].Sigs = []canon.Signature{b.Statements[last-1].Sigs[0]}
		}},
		{"withheld statement", release.ErrUnauthorized, func(b *enclave.Bundle) { b.Statements = b.Statements[:len(b.Statements)-1] }},
		{"wider grant", release.ErrUnauthorized, func(b *enclave.Bundle) {
			var g operators.Grant
			n.check(b.Grant.Open(operators.KindGrant, &g))
			g.MinCohort = 1
			b.Grant = n.sign("lab", operators.KindGrant, g)
		}},
		{"plan in an analyst's name", release.ErrUnauthorized, func(b *enclave.Bundle) {
			b.Plan = n.sign("lab", enclave.KindPlan, planOf(n.world, b))
			b.Plan.Sigs[0].By = "analyst"
		}},
		{"another job's plan", release.ErrReceipt, func(b *enclave.Bundle) { b.Plan = other.Plan }},
		{"replayed receipt", release.ErrReceipt, func(b *enclave.Bundle) { b.Receipt = other.Receipt }},
		{"receipt of its own making", release.ErrReceipt, func(b *enclave.Bundle) {
			var r enclave.Receipt
			n.check(b.Receipt.Open(enclave.KindReceipt, &r))
			r.By = "lab"
			b.Receipt = n.sign("lab", enclave.KindReceipt, r)
		}},
		{"entry that was never logged", release.ErrNotLogged, func(b *enclave.Bundle) { b.Proofs = b.Proofs[1:] }},
		{"proof of another entry", release.ErrNotLogged, func(b *enclave.Bundle) { b.Proofs[0].Entry = b.Proofs[1].Entry }},
		{"checkpoint without the witness", release.ErrNotLogged, func(b *enclave.Bundle) {
			i := bytes.LastIndexByte([]byte(b.Proofs[0].Checkpoint[:len(b.Proofs[0].Checkpoint)-1]), '\n')
			b.Proofs[0].Checkpoint = b.Proofs[0].Checkpoint[:i+1]
		}},
		{"earlier roster", release.ErrDossier, func(b *enclave.Bundle) { b.Roster = n.sign("lab", operators.KindRoster, n.roster) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := *good
			bad.Statements, bad.Proofs = slices.Clone(good.Statements), slices.Clone(good.Proofs)
			c.make(&bad)
			before := map[string]int{}
			for _, name := range custodianNames {
				before[name] = len(n.journal(name))
			}
			_, err := n.release(&bad)
			if reason, final := n.gate().Refused(err); !errors.Is(err, c.rule) || !final {
				t.Fatalf("got %v (%s), want a refusal: %v", err, reason, c.rule)
			}
			n.nothingOpened(&bad)
			n.refusedOnRecord(custodianNames, bad.Plan.Digest(), c.rule)
			for _, name := range custodianNames {
				if len(n.journal(name)) <= before[name] {
					t.Errorf("%s did not record this refusal", name)
				}
			}
		})
	}
	if _, err := n.release(good); err != nil {
		t.Errorf("after all that the good dossier gives %v", err)
	}
}

// With its own certificate the control plane can only ask for whole releases; with a custodian's, which a dishonest
// authority gave it, it still gets each step refused that is out of order.
func TestMaliciousOrderOfRequests(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	body := canon.MustMarshal(b)
	own := enclavev1.NewCustodianServiceClient(n.dial(n.ca.Source(t, "lab", theLab), theLab, "cust-a", "custodian"))
	for what, err := range map[string]error{
		"commit":  second(own.Commit(t.Context(), &enclavev1.CommitRequest{Bundle: body, Active: custodianNames})),
		"share":   second(own.Share(t.Context(), &enclavev1.ShareRequest{Bundle: body, Stage: 1, Active: custodianNames})),
		"endorse": second(own.Endorse(t.Context(), &enclavev1.EndorseRequest{Bundle: body})),
	} {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s by the control plane gives %v", what, err)
		}
	}
	stolen := enclavev1.NewCustodianServiceClient(n.dial(n.ca.Source(t, "custodian", "cust-b"), "outside", "cust-a", "custodian"))
	for what, call := range map[string]func() error{
		"shares first": func() error {
			return second(stolen.Share(t.Context(), &enclavev1.ShareRequest{Bundle: body, Stage: 1, Active: custodianNames}))
		},
		"the values first": func() error {
			return second(stolen.Share(t.Context(), &enclavev1.ShareRequest{Bundle: body, Stage: 2, Active: custodianNames}))
		},
		"a commit, then one for all": func() error {
			if _, err := stolen.Commit(t.Context(), &enclavev1.CommitRequest{Bundle: body, Active: custodianNames}); err != nil {
				return err
			}
			return second(stolen.Share(t.Context(), &enclavev1.ShareRequest{Bundle: body, Stage: 1, Active: []string{"cust-a", "cust-b"}}))
		},
	} {
		if err := refusal.FromStatus("cust-a", call()); !errors.Is(err, release.ErrNotCommitted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	n.nothingOpened(b)
	n.refusedOnRecord([]string{"cust-a"}, b.Plan.Digest(), release.ErrNotCommitted)
}

func second[T any](_ T, err error) error { return err }

// The same release is asked for again with another ciphertext, to have two results under one noise.
func TestMaliciousSecondCiphertext(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	_, err := n.release(b)
	n.check(err)
	was := n.shares("cust-a", b, 1)
	bad := *b // the node is in it too: it signs a receipt for another output
	n.receipt(&bad, planOf(n.world, b), func(r *enclave.Receipt) { r.Output[0] ^= 1 })
	_, err = n.release(&bad)
	if !errors.Is(err, release.ErrOutput) {
		t.Errorf("another output gives %v", err)
	}
	n.refusedOnRecord(custodianNames, b.Plan.Digest(), release.ErrOutput)
	if !bytes.Equal(n.shares("cust-a", b, 1), was) {
		t.Error("shares were given again, and are others")
	}
	// A custodian that has another ciphertext in its ledger makes all others refuse: they read it over the wire.
	m := n.manifest("water")
	fresh := n.job("SELECT COUNT(*) FROM water", 1_000_000)
	p := planOf(n.world, fresh)
	_, terms, err := p.Expand(m)
	n.check(err)
	n.check(n.custodians["cust-c"].ForceCharge(canon.Digest{9}, release.Charge{Keyset: m.Keyset, Epoch: 1, Scenario: n.scenario,
		Opens: []release.Opening{{Key: p.NoiseKey(m, terms[0]), Ciphertext: canon.Digest{8}}}}, n.world.at()))
	_, err = n.release(fresh)
	if !errors.Is(err, release.ErrSecondCiphertext) {
		t.Errorf("a second ciphertext gives %v", err)
	}
	n.nothingOpened(fresh)
	n.refusedOnRecord(custodianNames, fresh.Plan.Digest(), release.ErrSecondCiphertext)
}

// The control plane cuts the network so that each release meets another pair, to spend the budget once per pair.
func TestMaliciousRotationOfQuorums(t *testing.T) {
	w := newWorld(t)
	w.register("water", "steward", agency, 4)
	w.approve(20_000_000, map[string]string{"water": "steward"})
	n := networked(w)
	last := n.job("SELECT COUNT(*) FROM water WHERE town <> 'south'", 2_000_000)
	for i, c := range []struct {
		away, query string
		dossier     *enclave.Bundle
	}{
		{"cust-c", "SELECT COUNT(*) FROM water", nil},
		{"cust-a", "SELECT town, COUNT(*) FROM water GROUP BY town", nil},
		{"cust-b", "", last},
	} {
		b := c.dossier
		if b == nil {
			b = n.job(c.query, 2_000_000)
		}
		for _, name := range custodianNames {
			n.cutOff(name, false)
		}
		n.cutOff(c.away, true)
		err := eventually(t, func() error { _, err := n.release(b); return err })
		if i < 2 {
			n.check(err)
			continue
		}
		if !errors.Is(err, release.ErrBudget) {
			t.Errorf("the third pair gives %v", err)
		}
		n.nothingOpened(b)
		n.refusedOnRecord([]string{"cust-a", "cust-c"}, b.Plan.Digest(), release.ErrBudget)
	}
}

// A roster in which somebody has left was seen once. An earlier one is refused, also after a restart.
func TestMaliciousEarlierRoster(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	later := n.roster
	later.Serial++
	n.check(n.custodians["cust-a"].UseRoster(n.sign("root", operators.KindRoster, later)))
	for range 2 {
		err := n.nodes["cust-b"].peers["cust-a"].Commit(t.Context(), b, []string{"cust-a", "cust-b"})
		if !errors.Is(err, release.ErrDossier) {
			t.Errorf("an earlier roster gives %v", err)
		}
		n.reboot("cust-a")
		n.check(eventually(t, func() error { _, err := n.nodes["cust-b"].peers["cust-a"].Seen(t.Context()); return err }))
	}
	n.refusedOnRecord([]string{"cust-a"}, b.Plan.Digest(), release.ErrDossier)
	n.nothingOpened(b)
}

// forkLog opens a copy of the log, as it is, under the same keys, with a witness that has forgotten. From here on there
// are two histories.
func (n *wire) forkLog() *audit.Log {
	n.t.Helper()
	dir := n.t.TempDir()
	n.copyFolder(filepath.Join(n.dir, "log"), filepath.Join(dir, "log"))
	n.copyFolder(filepath.Join(n.dir, "witness"), filepath.Join(dir, "witness"))
	signer, verifier, err := audit.NewLogSigner(n.logKey.Secret)
	n.check(err)
	cosigner, err := audit.NewWitnessSigner(n.witnessKey.Secret)
	n.check(err)
	witness, err := audit.NewWitness(filepath.Join(dir, "witness"), cosigner, verifier)
	n.check(err)
	fork, err := audit.Open(n.t.Context(), audit.Config{Dir: filepath.Join(dir, "log"), Signer: signer, Verifier: verifier, Witness: witness})
	n.check(err)
	n.t.Cleanup(func() {
		fork.Close(context.Background())
		witness.Close()
	})
	return fork
}

// Log and witness are in it: some custodians are shown a history with a revocation, the others one without.
func TestMaliciousSplitView(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	fork := n.forkLog()
	n.decide("official-1", n.scenario, operators.Revoke) // in the true log
	n.world.tick()
	entry := enclave.Entry{Type: enclave.EntryPlan, Subject: canon.Digest{5}, By: "lab", At: n.world.at()}
	_, err := fork.Append(t.Context(), entry) // something else at the same place
	n.check(err)
	n.plane.lie(func(p *plane) { p.views["cust-b"], p.views["cust-c"] = fork, fork })
	t.Run("led by one who sees the fork", func(t *testing.T) {
		// cust-a follows the true log as soon as it is asked anything.
		_, err := n.client("cust-a").Lead(t.Context(), b, nil)
		if err == nil {
			t.Fatal("a revoked scenario was released")
		}
		_, err = n.client("cust-b").Lead(t.Context(), b, nil)
		if !errors.Is(err, release.ErrLogFork) {
			t.Errorf("two logs give %v", err)
		}
		var split *refusal.SplitViewError
		if !errors.As(err, &split) || split.Seen == "" || split.Offered == "" {
			t.Fatalf("the fork came without evidence: %v", err)
		}
		keys, err := release.LogKeys(&n.roster)
		n.check(err)
		for _, note := range []string{split.Seen, split.Offered} { // both histories are signed and witnessed
			if _, err := keys.Open(note); err != nil {
				t.Errorf("evidence: %v", err)
			}
		}
		lines := n.journal("cust-b")
		if len(lines) == 0 || lines[len(lines)-1].Rule != release.ErrLogFork.Error() || len(lines[len(lines)-1].Evidence) != 2 {
			t.Errorf("the journal of cust-b holds %+v", lines)
		}
	})
	t.Run("shown the other one later", func(t *testing.T) {
		n.plane.lie(func(p *plane) { p.views["cust-a"] = fork })
		_, err := n.client("cust-a").Lead(t.Context(), b, nil)
		if !errors.Is(err, release.ErrLogFork) {
			t.Errorf("a rewritten log gives %v", err)
		}
		n.refusedOnRecord([]string{"cust-a"}, b.Plan.Digest(), release.ErrLogFork)
		n.reboot("cust-a") // its memory outlives it
		_, err = n.client("cust-a").Lead(t.Context(), b, nil)
		if !errors.Is(err, release.ErrLogFork) {
			t.Errorf("a rewritten log gives %v after a restart", err)
		}
	})
	n.nothingOpened(b)
}

// The log is shown as it was before a revocation. A custodian's own entry cannot be proved without what came before it.
func TestMaliciousOldView(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	for _, name := range custodianNames {
		n.check(n.custodians[name].Commit(t.Context(), n.job("SELECT COUNT(*) FROM water", 500_000), custodianNames)) // all follow
	}
	old, _, err := n.log.Checkpoint(t.Context())
	n.check(err)
	n.decide("official-1", n.scenario, operators.Revoke)
	n.world.tick()
	n.plane.lie(func(p *plane) { p.checkpoint = func(context.Context, string) (string, bool) { return old, true } })
	_, err = n.release(b)
	if err == nil {
		t.Fatal("a revoked scenario was released")
	}
	var withheld *refusal.WithheldError
	if !errors.As(err, &withheld) && !errors.Is(err, release.ErrLogFork) {
		t.Errorf("an old view gives %v", err)
	}
	n.nothingOpened(b)
	for _, name := range custodianNames {
		if len(n.journal(name)) == 0 {
			t.Errorf("%s has no refusal in its journal", name)
		}
	}
}

// What the log answers to a custodian's own entry is checked, and without it nothing is done.
func TestMaliciousAnswersOfTheLog(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	e := enclave.Entry{Type: enclave.EntryPlan, Subject: canon.Digest{7}, By: "lab", At: n.world.at()}
	stale, err := n.log.Append(t.Context(), e)
	n.check(err)
	for name, c := range map[string]struct {
		rule error // nil: it fails closed without a refusal
		lie  func(ctx context.Context, entries []enclave.Entry) ([]enclave.LogProof, error)
	}{
		"another entry's proof": {release.ErrNotLogged, func(context.Context, []enclave.Entry) ([]enclave.LogProof, error) { return stale, nil }},
		"the entry under another's path": {release.ErrNotLogged, func(_ context.Context, entries []enclave.Entry) ([]enclave.LogProof, error) {
			p := stale[0]
			p.Entry = canon.MustMarshal(entries[0])
			return []enclave.LogProof{p}, nil
		}},
		"no proof": {release.ErrNotLogged, func(context.Context, []enclave.Entry) ([]enclave.LogProof, error) { return nil, nil }},
		"an error": {nil, func(context.Context, []enclave.Entry) ([]enclave.LogProof, error) {
			return nil, errors.New("not today")
		}},
		"two proofs": {release.ErrNotLogged, func(context.Context, []enclave.Entry) ([]enclave.LogProof, error) {
			return append(stale, stale...), nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n.plane.lie(func(p *plane) {
				p.append = func(ctx context.Context, _ string, entries []enclave.Entry) ([]enclave.LogProof, error, bool) {
					if entries[0].Type == enclave.EntryRefusal {
						return nil, nil, false
					}
					proofs, err := c.lie(ctx, entries)
					return proofs, err, true
				}
			})
			defer n.plane.honest()
			_, err := n.release(b)
			if err == nil || c.rule != nil && !errors.Is(err, c.rule) {
				t.Errorf("got %v, want a refusal: %v", err, c.rule)
			}
			n.nothingOpened(b)
			if c.rule != nil {
				n.refusedOnRecord(custodianNames, b.Plan.Digest(), c.rule)
			}
			for _, name := range custodianNames {
				if got := n.custodians[name].Charges(); got != 0 {
					t.Errorf("%s charged without a proof", name)
				}
			}
		})
	}
	_, err = n.release(b)
	n.check(err)
}

func TestMaliciousBlobs(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing after another, in many cases")
	}
	zero := func(n int64) io.ReadCloser { return io.NopCloser(io.LimitReader(zeros{}, n)) }
	for name, lie := range map[string]func(n *wire, d enclave.Digest, offset int64) (io.ReadCloser, error){
		"other bytes": func(n *wire, d enclave.Digest, _ int64) (io.ReadCloser, error) {
			size, err := n.blobs.Size(d)
			return zero(size), err
		},
		"more bytes": func(*wire, enclave.Digest, int64) (io.ReadCloser, error) { return zero(1 << 40), nil },
		"fewer bytes": func(_ *wire, _ enclave.Digest, offset int64) (io.ReadCloser, error) {
			return zero(max(0, 100-offset)), nil
		},
		"one bit": func(n *wire, d enclave.Digest, offset int64) (io.ReadCloser, error) {
			r, err := n.blobs.ReadBlob(n.t.Context(), d, offset)
			if err != nil {
				return nil, err
			}
			data, err := io.ReadAll(r)
			r.Close()
			if len(data) > 0 {
				data[len(data)/2] ^= 1
			}
			return io.NopCloser(bytes.NewReader(data)), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := overTheWire(t)
			b := n.job(cubeQuery, 2_000_000)
			n.plane.lie(func(p *plane) {
				p.blob = func(_ context.Context, _ string, d enclave.Digest, offset int64) (io.ReadCloser, error, bool) {
					r, err := lie(n, d, offset)
					return r, err, true
				}
			})
			_, err := n.release(b)
			if !errors.Is(err, release.ErrForeignKeyset) {
				t.Errorf("got %v", err)
			}
			n.nothingOpened(b)
			n.refusedOnRecord(custodianNames, b.Plan.Digest(), release.ErrForeignKeyset)
			n.plane.honest()
			if _, err := n.release(b); err != nil { // nothing of the lie is left
				t.Errorf("after the lie: %v", err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
