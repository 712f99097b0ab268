package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// collected is a collection through services: an analyst, the owner's steward, and reporters.
type collected struct {
	t         *testing.T
	c         *clustertest.Cluster
	analyst   *desk.Remote
	steward   *desk.Remote
	reporters []ed25519.PrivateKey
	list      []byte
	public    [2][]byte
}

func newCollected(t *testing.T, c *clustertest.Cluster, reporters int) *collected {
	w := &collected{t: t, c: c, analyst: c.Person(hometest.Analyst), steward: c.Person(hometest.Steward)}
	var list enclave.Enrolment
	for i := range reporters {
		seed := sha256.Sum256(fmt.Appendf(nil, "reporter %d", i))
		w.reporters = append(w.reporters, ed25519.NewKeyFromSeed(seed[:]))
		list.Reporters = append(list.Reporters, enclave.Reporter{Name: fmt.Sprintf("meter-%03d", i), Verify: w.reporters[i].Public().(ed25519.PublicKey)})
	}
	w.list = canon.MustMarshal(list)
	return w
}

func (w *collected) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// define signs a collection and hands it in.
func (w *collected) define(name string) *prio3.Task {
	w.t.Helper()
	ctx := w.t.Context()
	scenario, sc, err := w.analyst.Scenario(ctx, hometest.Scenario)
	w.check(err)
	d, err := w.analyst.Dataset(ctx, hometest.Dataset)
	w.check(err)
	_, roster, err := w.analyst.Roster(ctx)
	w.check(err)
	c := enclave.Collection{Name: name, Operator: sc.Operator, Scenario: scenario, Dataset: hometest.Dataset, Keyset: d.KeysetDigest, Column: "mdvis",
		Measurement: enclave.Measurement{Kind: enclave.MeasureSum, Max: 80}, EpsilonMicro: 500_000, Releases: 2, MinBatch: 10,
		Enrolment: canon.Sum(w.list), EnrolmentBytes: int64(len(w.list)), NotAfter: canon.At(w.analyst.Now().AddDate(0, 1, 0)), By: hometest.Analyst, Made: canon.At(w.analyst.Now())}
	for i, p := range roster.WithRole(operators.RoleCustodian)[:2] {
		c.Aggregators = append(c.Aggregators, p.Name)
		w.public[i] = p.HPKE
	}
	id, err := w.analyst.Identity(hometest.Analyst)
	w.check(err)
	signed, err := keys.SealWith(id, enclave.KindCollection, c)
	w.check(err)
	w.check(w.analyst.DefineCollection(ctx, signed))
	t, err := prio3.NewTask(signed, w.list)
	w.check(err)
	return t
}

func (w *collected) report(t *prio3.Task, reporter int) []byte {
	w.t.Helper()
	data, err := t.Report(reporter, w.reporters[reporter], w.public, []uint64{uint64(reporter % 81)})
	w.check(err)
	return data
}

// files writes reports to files of 9 each.
func (w *collected) files(reports ...[]byte) (names []string) {
	w.t.Helper()
	for part := range slices.Chunk(reports, 9) {
		var out bytes.Buffer
		for _, r := range part {
			w.check(prio3.WriteReport(&out, r))
		}
		names = append(names, filepath.Join(w.t.TempDir(), "reports"))
		w.check(os.WriteFile(names[len(names)-1], out.Bytes(), 0o600))
	}
	return names
}

func (w *collected) deliver(collection string, batch int64, reports ...[]byte) *enclave.Delivery {
	w.t.Helper()
	d, err := w.steward.Deliver(w.t.Context(), collection, batch, w.files(reports...), hometest.Steward)
	w.check(err)
	return d
}

// released is a batch that comes out once those that were restarted have found each other.
func (w *collected) released(collection string, batch int64) (out *lab.Batch) {
	w.t.Helper()
	eventually(w.t, "the release of a batch", func() (bool, error) {
		var err error
		out, err = w.analyst.ReleaseBatch(w.t.Context(), collection, batch)
		if err != nil && !errors.As(err, new(*refusal.UnavailableError)) {
			w.t.Fatal(err)
		}
		return err == nil, err
	})
	return out
}

// Places in a report of a sum (docs/FORMATS.md, "Reports"), which has no public share.
const (
	idAt       = 10 + 32
	reporterAt = idAt + 16
	leaderAt   = reporterAt + 4
	overhead   = 1120 + 16
	helperLen  = 32 + overhead // a seed
)

func resign(body []byte, key ed25519.PrivateKey) []byte {
	body = slices.Clone(body[:len(body)-ed25519.SignatureSize])
	return append(body, ed25519.Sign(key, append([]byte("yingzhou report\n"), body...))...)
}

// unproven is a report by an enrolled reporter whose leader's share is of random field elements: no proof is in it.
func (w *collected) unproven(t *prio3.Task, reporter int) []byte {
	w.t.Helper()
	data := slices.Clone(w.report(t, reporter))
	sealed := data[leaderAt : len(data)-ed25519.SignatureSize-helperLen]
	share := make([]byte, len(sealed)-overhead)
	rand.Read(share)
	for i := 7; i < len(share); i += 8 {
		share[i] &= 0x7f // below the field's order
	}
	info := append([]byte("yingzhou report v1\x00"), data[10:leaderAt]...)
	none := sha256.Sum256(nil)
	fresh, err := keys.SealTo(w.public[0], append(append(info, none[:]...), 0), share)
	w.check(err)
	copy(sealed, fresh)
	return resign(data, w.reporters[reporter])
}

// A collection of each kind of report, good and bad, through labd and the custodians' daemons.
func TestCollectionThroughServices(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{Rows: 200, ScenarioMicro: 1_000_000, JobMicro: 1_000_000}, nil)
	w := newCollected(t, c, 60)
	ctx := t.Context()
	task, other := w.define("visits"), w.define("others")
	leader, helper := task.Aggregators[0], task.Aggregators[1]
	good := func(from, to int) (out [][]byte) {
		for i := from; i < to; i++ {
			out = append(out, w.report(task, i))
		}
		return out
	}

	// Nobody can report before the owner has confirmed, with the list that the collection names.
	if _, err := w.steward.Deliver(ctx, "visits", 1, w.files(good(0, 12)...), hometest.Steward); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("delivered before it was confirmed: %v", err)
	}
	short := newCollected(t, c, 59)
	if err := w.steward.ConfirmReporters(ctx, "visits", short.list, hometest.Steward); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("confirmed with another list: %v", err)
	}
	w.check(w.steward.ConfirmReporters(ctx, "visits", w.list, hometest.Steward))
	w.check(w.steward.ConfirmReporters(ctx, "visits", w.list, hometest.Steward))
	if _, err := w.analyst.ReleaseBatch(ctx, "visits", 1); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("released before anything was delivered: %v", err)
	}

	// One of each kind of bad report among 20 good ones.
	reports := good(0, 20)
	bad := map[string][]byte{"malformed": good(20, 21)[0][:100], "of another collection": w.report(other, 21)}
	stranger := w.report(task, 22)
	binary.LittleEndian.PutUint32(stranger[reporterAt:], 60)
	bad["from nobody enrolled"] = resign(stranger, w.reporters[22])
	unsigned := w.report(task, 23)
	unsigned[len(unsigned)-1] ^= 1
	bad["signature does not verify"] = unsigned
	garbled := w.report(task, 24)
	garbled[leaderAt+2000] ^= 1
	bad["not decryptable"] = resign(garbled, w.reporters[24])
	bad["proof does not verify"] = w.unproven(task, 25)
	bad["seen before"] = reports[0]
	bad["second of one reporter in a batch"] = w.report(task, 1)
	want := []enclave.RefusedCount{}
	for rule, data := range bad {
		reports = append(reports, data)
		want = append(want, enclave.RefusedCount{Rule: rule, Count: 1})
	}
	slices.SortFunc(want, func(a, b enclave.RefusedCount) int { return bytes.Compare([]byte(a.Rule), []byte(b.Rule)) })
	w.deliver("visits", 1, reports...)

	// The helper is away: nothing is decided, and nothing is lost when it comes back.
	c.Stop(helper)
	var away *refusal.UnavailableError
	if _, err := w.analyst.ReleaseBatch(ctx, "visits", 1); !errors.As(err, &away) {
		t.Errorf("released without the helper: %v", err)
	}
	c.Begin(helper)
	c.Ready()
	first := w.released("visits", 1)
	var out enclave.Collected
	w.check(first.Release.Open(enclave.KindCollected, &out))
	if diff := cmp.Diff(want, out.Refused); diff != "" || out.Reports != 20 || out.ChargedMicro != 500_000 {
		t.Errorf("%d reports counted for %d, refused (-want +got)\n%s", out.Reports, out.ChargedMicro, diff)
	}
	id, err := w.analyst.Identity(hometest.Analyst)
	w.check(err)
	plain, err := id.Open(keys.TableInfo(first.Release.Digest()), first.Table)
	w.check(err)
	if canon.Sum(plain) != out.Table {
		t.Error("the table is not the one announced")
	}

	// Asked again, after all have been restarted, it is the same.
	for _, name := range []string{leader, helper, clustertest.Labd} {
		c.Stop(name)
		c.Begin(name)
	}
	c.Ready()
	again := w.released("visits", 1)
	if again.Release.Digest() != first.Release.Digest() {
		t.Error("asked again, the batch is another release")
	}
	if _, err := w.steward.Deliver(ctx, "visits", 1, w.files(good(30, 42)...), hometest.Steward); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("delivered again after its release: %v", err)
	}

	// Anyone can follow it back, offline.
	receipt, err := c.Person("zhao.min").CollectionBundle(ctx, "visits", 1)
	w.check(err)
	if _, got, err := release.CheckCollected(receipt, w.analyst.RootKey()); err != nil || got.Reports != 20 {
		t.Errorf("the receipt gives %+v, %v", got, err)
	}

	// What was counted counts nowhere else; a fresh batch of the same reporters does, and ends the scenario's budget.
	w.deliver("visits", 2, reports[:20]...)
	eventually(t, "the refusal of a replayed batch", func() (bool, error) { // they find each other again after the restart
		_, err := w.analyst.ReleaseBatch(ctx, "visits", 2)
		return errors.Is(err, refusal.ErrBatch), err
	})
	lied(w, receipt, leader, helper)
	w.deliver("visits", 2, good(0, 20)...)
	_, err = w.analyst.ReleaseBatch(ctx, "visits", 2)
	w.check(err)
	w.check(w.steward.ConfirmReporters(ctx, "others", w.list, hometest.Steward))
	var more [][]byte
	for i := range 12 {
		more = append(more, w.report(other, i))
	}
	w.deliver("others", 1, more...)
	if _, err := w.analyst.ReleaseBatch(ctx, "others", 1); !errors.Is(err, refusal.ErrBudget) {
		t.Errorf("beyond the scenario's budget: %v", err)
	}
	if _, err := w.analyst.Submit(ctx, lab.Request{Analyst: hometest.Analyst, Scenario: out.Scenario, Query: "SELECT COUNT(*) FROM health", EpsilonMicro: 500_000},
		func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) }); err != nil {
		t.Fatal(err)
	}
	jobs, err := w.analyst.Jobs(ctx, sandbox.JobFilter{})
	w.check(err)
	if _, err := w.analyst.Run(ctx, jobs[0].ID, nil); !errors.Is(err, refusal.ErrBudget) {
		t.Errorf("a job after the collection has spent the scenario's budget: %v", err)
	}
	fsck, err := c.Person("zhao.min").Fsck(ctx)
	if err != nil {
		t.Errorf("the log: %+v, %v", fsck, err)
	}
}

// lied plays a control plane that does not hand on what was delivered. The leader's custodian refuses all of it.
func lied(w *collected, receipt *enclave.CollectionBundle, leader, helper string) {
	w.t.Helper()
	info, err := w.analyst.Info(w.t.Context())
	w.check(err)
	conn, err := rpc.Dial(info.Custodians[leader], source(w.t, w.c, "lab", "lab").Client(pki.Name{Role: "custodian", Party: leader}))
	w.check(err)
	defer conn.Close()
	var d enclave.Delivery
	w.check(receipt.Delivery.Open(enclave.KindDelivery, &d))
	if len(d.Blobs) < 3 {
		w.t.Fatalf("%d blobs are too few to play with", len(d.Blobs))
	}
	for name, change := range map[string]func(*enclave.CollectionBundle){
		"withheld": func(b *enclave.CollectionBundle) { b.Delivery.Body = blobs(d, d.Blobs[1:]) },
		"twice": func(b *enclave.CollectionBundle) {
			b.Delivery.Body = blobs(d, append(slices.Clone(d.Blobs), d.Blobs[0]))
		},
		"reordered": func(b *enclave.CollectionBundle) {
			b.Delivery.Body = blobs(d, []enclave.DeliveryBlob{d.Blobs[1], d.Blobs[0], d.Blobs[2]})
		},
		"of a batch 2": func(b *enclave.CollectionBundle) { e := d; e.Batch = 2; b.Delivery.Body = canon.MustMarshal(e) },
		"unconfirmed":  func(b *enclave.CollectionBundle) { b.Collection.Sigs = b.Collection.Sigs[:1] },
		"kept back":    func(b *enclave.CollectionBundle) { b.Statements = b.Statements[1:] },
		"not logged":   func(b *enclave.CollectionBundle) { b.Proofs = b.Proofs[:1] },
	} {
		b := *receipt
		b.Collected = enclave.Signed{}
		change(&b)
		var refused *refusal.Refusal
		if _, err := custodian.New(leader, conn).LeadBatch(w.t.Context(), &b); !errors.As(err, &refused) || refused.Custodian != leader {
			w.t.Errorf("%s: %v", name, err)
		}
	}
	// Nobody but custodians has a batch helped with, and the control plane leads none at the helper.
	at, err := rpc.Dial(info.Custodians[helper], source(w.t, w.c, "lab", "lab").Client(pki.Name{Role: "custodian", Party: helper}))
	w.check(err)
	defer at.Close()
	b := *receipt
	b.Collected = enclave.Signed{}
	if _, err := custodian.New(helper, at).LeadBatch(w.t.Context(), &b); !errors.Is(err, refusal.ErrBatch) {
		w.t.Errorf("the helper leads: %v", err)
	}
}

func blobs(d enclave.Delivery, bs []enclave.DeliveryBlob) []byte {
	d.Blobs = bs
	return canon.MustMarshal(d)
}
