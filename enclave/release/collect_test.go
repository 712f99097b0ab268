package release_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// collecting is a world with a collection of sums of x by 30 reporters: two aggregators beside cust-a and cust-b.
type collecting struct {
	*world
	collection canon.Signed
	enrolment  []byte
	reporters  []ed25519.PrivateKey
	task       *prio3.Task
	hosts      map[string]*prio3.Host
}

func newCollecting(t *testing.T, budget int, change func(*enclave.Collection)) *collecting {
	t.Helper()
	w := &collecting{world: newWorld(t), hosts: map[string]*prio3.Host{}}
	w.register("water", "steward", agency, budget)
	w.approve(3_000_000, map[string]string{"water": "steward"})
	var list enclave.Enrolment
	for i := range 30 {
		seed := sha256.Sum256(fmt.Appendf(nil, "reporter %d", i))
		key := ed25519.NewKeyFromSeed(seed[:])
		w.reporters = append(w.reporters, key)
		list.Reporters = append(list.Reporters, enclave.Reporter{Name: fmt.Sprintf("meter-%02d", i), Verify: key.Public().(ed25519.PublicKey)})
	}
	w.enrolment = canon.MustMarshal(list)
	c := enclave.Collection{Name: "winter", Operator: "operator", Scenario: w.scenario, Dataset: "water", Keyset: w.keysets["water"].Digest(), Column: "x",
		Measurement: enclave.Measurement{Kind: enclave.MeasureSum, Max: 100}, Aggregators: []string{"cust-a", "cust-b"}, EpsilonMicro: 1_000_000, Releases: 3,
		MinBatch: 10, Enrolment: canon.Sum(w.enrolment), EnrolmentBytes: int64(len(w.enrolment)), NotAfter: canon.At(w.now().AddDate(0, 6, 0)), By: "analyst", Made: w.at()}
	if change != nil {
		change(&c)
	}
	w.collection = w.sign("analyst", enclave.KindCollection, c)
	sig, err := w.ids["steward"].Sign(enclave.KindCollection, w.collection.Body)
	w.check(err)
	w.collection.Sigs = append(w.collection.Sigs, sig)
	w.announce(enclave.EntryCollection, w.collection.Digest())
	w.put(w.enrolment)
	w.task, err = prio3.NewTask(w.collection, w.enrolment)
	w.check(err)
	for _, name := range []string{"cust-a", "cust-b"} {
		w.openHost(name)
	}
	return w
}

func (w *collecting) put(data []byte) enclave.Digest {
	w.t.Helper()
	d, _, err := w.blobs.Put(w.t.Context(), bytes.NewReader(data), enclave.Digest{})
	w.check(err)
	return d
}

func (w *collecting) openHost(name string) {
	w.t.Helper()
	own, err := store.Open(filepath.Join(w.dir, name, "mirror"))
	w.check(err)
	copies := mirror.New(own, w.blobs)
	h, err := prio3.NewHost(prio3.HostConfig{Dir: w.stateOf(name), Identity: w.ids[name], Gate: w.custodians[name].Collections(), Roster: w.custodians[name].Roster, Blobs: copies, Clock: w.now})
	w.check(err)
	w.hosts[name] = h
	w.t.Cleanup(func() { errors.Join(h.Close(), copies.Close()) })
}

func (w *collecting) stateOf(name string) string { return filepath.Join(w.dir, name, "collections") }

// again restarts custodians and aggregators.
func (w *collecting) again() {
	w.t.Helper()
	for _, name := range []string{"cust-a", "cust-b"} {
		w.check(w.hosts[name].Close())
		w.restart(name)
		w.openHost(name)
	}
}

// reports are one of each of the reporters from..to−1, all of 7.
func (w *collecting) reports(from, to int) []byte {
	w.t.Helper()
	var out bytes.Buffer
	public := [2][]byte{w.ids["cust-a"].HPKE(), w.ids["cust-b"].HPKE()}
	for i := from; i < to; i++ {
		data, err := w.task.Report(i, w.reporters[i], public, []uint64{7})
		w.check(err)
		w.check(prio3.WriteReport(&out, data))
	}
	return out.Bytes()
}

// deliver hands in blobs of reports as a batch and gives the dossier.
func (w *collecting) deliver(batch int64, blobs ...[]byte) *enclave.CollectionBundle {
	w.t.Helper()
	w.tick()
	d := enclave.Delivery{Collection: w.collection.Digest(), Batch: batch, By: "steward", Made: w.at()}
	for _, b := range blobs {
		d.Blobs = append(d.Blobs, enclave.DeliveryBlob{Blob: w.put(b), Bytes: int64(len(b))})
	}
	signed := w.sign("steward", enclave.KindDelivery, d)
	w.announce(enclave.EntryDelivery, signed.Digest())
	return w.dossier(signed)
}

func (w *collecting) dossier(delivery canon.Signed) *enclave.CollectionBundle {
	w.t.Helper()
	b := &enclave.CollectionBundle{Format: enclave.KindCollectionBundle, Roster: w.signed, Statements: slices.Clone(w.statements),
		Keysets: append([]canon.Signed{w.keysets["water"]}, w.refreshes...), Collection: w.collection, Delivery: delivery}
	w.proveAll(b)
	return b
}

func (w *collecting) proveAll(b *enclave.CollectionBundle) {
	w.t.Helper()
	b.Proofs = nil
	for _, s := range slices.Concat([]canon.Signed{b.Roster, b.Collection, b.Delivery}, b.Keysets, b.Statements) {
		at, ok := w.logged[s.Digest()]
		if !ok {
			continue
		}
		p, err := w.log.Prove(w.t.Context(), at)
		w.check(err)
		b.Proofs = append(b.Proofs, p)
	}
}

// between is the helper with something that happens before one of its calls, which may fail it.
type between struct {
	prio3.Peer
	before func(call string) error
}

func (b between) Commit(ctx context.Context, s canon.Signed) error {
	if err := b.before("commit"); err != nil {
		return err
	}
	return b.Peer.Commit(ctx, s)
}

func (b between) Finish(ctx context.Context, s canon.Signed) (canon.Signed, error) {
	if err := b.before("finish"); err != nil {
		return canon.Signed{}, err
	}
	return b.Peer.Finish(ctx, s)
}

func (b between) Endorse(ctx context.Context, c enclave.Collected, proof enclave.LogProof, leader canon.Signed) (canon.Signature, error) {
	if err := b.before("endorse"); err != nil {
		return canon.Signature{}, err
	}
	return b.Peer.Endorse(ctx, c, proof, leader)
}

// lead releases a batch; before, which may be nil, hears of the helper's calls first.
func (w *collecting) lead(b *enclave.CollectionBundle, before func(call string) error) (*prio3.Outcome, *enclave.Table, error) {
	w.t.Helper()
	session, end, err := w.hosts["cust-b"].Help(w.t.Context(), b)
	if err != nil {
		return nil, nil, err
	}
	var peer prio3.Peer = session
	if before != nil {
		peer = between{session, before}
	}
	out, err := w.hosts["cust-a"].Lead(w.t.Context(), b, func(context.Context, string) (prio3.Peer, error) { return peer, nil })
	w.check(end(err == nil))
	if err != nil {
		return nil, nil, err
	}
	plain, err := w.ids["analyst"].Open(keys.TableInfo(out.Collected.Digest()), out.Sealed)
	w.check(err)
	var table enclave.Table
	w.check(canon.Unmarshal(plain, &table))
	return out, &table, nil
}

// totals counts the total shares that were given.
func (w *collecting) totals() (n int) {
	w.t.Helper()
	for _, name := range []string{"cust-a", "cust-b"} {
		found, err := filepath.Glob(filepath.Join(w.stateOf(name), "*", "total-*.json"))
		w.check(err)
		n += len(found)
	}
	return n
}

// charges counts the entries of charges in the log, by custodian.
func (w *collecting) charges() map[string]int {
	w.t.Helper()
	out := map[string]int{}
	_, cp, err := w.log.Checkpoint(w.t.Context())
	w.check(err)
	for rec, err := range w.log.Entries(w.t.Context(), 0, cp.Size) {
		w.check(err)
		if rec.Entry.Type == enclave.EntryCharge {
			out[rec.Entry.By]++
		}
	}
	return out
}

func TestCollectionIsChargedInTheSameLedger(t *testing.T) {
	w := newCollecting(t, 2, nil) // ε 2 for the dataset
	b := w.deliver(1, w.reports(0, 8), w.reports(8, 20))
	out, _, err := w.lead(b, nil)
	w.check(err)
	b.Collected = out.Collected
	b.Proofs = append(b.Proofs, out.Proof)
	d, c, err := release.CheckCollected(b, w.root.Verify())
	w.check(err)
	if c.ChargedMicro != 1_000_000 || c.Reports != 20 || c.Keyset != w.keysets["water"].Digest() || d.Grant.Scenario != w.scenario {
		t.Errorf("announced %+v", c)
	}
	if got := w.charges(); got["cust-a"] != 1 || got["cust-b"] != 1 || got["cust-c"] != 0 {
		t.Errorf("charges in the log: %v", got)
	}
	// A job of ε 1.5 finds 1 of 2 left, with whatever quorum it comes: cust-c learns of the charge from its peer.
	job := w.job(cubeQuery, 1_500_000)
	for _, quorum := range [][]string{{"cust-a", "cust-c"}, {"cust-b", "cust-c"}, custodianNames} {
		if _, _, err := w.open(job, quorum...); !errors.Is(err, release.ErrBudget) {
			t.Errorf("a job beyond what the collection left, opened by %q: %v", quorum, err)
		}
	}
	_, _, err = w.open(w.job(cubeQuery, 1_000_000), "cust-b", "cust-c")
	w.check(err)
	// And the second batch finds nothing left.
	before := w.totals()
	if _, _, err := w.lead(w.deliver(2, w.reports(0, 20)), nil); !errors.Is(err, release.ErrBudget) {
		t.Errorf("a batch beyond what the job left: %v", err)
	}
	if n := w.totals(); n != before {
		t.Errorf("%d totals were given beyond the budget", n-before)
	}
	if got := w.charges(); got["cust-a"] != 1 {
		t.Errorf("charges in the log: %v", got)
	}
}

// Whatever breaks off, in whatever step, the batch is charged once and comes out the same.
func TestCollectionSurvivesCrashes(t *testing.T) {
	w := newCollecting(t, 20, nil)
	reports := w.reports(0, 20)
	b := w.deliver(1, reports)
	gone := errors.New("gone")
	for _, step := range []string{"commit", "finish", "endorse"} {
		_, _, err := w.lead(b, func(call string) error {
			if call == step {
				return gone
			}
			return nil
		})
		if !errors.Is(err, gone) {
			t.Fatalf("broken off before %s: %v", step, err)
		}
		w.again()
	}
	_, table, err := w.lead(b, nil)
	w.check(err)
	if got := w.charges(); got["cust-a"] != 1 || got["cust-b"] != 1 {
		t.Errorf("charges in the log: %v", got)
	}
	// Both lose what they kept of the collection, as after a restore of an old copy. Other reports are refused: the ledger
	// knows which ones counted. The same ones give the same figures: the noise is the custodians', not a file's.
	for _, name := range []string{"cust-a", "cust-b"} {
		w.check(w.hosts[name].Close())
		w.check(os.RemoveAll(w.stateOf(name)))
		w.openHost(name)
	}
	if _, _, err := w.lead(w.deliver(1, w.reports(1, 21)), nil); !errors.Is(err, release.ErrSecondCiphertext) {
		t.Errorf("other reports for a batch that was charged: %v", err)
	}
	if n := w.totals(); n != 0 {
		t.Errorf("%d totals of a second set of reports were given", n)
	}
	for _, name := range []string{"cust-a", "cust-b"} {
		w.check(w.hosts[name].Close())
		w.check(os.RemoveAll(w.stateOf(name)))
		w.openHost(name)
	}
	_, again, err := w.lead(b, nil)
	w.check(err)
	if again.Rows[0].Values[0].Text != table.Rows[0].Values[0].Text {
		t.Errorf("the same batch gives %s and then %s", table.Rows[0].Values[0].Text, again.Rows[0].Values[0].Text)
	}
	if got := w.charges(); got["cust-a"] != 1 || got["cust-b"] != 1 {
		t.Errorf("charges in the log after the loss: %v", got)
	}
}

// What ends the right to release ends it at once, also between the charge and the totals.
func TestCollectionStops(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*collecting)
		want   error
	}{
		"revoked": {func(w *collecting) { w.decide("official-1", w.scenario, operators.Revoke) }, release.ErrUnauthorized},
		"disposed": {func(w *collecting) {
			_, err := w.log.Append(w.t.Context(), enclave.Entry{Type: enclave.EntryDisposal, Subject: w.keysets["water"].Digest(), By: "lab", At: w.at()})
			w.check(err)
		}, release.ErrDisposed},
		"expired": {func(w *collecting) { w.pass(400 * 24 * time.Hour) }, release.ErrUnauthorized},
		"over":    {func(w *collecting) { w.pass(200 * 24 * time.Hour) }, release.ErrUnauthorized}, // the collection, not yet the scenario
	} {
		t.Run(name, func(t *testing.T) {
			w := newCollecting(t, 20, nil)
			b := w.deliver(1, w.reports(0, 20))
			_, _, err := w.lead(b, func(call string) error {
				if call == "finish" { // the leader's total is given
					c.change(w)
				}
				return nil
			})
			if !errors.Is(err, c.want) {
				t.Errorf("between two totals: %v", err)
			}
			if n := w.totals(); n != 1 {
				t.Errorf("%d totals were given", n)
			}
			if _, _, err := w.lead(w.dossier(b.Delivery), nil); !errors.Is(err, c.want) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// What a control plane may show of a collection that is not so. Nothing is prepared, let alone charged.
func TestCollectionDossiers(t *testing.T) {
	w := newCollecting(t, 20, nil)
	good := w.deliver(1, w.reports(0, 20))
	resigned := func(b *enclave.CollectionBundle, change func(*enclave.Delivery), by string) {
		var d enclave.Delivery
		w.check(b.Delivery.Open(enclave.KindDelivery, &d))
		change(&d)
		b.Delivery = w.sign(by, enclave.KindDelivery, d)
		w.announce(enclave.EntryDelivery, b.Delivery.Digest())
		w.proveAll(b)
	}
	redefined := func(b *enclave.CollectionBundle, change func(*enclave.Collection), by ...string) {
		c := w.task.Collection
		change(&c)
		body := canon.MustMarshal(c)
		b.Collection = canon.Signed{Kind: enclave.KindCollection, Body: body}
		for _, name := range by {
			sig, err := w.ids[name].Sign(enclave.KindCollection, body)
			w.check(err)
			b.Collection.Sigs = append(b.Collection.Sigs, sig)
		}
		w.announce(enclave.EntryCollection, b.Collection.Digest())
		resigned(b, func(d *enclave.Delivery) { d.Collection = b.Collection.Digest() }, "steward")
	}
	for name, c := range map[string]struct {
		change func(*enclave.CollectionBundle)
		want   error
	}{
		"not confirmed": {func(b *enclave.CollectionBundle) { redefined(b, func(*enclave.Collection) {}, "analyst") }, release.ErrUnauthorized},
		"confirmed by a rival": {func(b *enclave.CollectionBundle) {
			redefined(b, func(*enclave.Collection) {}, "analyst", "rival-steward")
		}, release.ErrUnauthorized},
		"not the analyst's": {func(b *enclave.CollectionBundle) { redefined(b, func(*enclave.Collection) {}, "steward") }, release.ErrUnauthorized},
		"more than a job's ε": {func(b *enclave.CollectionBundle) {
			redefined(b, func(c *enclave.Collection) { c.EpsilonMicro = 2_000_001 }, "analyst", "steward")
		}, release.ErrUnauthorized},
		"more than the grant's": {func(b *enclave.CollectionBundle) {
			redefined(b, func(c *enclave.Collection) { c.Releases = 4 }, "analyst", "steward")
		}, release.ErrUnauthorized},
		"a column not granted": {func(b *enclave.CollectionBundle) {
			redefined(b, func(c *enclave.Collection) { c.Column = "town" }, "analyst", "steward")
		}, release.ErrUnauthorized},
		"another lineage": {func(b *enclave.CollectionBundle) {
			redefined(b, func(c *enclave.Collection) { c.Keyset = canon.Sum([]byte("x")) }, "analyst", "steward")
		}, release.ErrDossier},
		"aggregated by a stranger": {func(b *enclave.CollectionBundle) {
			redefined(b, func(c *enclave.Collection) { c.Aggregators = []string{"cust-a", "node"} }, "analyst", "steward")
		}, release.ErrNotCommitted},
		"delivered by a rival": {func(b *enclave.CollectionBundle) {
			resigned(b, func(d *enclave.Delivery) { d.By = "rival-steward" }, "rival-steward")
		}, release.ErrUnauthorized},
		"no such batch": {func(b *enclave.CollectionBundle) { resigned(b, func(d *enclave.Delivery) { d.Batch = 4 }, "steward") }, release.ErrBatch},
		"of another collection": {func(b *enclave.CollectionBundle) {
			resigned(b, func(d *enclave.Delivery) { d.Collection = canon.Sum(nil) }, "steward")
		}, release.ErrBatch},
		"not logged": {func(b *enclave.CollectionBundle) { b.Proofs = b.Proofs[:len(b.Proofs)-1] }, release.ErrNotLogged},
		"delivery not logged": {func(b *enclave.CollectionBundle) {
			var d enclave.Delivery
			w.check(b.Delivery.Open(enclave.KindDelivery, &d))
			d.Made = w.at()
			b.Delivery = w.sign("steward", enclave.KindDelivery, d)
		}, release.ErrNotLogged},
		"a statement withheld": {func(b *enclave.CollectionBundle) { b.Statements = b.Statements[:len(b.Statements)-1] }, release.ErrUnauthorized},
	} {
		b := *good
		b.Statements, b.Proofs = slices.Clone(good.Statements), slices.Clone(good.Proofs)
		w.tick()
		c.change(&b)
		if _, _, err := w.lead(&b, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		var refused *refusal.Refusal
		if err := w.custodians["cust-a"].Collections().Check(t.Context(), &b); !errors.As(err, &refused) || refused.Custodian != "cust-a" {
			t.Errorf("%s: the leader's custodian says %v", name, err)
		}
	}
	if n := w.totals(); n != 0 || len(w.charges()) != 0 {
		t.Errorf("%d totals, charges %v", n, w.charges())
	}
	_, _, err := w.lead(w.dossier(good.Delivery), nil)
	w.check(err)
}

// A gate's call out of order, or of a batch that is not the dossier's, opens nothing.
func TestCollectionGateInOrder(t *testing.T) {
	w := newCollecting(t, 20, nil)
	b := w.deliver(1, w.reports(0, 20))
	of := enclave.Batch{Collection: w.collection.Digest(), Number: 1, Reports: 20, Accepted: canon.Sum([]byte("ids")), Refused: []enclave.RefusedCount{}}
	gate := w.custodians["cust-a"].Collections()
	if _, err := gate.Opening(t.Context(), b, of); !errors.Is(err, release.ErrNotCommitted) {
		t.Errorf("opening before any charge: %v", err)
	}
	w.check(gate.Commit(t.Context(), b, of))
	if _, err := gate.Opening(t.Context(), b, of); !errors.Is(err, release.ErrNotCommitted) {
		t.Errorf("opening before the other's charge: %v", err)
	}
	w.check(w.custodians["cust-b"].Collections().Commit(t.Context(), b, of))
	o, err := gate.Opening(t.Context(), b, of)
	w.check(err)
	other, err := w.custodians["cust-b"].Collections().Opening(t.Context(), b, of)
	w.check(err)
	if o.Noise == other.Noise || o.Noise == [32]byte{} {
		t.Error("the two custodians have one noise key")
	}
	for name, change := range map[string]func(*enclave.Batch){
		"one more":      func(of *enclave.Batch) { of.Reports++ },
		"other reports": func(of *enclave.Batch) { of.Accepted = canon.Sum(nil) },
	} {
		second := of
		change(&second)
		if err := gate.Commit(t.Context(), b, second); !errors.Is(err, release.ErrSecondCiphertext) {
			t.Errorf("%s: commit gives %v", name, err)
		}
		if _, err := gate.Opening(t.Context(), b, second); !errors.Is(err, release.ErrSecondCiphertext) {
			t.Errorf("%s: opening gives %v", name, err)
		}
	}
	second := of
	second.Number = 2
	if err := gate.Commit(t.Context(), b, second); !errors.Is(err, release.ErrBatch) {
		t.Errorf("a batch that was not delivered: %v", err)
	}
	few := of
	few.Reports = 9
	if err := gate.Commit(t.Context(), b, few); !errors.Is(err, release.ErrBatch) {
		t.Errorf("nine reports: %v", err)
	}
	proof, err := gate.Announce(t.Context(), b, of, enclave.EntryRelease, canon.Sum([]byte("something else")))
	w.check(err)
	if _, err := gate.Endorse(t.Context(), b, of, enclave.Collected{Collection: of.Collection, Batch: 1, Refused: of.Refused, Aggregators: []string{"cust-a", "cust-b"}}, proof); !errors.Is(err, release.ErrNotLogged) {
		t.Errorf("a release that is not in the log: %v", err)
	}
}

// Blobs that the control plane keeps back, cuts or alters, and files that are no reports, end a batch before any charge.
func TestCollectionBlobs(t *testing.T) {
	w := newCollecting(t, 20, nil)
	reports := w.reports(0, 20)
	for name, c := range map[string]struct {
		data  []byte
		spoil func(path string) error
		want  error
	}{
		"kept back": {reports[:], os.Remove, enclave.ErrNotFound},
		"altered": {append(w.reports(0, 1), reports...), func(path string) error {
			data, err := os.ReadFile(path)
			data[1000] ^= 1
			return errors.Join(err, os.Chmod(path, 0o600), os.WriteFile(path, data, 0o600))
		}, release.ErrBatch},
		"cut":            {append(w.reports(1, 2), reports...), func(path string) error { return errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 5000)) }, release.ErrBatch},
		"no reports":     {[]byte("these are no reports"), func(string) error { return nil }, release.ErrBatch},
		"half a report":  {reports[:len(reports)-1], func(string) error { return nil }, release.ErrBatch},
		"more than most": {[]byte{0xff, 0xff, 0xff, 0xff, 0}, func(string) error { return nil }, release.ErrBatch},
	} {
		b := w.deliver(1, c.data)
		w.check(c.spoil(w.blobs.Path(canon.Sum(c.data))))
		if _, _, err := w.lead(b, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := w.charges(); len(got) != 0 || w.totals() != 0 {
		t.Errorf("charges %v, %d totals", got, w.totals())
	}
	_, _, err := w.lead(w.deliver(1, w.reports(0, 20)), nil)
	w.check(err)
}

// A receipt with anything exchanged does not verify.
func TestCollectedOffline(t *testing.T) {
	w := newCollecting(t, 20, nil)
	b := w.deliver(1, w.reports(0, 20))
	out, _, err := w.lead(b, nil)
	w.check(err)
	good := *b
	good.Collected, good.Proofs = out.Collected, append(slices.Clone(b.Proofs), out.Proof)
	_, _, err = release.CheckCollected(&good, w.root.Verify())
	w.check(err)
	for name, change := range map[string]func(*enclave.CollectionBundle){
		"one signature": func(b *enclave.CollectionBundle) { b.Collected.Sigs = b.Collected.Sigs[:1] },
		"one more report": func(b *enclave.CollectionBundle) {
			var c enclave.Collected
			w.check(b.Collected.Open(enclave.KindCollected, &c))
			c.Reports++
			b.Collected.Body = canon.MustMarshal(c)
		},
		"not logged":         func(b *enclave.CollectionBundle) { b.Proofs = b.Proofs[:len(b.Proofs)-1] },
		"another root":       func(b *enclave.CollectionBundle) { b.Roster.Sigs = nil },
		"another delivery":   func(b *enclave.CollectionBundle) { b.Delivery = w.deliver(2, w.reports(0, 20)).Delivery },
		"without its terms":  func(b *enclave.CollectionBundle) { b.Statements = b.Statements[:1] },
		"without its keyset": func(b *enclave.CollectionBundle) { b.Keysets = nil },
	} {
		bad := good
		bad.Collected.Sigs = slices.Clone(good.Collected.Sigs)
		change(&bad)
		if _, _, err := release.CheckCollected(&bad, w.root.Verify()); err == nil {
			t.Errorf("%s: it verifies", name)
		}
	}
}
