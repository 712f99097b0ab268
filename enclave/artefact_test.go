package enclave_test

import (
	"bytes"
	"crypto/ed25519"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

var update = flag.Bool("update", false, "write testdata anew; then pin the digests that the test prints")

// golden are the artefacts of one release, each naming the one before. Their bytes are in testdata and their digests
// here: whoever changes a format breaks every signature and log entry made before, and has to say so by changing these.
func golden() []struct {
	name   string
	value  any
	digest string
} {
	m := water()
	ks := enclave.Keyset{Dataset: "water", Owner: "水务局", Params: enclave.DefaultParams, Custodians: []string{"custodian-bureau", "custodian-cyber", "custodian-notary"},
		Quorum: 2, EntityRows: 1, BudgetMicro: 20_000_000, Epoch: 1, By: "lin.hua", Made: at("2026-11-01T08:00:00Z")}
	for i := range 3 {
		ks.Pieces = append(ks.Pieces, enclave.Piece{Without: []int{i}, Commitment: digest("piece " + string(rune('0'+i)))})
	}
	m.Keyset = canon.DigestOf(ks)
	p := countByTown(m)
	receipt := enclave.Receipt{Job: "job-01k8x2m9d4e5f6g7h8j9k0m1n2", Plan: canon.DigestOf(p), Inputs: []enclave.Digest{m.Layouts[0].Vectors[0].Blob, m.Layouts[0].Vectors[1].Blob},
		Worker: digest("worker"), Isolation: "process: namespaces, seccomp, landlock", Terms: 6, Output: digest("output"),
		Started: at("2026-11-03T08:00:00Z"), Ended: at("2026-11-03T08:00:01Z"), By: "node"}
	table := enclave.Table{Salt: bytes.Repeat([]byte{7}, 32),
		Columns: []enclave.TableCol{{Name: "town", Type: "label"}, {Name: "COUNT(*)", Type: "number"}, {Name: "AVG(m3)", Type: "number"}},
		Rows: []enclave.TableRow{{Values: []enclave.Value{{Text: "堡镇"}, {Text: "5021", StdErr: "2.4"}, {Text: "101.3", StdErr: "0.2"}}},
			{Values: []enclave.Value{{Text: "城桥镇"}, {Text: "24", StdErr: "2.4"}, {Null: "the count of rows is zero or too small beside its noise to divide by"}}}},
		Suppressed: []enclave.Suppressed{{Labels: []string{"庙镇"}, Rule: "fewer than 10 people"}}}
	release := enclave.Release{Job: receipt.Job, Operator: p.Operator, Scenario: p.Scenario, Grant: p.Grant, Manifest: p.Manifest, Keyset: p.Keyset,
		Plan: receipt.Plan, Receipt: canon.DigestOf(receipt), Table: canon.DigestOf(table), Cells: 3, Suppressed: 1, ChargedMicro: 2_000_000,
		Custodians: []string{"custodian-bureau", "custodian-notary"}, Made: at("2026-11-03T08:00:02Z")}
	entry := enclave.Entry{Type: enclave.EntryRefusal, Subject: receipt.Plan, By: "custodian-cyber", Job: receipt.Job, Reason: "dataset \"water\": budget spent", At: release.Made}
	signed := func(kind string, v any, by ...string) enclave.Signed {
		s := enclave.Signed{Kind: kind, Body: canon.MustMarshal(v), Sigs: []canon.Signature{}}
		for _, name := range by {
			seed := canon.Sum([]byte("key of " + name))
			s.Sigs = append(s.Sigs, canon.Sign(kind, s.Body, name, ed25519.NewKeyFromSeed(seed[:])))
		}
		return s
	}
	roster := operators.Roster{Lab: "test", Serial: 1, Quorum: 2, Parties: []operators.Party{}, Log: "log", Witness: "witness", Made: ks.Made}
	bundle := enclave.Bundle{Format: enclave.KindBundle, Roster: signed(operators.KindRoster, roster, "root"), Statements: []enclave.Signed{},
		Grant: signed(operators.KindGrant, struct{}{}), Keysets: []enclave.Signed{signed(enclave.KindKeyset, ks, ks.By)},
		Manifest: signed(enclave.KindManifest, m, m.By), Plan: signed(enclave.KindPlan, p, "chen.yu", "lab"), Receipt: signed(enclave.KindReceipt, receipt, "node"),
		Release: signed(enclave.KindRelease, release, release.Custodians...),
		Proofs: []enclave.LogProof{{Entry: canon.MustMarshal(entry), Index: 3, Path: []enclave.Digest{digest("left"), digest("right")},
			Checkpoint: "yingzhou.lab/test\n4\n" + "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" + "\n\n— yingzhou.lab/test AAAAAAAA\n"}}}
	shared := *m
	shared.Layouts = []enclave.Layout{{Name: "joint", Kind: enclave.Shares, Axes: [][]string{}, Vectors: []enclave.Vector{
		{Name: "n", Blob: digest("n"), Bytes: 8300, Chunks: 1, Commitments: []enclave.Digest{digest("n0"), digest("n1"), digest("n2")}},
		{Name: "e", Blob: digest("e"), Bytes: 8300, Chunks: 1, Commitments: []enclave.Digest{digest("e0"), digest("e1"), digest("e2")}}},
		Shares: &enclave.ShareSet{Scenario: p.Scenario, Rows: 1024, Nodes: ks.Custodians, Keys: [][]byte{{0}, {1}, {2}, {3}, {4}, {5}}}}}
	enrolment := enclave.Enrolment{Reporters: []enclave.Reporter{{Name: "meter-01", Verify: bytes.Repeat([]byte{1}, 32)}, {Name: "meter-02", Verify: bytes.Repeat([]byte{2}, 32)}}}
	collection := enclave.Collection{Name: "winter", Operator: p.Operator, Scenario: p.Scenario, Dataset: "meters", Keyset: canon.DigestOf(ks), Column: "kwh",
		Measurement: enclave.Measurement{Kind: enclave.MeasureVector, Max: 1<<16 - 1, Labels: []string{"峰", "谷"}}, Aggregators: []string{"custodian-bureau", "custodian-notary"},
		EpsilonMicro: 500_000, Releases: 12, MinBatch: 1000, Enrolment: canon.DigestOf(enrolment), EnrolmentBytes: int64(len(canon.MustMarshal(enrolment))), NotAfter: at("2027-12-31T23:59:59Z"), By: "chen.yu", Made: release.Made}
	collected := enclave.Collected{Collection: canon.DigestOf(collection), Batch: 1, Scenario: p.Scenario, Grant: p.Grant, Keyset: canon.DigestOf(ks), Reports: 1005,
		Refused: []enclave.RefusedCount{{Rule: "proof does not verify", Count: 3}}, Accepted: digest("accepted"), Table: canon.DigestOf(table), ChargedMicro: 500_000,
		Aggregators: collection.Aggregators, Made: release.Made}
	delivery := enclave.Delivery{Collection: canon.DigestOf(collection), Batch: 1, Blobs: []enclave.DeliveryBlob{{Blob: digest("reports"), Bytes: 2_812_000}}, By: ks.By, Made: release.Made}
	batch := enclave.CollectionBundle{Format: enclave.KindCollectionBundle, Roster: bundle.Roster, Statements: []enclave.Signed{}, Keysets: bundle.Keysets,
		Collection: signed(enclave.KindCollection, collection, collection.By, ks.By), Delivery: signed(enclave.KindDelivery, delivery, ks.By),
		Collected: signed(enclave.KindCollected, collected, collection.Aggregators...), Proofs: bundle.Proofs}
	refresh := ks
	refresh.Custodians = []string{"custodian-bureau", "custodian-cyber", "custodian-archive"}
	refresh.Epoch, refresh.BudgetMicro, refresh.Made = 2, 5_000_000, at("2026-12-01T08:00:00Z")
	refresh.Origin, refresh.Previous, refresh.Pieces = canon.DigestOf(ks), canon.DigestOf(ks), nil
	for i := range 3 {
		refresh.Pieces = append(refresh.Pieces, enclave.Piece{Without: []int{i}, Commitment: digest("new piece " + string(rune('0'+i)))})
	}
	order := enclave.DisposalOrder{Dataset: "water", Owner: ks.Owner, Keyset: refresh.Origin, Cause: enclave.CauseAchieved, Reason: "项目验收[2026]8", By: ks.By, Made: at("2026-12-31T08:00:00Z")}
	var words []enclave.Signed
	for i, name := range refresh.Custodians {
		word := enclave.Destruction{Order: canon.DigestOf(order), Keyset: order.Keyset, Destroyed: []enclave.Destroyed{}, By: name, Made: order.Made}
		for p := range refresh.Pieces {
			if p != i {
				word.Destroyed = append(word.Destroyed, enclave.Destroyed{Keyset: canon.DigestOf(refresh), Piece: p, Attempt: "key piece is not held here"})
			}
		}
		words = append(words, signed(enclave.KindDestruction, word, name))
	}
	var destruction enclave.Destruction
	if err := words[0].Open(enclave.KindDestruction, &destruction); err != nil {
		panic(err)
	}
	disposal := enclave.Disposal{Order: signed(enclave.KindDisposalOrder, order, order.By),
		Keysets:      []enclave.Signed{signed(enclave.KindKeyset, ks, ks.By), signed(enclave.KindKeyset, refresh, ks.By)},
		Destructions: words, Blobs: receipt.Inputs, DataKeys: 1, Attempt: enclave.ErrNotFound.Error(), By: "lab", Made: order.Made}
	return []struct {
		name   string
		value  any
		digest string
	}{
		{"refresh", refresh, "sha256:a7259a9f4326813e87ccb33bd65a0b31ceba99088ae25cb1dd540be0ef7cc3e6"},
		{"disposal-order", order, "sha256:7b5b590f82cd91f62e73bc40c3b10117ae692721f0533045b52937f19fb760a6"},
		{"destruction", destruction, "sha256:f233dafcb3a0734a0d8ae0898ae9991314b512e16f58c9ce418c8b5329787123"},
		{"disposal-receipt", enclave.DisposalReceipt{Format: enclave.KindDisposalReceipt, Roster: bundle.Roster, Certificate: signed(enclave.KindDisposal, disposal, "lab"), Proofs: bundle.Proofs},
			"sha256:35b3ac4f0725b50068aefd03b38ceda4f1de6d0c6fb1edc596dc3b7b1317eca6"},
		{"disposal", disposal, "sha256:ba91c1db0814d1f522e4758c2da22609a45f58f89315e48bdcb1fe124f34efd1"},
		{"keyset", ks, "sha256:f6118ae0aa29f7083a3d70a7aee084babf92d3f25142259b97aa851cb31e6da0"},
		{"manifest", m, "sha256:9ee2a2d514f9981f24186b42f3770e8855b4b337c3d25763b8142374a1d66444"},
		{"plan", p, "sha256:6713a12421e242f11905be61a57fabbc4de320bc8cf90e2207847446abe8a2f1"},
		{"receipt", receipt, "sha256:cd750456362e46a9360a76f49aed02addb99ff2a397f8452b98ef40e8c8a9f34"},
		{"table", table, "sha256:4bcee6e9c502f6ac889c060d913694da4f477498242035459e9d95112aa79bf8"},
		{"release", release, "sha256:7b347d6de49f6f4c4705bcb42f1b5af3ccb7ba05a0e0a06303eada7be4309019"},
		{"entry", entry, "sha256:2254c029912afb6243585fbb5b2e4f8c9416cfcd6bdaa9b086c6d865bb48d6fb"},
		{"task", enclave.Task{Plan: *p, Manifest: *m, Files: []enclave.TaskFile{{Name: "0000.blob", Digest: digest("file")}}}, "sha256:6e48181fbf1dc4966d038d6cacc9ce66f3ddb6e6bb3a67c7738481b8b2c80a4e"},
		{"result", enclave.TaskResult{Plan: receipt.Plan, Terms: 6, Output: receipt.Output}, "sha256:53ea953f80d3a48b12ab0b7d38c2a60e2e600484d9ed2ee5f24b3106f400abed"},
		{"shared", shared, "sha256:fb21d7f9f09b64537120df1ca8ba06b25f20ed502b3b27a15713696cb86d6e6f"},
		{"enrolment", enrolment, "sha256:a579f1a69287ee3dd11540d28ab14265783c83b57d95e07c9e8e456ce861b1e9"},
		{"collection", collection, "sha256:270f14f631f43860525ca134d36ec388ce1184cb0842da4947ade191f399c8ff"},
		{"collected", collected, "sha256:8c38f92026fe61e2aefb7033ccc85bc57b7203aa6cd38b427f99eabb9b527adf"},
		{"delivery", delivery, "sha256:4be8c9d16d48930b1320a9b0efea2e5c4f38cd39ab8592b05006617ea790e80f"},
		{"collection-bundle", batch, "sha256:c07cf9f7065e58992748d400f3eaf72fea8f59b09e0a88f2734805a808ad8b15"},
		{"bundle", bundle, "sha256:f03cae8cc07562b1f0ec611f860433f914296926f82caeb0bd75b99fdd79b59a"},
	}
}

func TestArtefactsKeepTheirBytes(t *testing.T) {
	for _, g := range golden() {
		path := filepath.Join("testdata", g.name+".json")
		data := canon.MustMarshal(g.value)
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		kept, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(kept, data) {
			t.Errorf("%s now encodes to\n%s\nand was\n%s", g.name, data, kept)
		}
		if got := canon.Sum(kept).String(); got != g.digest {
			t.Errorf("%s is %s, pinned is %s", g.name, got, g.digest)
		}
	}
}

// What a query asks of the golden data has one noise key for ever: a change would charge, and answer anew, questions
// that were answered before.
func TestNoiseKeysKeepTheirBytes(t *testing.T) {
	m := water()
	for name, c := range map[string]struct {
		plan *enclave.Plan
		term int
		want string
	}{
		"cube":    {countByTown(m), 1, "sha256:7924f59c5f8d546ace7e9f7d95b669874c8d3f0187cbe2dc77aea83cae280110"},
		"product": {onRows(m, []string{"town"}, 3), 1, "sha256:e82b613de966cc8acc80e9bccaa593e7e8b79654f87414ff019dd2316e9e66ea"},
	} {
		if got := noiseKey(t, m, c.plan, c.term).String(); got != c.want {
			t.Errorf("%s: the noise key is %s, pinned is %s", name, got, c.want)
		}
	}
}

// fuzz checks a parser: it never panics, and what it accepts encodes to the same bytes. more may use what was accepted.
func fuzz[T any](f *testing.F, name string, more func(*testing.T, *T)) {
	seed, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		f.Fatal(err)
	}
	var v T
	if err := canon.Unmarshal(seed, &v); err != nil {
		f.Fatalf("the seed is not accepted: %v", err)
	}
	f.Add(seed)
	f.Add(append(bytes.Clone(seed), '\n'))
	f.Add(bytes.Replace(seed, []byte(":"), []byte(": "), 1))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v T
		if err := canon.Unmarshal(data, &v); err != nil {
			return
		}
		again, err := canon.Marshal(v)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted\n%s\nencodes to\n%s\n%v", data, again, err)
		}
		if more != nil {
			more(t, &v)
		}
	})
}

func FuzzKeyset(f *testing.F) {
	fuzz(f, "keyset", func(t *testing.T, ks *enclave.Keyset) {
		if ks.Validate() != nil {
			return
		}
		for c := range ks.Custodians { // any one custodian lacks a piece, else it could open alone
			lacks := false
			for _, p := range ks.Pieces {
				lacks = lacks || !p.Holds(c)
			}
			if !lacks {
				t.Errorf("custodian %d holds every piece of a valid keyset", c)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	fuzz(f, "manifest", func(t *testing.T, m *enclave.Manifest) {
		p := countByTown(m)
		for _, l := range m.Layouts {
			for _, axis := range l.Axes {
				if _, size, err := m.Dims(axis); err == nil && size <= 1<<12 {
					p.Layout, p.Axis, p.Keep, p.Groups = l.Name, axis, []enclave.Run{{Count: size}}, axis
					use(p, m)
				}
			}
		}
	})
}

func FuzzPlan(f *testing.F) {
	m := water()
	fuzz(f, "plan", func(t *testing.T, p *enclave.Plan) { use(p, m) })
}

func FuzzTask(f *testing.F) {
	fuzz(f, "task", func(t *testing.T, task *enclave.Task) {
		if _, size, err := task.Manifest.Dims(task.Plan.Axis); err == nil && size <= 1<<12 {
			use(&task.Plan, &task.Manifest)
		}
	})
}

// use does with a plan what workers and custodians do; none of it may panic on a plan that expands.
func use(p *enclave.Plan, m *enclave.Manifest) {
	cells, terms, err := p.Expand(m)
	if err != nil {
		return
	}
	l, _ := m.Layout(p.Layout)
	l.Inputs(terms)
	for _, c := range cells {
		p.Labels(m, c)
	}
	for _, t := range terms {
		p.NoiseKey(m, t)
	}
}

func FuzzDisposalOrder(f *testing.F) {
	fuzz(f, "disposal-order", func(_ *testing.T, o *enclave.DisposalOrder) { _ = o.Validate() })
}

func FuzzDestruction(f *testing.F) { fuzz[enclave.Destruction](f, "destruction", nil) }

func FuzzDisposal(f *testing.F) {
	fuzz(f, "disposal", func(_ *testing.T, d *enclave.Disposal) {
		var o enclave.DisposalOrder
		if d.Order.Open(enclave.KindDisposalOrder, &o) == nil {
			_, _, _ = enclave.Lineage(o.Keyset, d.Keysets, 0)
		}
	})
}

func FuzzDisposalReceipt(f *testing.F) {
	fuzz(f, "disposal-receipt", func(t *testing.T, r *enclave.DisposalReceipt) {
		if _, err := r.Check(make([]byte, 32), func(*operators.Roster) (enclave.LogKeys, error) { return enclave.LogKeys{}, nil }); err == nil {
			t.Error("it verifies under a key that signed nothing")
		}
	})
}

func FuzzReceipt(f *testing.F)    { fuzz[enclave.Receipt](f, "receipt", nil) }
func FuzzTable(f *testing.F)      { fuzz[enclave.Table](f, "table", nil) }
func FuzzRelease(f *testing.F)    { fuzz[enclave.Release](f, "release", nil) }
func FuzzEntry(f *testing.F)      { fuzz[enclave.Entry](f, "entry", nil) }
func FuzzTaskResult(f *testing.F) { fuzz[enclave.TaskResult](f, "result", nil) }

func FuzzBundle(f *testing.F) {
	fuzz(f, "bundle", func(t *testing.T, b *enclave.Bundle) {
		for _, p := range b.Proofs {
			enclave.ParseCheckpoint(p.Checkpoint)
		}
	})
}

func FuzzCollection(f *testing.F) {
	fuzz(f, "collection", func(t *testing.T, c *enclave.Collection) {
		if c.Validate() == nil && (c.Measurement.Size() < 1 || c.Measurement.Delta() < 1) {
			t.Errorf("%+v is valid and has no size or no sensitivity", c.Measurement)
		}
	})
}
func FuzzEnrolment(f *testing.F) { fuzz[enclave.Enrolment](f, "enrolment", nil) }
func FuzzDelivery(f *testing.F) {
	fuzz(f, "delivery", func(t *testing.T, d *enclave.Delivery) {
		if d.Validate() == nil && len(d.Blobs) == 0 {
			t.Error("a delivery of nothing is sound")
		}
	})
}

func FuzzCollectionBundle(f *testing.F) { fuzz[enclave.CollectionBundle](f, "collection-bundle", nil) }

func FuzzCollected(f *testing.F) { fuzz[enclave.Collected](f, "collected", nil) }

func FuzzShared(f *testing.F) {
	fuzz(f, "shared", func(t *testing.T, m *enclave.Manifest) {
		for i := range m.Layouts {
			if l := &m.Layouts[i]; l.CheckShares() == nil && len(l.ShareInfo(m.Keyset, 1, l.Shares.Nodes[1])) == 0 {
				t.Error("sound shares have no info string")
			}
		}
	})
}

func TestCheckShares(t *testing.T) {
	var m enclave.Manifest
	data, err := os.ReadFile(filepath.Join("testdata", "shared.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := canon.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	if err := m.Layouts[0].CheckShares(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*enclave.Layout){
		"kind":        func(l *enclave.Layout) { l.Kind = enclave.Rows },
		"no set":      func(l *enclave.Layout) { l.Shares = nil },
		"axis":        func(l *enclave.Layout) { l.Axes = [][]string{{"town"}} },
		"rows":        func(l *enclave.Layout) { l.Shares.Rows = 1000 },
		"no rows":     func(l *enclave.Layout) { l.Shares.Rows = 0 },
		"scenario":    func(l *enclave.Layout) { l.Shares.Scenario = enclave.Digest{} },
		"two nodes":   func(l *enclave.Layout) { l.Shares.Nodes = l.Shares.Nodes[:2] },
		"node twice":  func(l *enclave.Layout) { l.Shares.Nodes = []string{"a", "b", "a"} },
		"five keys":   func(l *enclave.Layout) { l.Shares.Keys = l.Shares.Keys[:5] },
		"commitments": func(l *enclave.Layout) { l.Vectors[0].Commitments = l.Vectors[0].Commitments[:2] },
		"twice":       func(l *enclave.Layout) { l.Vectors[1].Name = "n" },
		"no entity":   func(l *enclave.Layout) { l.Vectors[1].Name = "v:x" },
	} {
		l := m.Layouts[0]
		set := *l.Shares
		l.Shares, l.Vectors = &set, append([]enclave.Vector(nil), l.Vectors...)
		change(&l)
		if l.CheckShares() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	was := string(m.Layouts[0].ShareInfo(m.Keyset, 0, "a"))
	m.Layouts[0].Vectors[0].Commitments[1] = digest("other")
	if string(m.Layouts[0].ShareInfo(m.Keyset, 0, "a")) == was {
		t.Error("the info string does not bind the commitments")
	}
}
