package release_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/plan"
)

// world is a lab around three custodians: real keys, log, witness, planner and sealing, in temporary folders.
type world struct {
	t          testing.TB
	dir        string
	epoch      time.Time
	passed     atomic.Int64 // nanoseconds since epoch
	root       *keys.Identity
	ids        map[string]*keys.Identity
	roster     operators.Roster
	signed     canon.Signed // roster
	log        *audit.Log
	logKey     audit.KeyPair
	witnessKey audit.KeyPair
	blobs      *store.Store
	custodians map[string]*release.Custodian
	statements []canon.Signed
	keysets    map[string]canon.Signed
	manifests  map[string]canon.Signed
	secrets    map[string]*he.SecretKey
	refreshes  []canon.Signed
	scenario   canon.Digest
	logged     map[canon.Digest]int64
	jobs       int
	node       func(name string, own *store.Store) release.Node // compute nodes; nil = none
}

var (
	custodianNames = []string{"cust-a", "cust-b", "cust-c"}
	program        = canon.Sum([]byte("the approved worker"))
)

const (
	agency = "water bureau"
	rival  = "tax office"
)

// The log's storage writes to the process's standard error unless told otherwise before the first log opens.
func TestMain(m *testing.M) {
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), epoch: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC), ids: map[string]*keys.Identity{},
		custodians: map[string]*release.Custodian{}, keysets: map[string]canon.Signed{}, manifests: map[string]canon.Signed{},
		secrets: map[string]*he.SecretKey{}, logged: map[canon.Digest]int64{}}
	w.root = w.identity("root")
	logKey, witnessKey, err := audit.GenerateKeys("test.lab/log")
	w.check(err)
	w.roster = operators.Roster{Lab: "test", Serial: 1, Quorum: 2, Log: logKey.Public, Witness: witnessKey.Public, Made: w.at()}
	for _, p := range []operators.Party{
		{Name: "official-1", Role: operators.RoleOfficial, Body: "bureau"}, {Name: "official-2", Role: operators.RoleOfficial, Body: "bureau"},
		{Name: "steward", Role: operators.RoleSteward, Body: agency}, {Name: "rival-steward", Role: operators.RoleSteward, Body: rival},
		{Name: "analyst", Role: operators.RoleAnalyst, Body: "operator"}, {Name: "node", Role: operators.RoleNode, Body: "datacentre"},
		{Name: "lab", Role: operators.RoleLab, Body: "bureau"},
		{Name: "cust-a", Role: operators.RoleCustodian, Body: "body a"}, {Name: "cust-b", Role: operators.RoleCustodian, Body: "body b"}, {Name: "cust-c", Role: operators.RoleCustodian, Body: "body c"},
	} {
		id := w.identity(p.Name)
		p.Verify, p.HPKE = id.Verify(), id.HPKE()
		w.roster.Parties = append(w.roster.Parties, p)
	}
	w.signed = w.sign("root", operators.KindRoster, w.roster)
	w.openLog(logKey, witnessKey)
	w.announce(enclave.EntryRoster, w.signed.Digest())
	w.blobs, err = store.Open(filepath.Join(w.dir, "blobs"))
	w.check(err)
	for _, name := range custodianNames {
		w.openCustodian(name)
	}
	w.connect()
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) at() canon.Time { return canon.At(w.now()) }

// now is the clock of everybody. Servers read it while a test moves it.
func (w *world) now() time.Time { return w.epoch.Add(time.Duration(w.passed.Load())) }

func (w *world) pass(d time.Duration) { w.passed.Add(int64(d)) }

// tick lets a second pass, so that statements have an order.
func (w *world) tick() { w.pass(time.Second) }

func (w *world) identity(name string) *keys.Identity {
	w.t.Helper()
	id, err := keys.NewIdentity(name)
	w.check(err)
	w.ids[name] = id
	return id
}

func (w *world) sign(by, kind string, v any) canon.Signed {
	w.t.Helper()
	s, err := keys.SealWith(w.ids[by], kind, v)
	w.check(err)
	return s
}

func (w *world) openLog(logKey, witnessKey audit.KeyPair) {
	w.t.Helper()
	w.logKey, w.witnessKey = logKey, witnessKey
	signer, verifier, err := audit.NewLogSigner(logKey.Secret)
	w.check(err)
	cosigner, err := audit.NewWitnessSigner(witnessKey.Secret)
	w.check(err)
	witness, err := audit.NewWitness(filepath.Join(w.dir, "witness"), cosigner, verifier)
	w.check(err)
	w.log, err = audit.Open(w.t.Context(), audit.Config{Dir: filepath.Join(w.dir, "log"), Signer: signer, Verifier: verifier, Witness: witness})
	w.check(err)
	w.t.Cleanup(func() {
		w.log.Close(context.Background())
		witness.Close()
	})
}

// announce logs a subject and remembers where.
func (w *world) announce(kind string, d canon.Digest) {
	w.t.Helper()
	proofs, err := w.log.Append(w.t.Context(), enclave.Entry{Type: kind, Subject: d, By: "lab", At: w.at()})
	w.check(err)
	w.logged[d] = proofs[0].Index
}

// logView is the log as custodians see it; a test may replace what it answers.
type logView struct {
	*audit.Log
	down bool
}

func (l *logView) Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error) {
	if l.down {
		return nil, errors.New("the log is down")
	}
	return l.Log.Append(ctx, entries...)
}

func (l *logView) Checkpoint(ctx context.Context) (string, error) {
	text, _, err := l.Log.Checkpoint(ctx)
	return text, err
}

func (l *logView) Leaves(ctx context.Context, from, to int64) ([][]byte, error) {
	var out [][]byte
	for rec, err := range l.Entries(ctx, from, to) {
		if err != nil {
			return nil, err
		}
		out = append(out, rec.Raw)
	}
	return out, nil
}

func (w *world) openCustodian(name string) *release.Custodian {
	w.t.Helper()
	return w.openCustodianOn(name, &logView{Log: w.log})
}

func (w *world) openCustodianOn(name string, log release.Log) *release.Custodian {
	w.t.Helper()
	return w.openCustodianFrom(name, log, w.blobs)
}

func (w *world) openCustodianFrom(name string, log release.Log, blobs store.Source) *release.Custodian {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
	w.check(err)
	own, err := store.Open(filepath.Join(dir, "mirror"))
	w.check(err)
	copies := mirror.New(own, blobs)
	cfg := release.Config{Dir: filepath.Join(dir, "state"), Signer: w.ids[name], Keys: ring, Mirror: copies, RootKey: w.root.Verify(), Roster: w.signed,
		Log: log, Build: build, Clock: w.now, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if w.node != nil {
		cfg.Node, cfg.Open = w.node(name, own), w.ids[name].Open
	}
	c, err := release.New(cfg)
	w.check(err)
	w.t.Cleanup(func() {
		c.Close()
		copies.Close()
	})
	w.custodians[name] = c
	return c
}

// restart closes a custodian and opens it again from its folder.
func (w *world) restart(name string) {
	w.t.Helper()
	w.check(w.custodians[name].Close())
	w.openCustodian(name)
	w.connect()
}

func (w *world) connect() {
	for _, c := range w.custodians {
		c.Connect(w.members(custodianNames...)...)
	}
}

func (w *world) members(names ...string) (out []release.Member) {
	for _, n := range names {
		if c := w.custodians[n]; c != nil {
			out = append(out, c)
		}
	}
	return out
}

func build(q release.Question) (*enclave.Plan, error) {
	r := plan.Request{Query: q.Query, EpsilonMicro: q.EpsilonMicro, Grant: q.Grant, GrantDigest: q.GrantDigest,
		Keyset: q.Keyset, KeysetDigest: q.KeysetDigest, Manifest: q.Manifest, ManifestDigest: q.ManifestDigest}
	for _, o := range q.Others {
		r.Others = append(r.Others, plan.Source{Keyset: o.Keyset, KeysetDigest: o.KeysetDigest, Manifest: o.Manifest, ManifestDigest: o.ManifestDigest})
	}
	return plan.Build(r)
}

const schemaText = `{"fields":[
 {"name":"id","type":"string","constraints":{"required":true},"yingzhou":{"uses":["key"]}},
 {"name":"town","type":"string","constraints":{"required":true,"enum":["north","south","islet"]},"yingzhou":{"uses":["group","filter"]}},
 {"name":"x","type":"integer","constraints":{"required":true,"minimum":0,"maximum":100},"yingzhou":{"uses":["aggregate"]}},
 {"name":"y","type":"integer","constraints":{"required":true,"minimum":0,"maximum":10},"yingzhou":{"uses":["aggregate"]}}],
 "yingzhou":{"dataset":%q,"params":"bgv13-t36","entity_rows":1,"budget":%d,
 "catalog":{"title":"t","classification":"c","level":2,"sharing":"conditional","opening":"conditional","update_cycle":"yearly","unit":"u","legal_basis":"b"},
 "layouts":[{"name":"cube","kind":"cube","dims":["town"],"measures":["x"]},
            {"name":"rows","kind":"rows","indicators":[["town"]],"measures":["y"]}]}}`

// Rows of the sealed table: 300 in the north with x = 10, 200 in the south with x = 50, 3 on the islet with x = 90.
func rows() string {
	var b strings.Builder
	b.WriteString("id,town,x,y\n")
	n := 0
	for _, g := range []struct {
		town string
		n, x int
	}{{"north", 300, 10}, {"south", 200, 50}, {"islet", 3, 90}} {
		for range g.n {
			n++
			fmt.Fprintf(&b, "p%04d,%s,%d,%d\n", n, g.town, g.x, g.x/10)
		}
	}
	return b.String()
}

// register deals a dataset's key and seals the table, as its steward.
func (w *world) register(dataset, steward, body string, budget int) {
	w.t.Helper()
	sc, err := schema.Parse(fmt.Appendf(nil, schemaText, dataset, budget))
	w.check(err)
	dealt, err := seal.Deal(seal.Dealing{Dataset: dataset, Params: sc.Params(), Custodians: w.roster.WithRole(operators.RoleCustodian), Quorum: 2,
		EntityRows: sc.Sealing.EntityRows, BudgetMicro: sc.BudgetMicro(), Made: w.at()}, w.ids[steward], body)
	w.check(err)
	for _, p := range dealt.Pieces {
		w.check(w.custodians[p.Custodian].Accept(w.t.Context(), dealt.Keyset, p.Piece, p.Sealed, w.ids[p.Custodian].Open))
	}
	w.keysets[dataset], w.secrets[dataset] = dealt.Keyset, dealt.Key
	w.announce(enclave.EntryKeyset, dealt.Keyset.Digest())
	params, err := he.Compile(sc.Params())
	w.check(err)
	in, err := table.NewCSV(strings.NewReader(rows()), table.Options{})
	w.check(err)
	cfg := seal.Config{Table: in, Schema: sc, Key: dealt.Key, Params: params, Keyset: dealt.Keyset.Digest(), Blobs: w.blobs}
	res, err := seal.Seal(w.t.Context(), cfg)
	w.check(err)
	signed, _, err := seal.Manifest(res, cfg, 1, canon.Digest{}, body, "csv", w.ids[steward], w.at())
	w.check(err)
	w.manifests[dataset] = signed
	w.announce(enclave.EntryManifest, signed.Digest())
}

// lineage is the keyset of a dataset now, and what it is called.
func (w *world) lineage(dataset string) (*enclave.Keyset, canon.Digest) {
	w.t.Helper()
	ks, sum, err := enclave.Lineage(w.keysets[dataset].Digest(), append([]canon.Signed{w.keysets[dataset]}, w.refreshes...), 0)
	w.check(err)
	return ks, sum
}

// deal refreshes a dataset's keyset for the custodians of the roster, who accept their pieces. It is not logged yet.
func (w *world) deal(dataset, steward string) canon.Signed {
	w.t.Helper()
	w.tick()
	ks, sum := w.lineage(dataset)
	dealt, err := seal.Refresh(ks, sum, w.roster.WithRole(operators.RoleCustodian), ks.BudgetMicro, w.at(), w.secrets[dataset], w.ids[steward])
	w.check(err)
	for _, p := range dealt.Pieces {
		w.check(w.custodians[p.Custodian].Accept(w.t.Context(), dealt.Keyset, p.Piece, p.Sealed, w.ids[p.Custodian].Open))
	}
	return dealt.Keyset
}

// refresh registers one: from its entry on it is in force.
func (w *world) refresh(s canon.Signed) {
	w.refreshes = append(w.refreshes, s)
	w.announce(enclave.EntryKeyset, s.Digest())
}

func (w *world) manifest(dataset string) *enclave.Manifest {
	w.t.Helper()
	var m enclave.Manifest
	s := w.manifests[dataset]
	w.check(s.Open(enclave.KindManifest, &m))
	return &m
}

// state records a statement and logs it.
func (w *world) state(by, kind string, v any) canon.Signed {
	w.t.Helper()
	w.tick()
	s := w.sign(by, kind, v)
	w.statements = append(w.statements, s)
	w.announce(enclave.EntryStatement, s.Digest())
	return s
}

var uses = []operators.ColumnUse{{Column: "town", Uses: []operators.Use{operators.UseFilter, operators.UseGroup}}, {Column: "x", Uses: []operators.Use{operators.UseAggregate}}, {Column: "y", Uses: []operators.Use{operators.UseAggregate}}}

// license and approve a scenario over datasets, each consented to by its steward.
func (w *world) approve(epsilon int64, stewards map[string]string) {
	w.t.Helper()
	w.state("official-1", operators.KindLicense, operators.License{Operator: "operator", NotBefore: w.at(), NotAfter: canon.At(w.now().AddDate(2, 0, 0)),
		SecurityReview: "r", Agreement: "a", By: "official-1", Made: w.at()})
	var datasets []operators.DatasetUse
	for name := range stewards {
		datasets = append(datasets, operators.DatasetUse{Dataset: name, Columns: uses})
	}
	slices.SortFunc(datasets, func(a, b operators.DatasetUse) int { return strings.Compare(a.Dataset, b.Dataset) })
	s := w.state("analyst", operators.KindScenario, operators.Scenario{Name: "s", Operator: "operator", Purpose: "p", Datasets: datasets, EpsilonMicro: epsilon,
		JobEpsilonMicro: 2_000_000, MinCohort: 10, MarginMilli: 2000, Workers: []canon.Digest{program}, NotAfter: canon.At(w.now().AddDate(1, 0, 0)), By: "analyst", Made: w.at()})
	w.scenario = s.Digest()
	for _, d := range datasets {
		w.state(stewards[d.Dataset], operators.KindConsent, operators.Consent{Scenario: w.scenario, Use: d, EpsilonMicro: epsilon, By: stewards[d.Dataset], Made: w.at()})
	}
	w.decide("official-1", w.scenario, operators.Approve)
	w.decide("official-2", w.scenario, operators.Approve)
	w.tick()
}

func (w *world) decide(by string, subject canon.Digest, v operators.Verdict) canon.Signed {
	w.t.Helper()
	return w.state(by, operators.KindDecision, operators.Decision{Subject: subject, Verdict: v, Reason: "r", By: by, Made: canon.At(w.now().Add(time.Second))})
}

// ready is a world with one sealed dataset, "water", and an approved scenario.
func ready(t testing.TB) *world {
	w := newWorld(t)
	w.register("water", "steward", agency, 20)
	w.approve(20_000_000, map[string]string{"water": "steward"})
	return w
}

func (w *world) owners() map[string]string {
	out := map[string]string{}
	for _, s := range w.keysets {
		var ks enclave.Keyset
		w.check(s.Open(enclave.KindKeyset, &ks))
		out[ks.Dataset] = ks.Owner
	}
	return out
}

const (
	cubeQuery = "SELECT town, COUNT(*), AVG(x) FROM water GROUP BY town"
	rowsQuery = "SELECT town, COUNT(*), AVG(y) FROM water GROUP BY town"
)

// job takes a query to where custodians are asked: planned, computed by the node, logged.
func (w *world) job(query string, epsilon int64) *enclave.Bundle {
	w.t.Helper()
	name, err := plan.Dataset(query)
	w.check(err)
	g, err := operators.Authorize(operators.Statements{Roster: w.signed, RootKey: w.root.Verify(), All: w.statements, Owners: w.owners()},
		operators.Request{Operator: "operator", Scenario: w.scenario, Analyst: "analyst", Now: w.now()})
	w.check(err)
	ksSigned := w.keysets[name]
	ks, _ := w.lineage(name)
	p, err := build(release.Question{Query: query, EpsilonMicro: epsilon, Grant: g, GrantDigest: canon.DigestOf(g), Keyset: ks, KeysetDigest: ksSigned.Digest(),
		Manifest: w.manifest(name), ManifestDigest: w.manifests[name].Digest()})
	w.check(err)
	b := &enclave.Bundle{Format: enclave.KindBundle, Roster: w.signed, Statements: slices.Clone(w.statements), Grant: w.sign("lab", operators.KindGrant, g), Manifest: w.manifests[name]}
	for _, s := range w.keysets {
		b.Keysets = append(b.Keysets, s)
	}
	b.Keysets = append(b.Keysets, w.refreshes...)
	w.plan(b, p)
	return b
}

// plan puts a plan into a bundle: signed by the analyst, computed, with a receipt, logged and proven.
func (w *world) plan(b *enclave.Bundle, p *enclave.Plan) {
	w.t.Helper()
	b.Plan = w.sign("analyst", enclave.KindPlan, p)
	w.receipt(b, p, nil)
}

// receipt computes as the node and lets alter change the receipt before it is signed.
func (w *world) receipt(b *enclave.Bundle, p *enclave.Plan, alter func(*enclave.Receipt)) {
	w.t.Helper()
	var m enclave.Manifest
	w.check(b.Manifest.Open(enclave.KindManifest, &m))
	layout, _ := m.Layout(p.Layout)
	_, terms, err := p.Expand(&m)
	w.check(err)
	inputs, _ := layout.Inputs(terms)
	cts := w.evaluate(&m, p)
	w.jobs++
	w.tick()
	r := enclave.Receipt{Job: fmt.Sprintf("job-%d", w.jobs), Plan: canon.DigestOf(p), Inputs: inputs, Worker: program, Isolation: "test", Terms: int64(len(terms)),
		Output: evaluator.OutputDigest(cts), Started: w.at(), Ended: w.at(), By: "node"}
	if alter != nil {
		alter(&r)
	}
	b.Receipt = w.sign("node", enclave.KindReceipt, r)
	w.announce(enclave.EntryPlan, b.Plan.Digest())
	w.announce(enclave.EntryReceipt, b.Receipt.Digest())
	w.prove(b)
}

// evaluate computes a plan as a node does: a ciphertext for each term.
func (w *world) evaluate(m *enclave.Manifest, p *enclave.Plan) []evaluator.Ciphertext {
	w.t.Helper()
	layout, _ := m.Layout(p.Layout)
	_, terms, err := p.Expand(m)
	w.check(err)
	params, err := evaluator.Compile(p.Params)
	w.check(err)
	own, err := store.Open(filepath.Join(w.dir, "node"))
	w.check(err)
	copies := mirror.New(own, w.blobs)
	defer copies.Close()
	_, vectors := layout.Inputs(terms)
	w.check(copies.Fetch(w.t.Context(), m.Keyset, p.Params, layout, vectors))
	cts, err := evaluator.Evaluate(w.t.Context(), params, layout, terms, copies, 1, nil)
	w.check(err)
	return cts
}

// prove renews a bundle's proofs.
func (w *world) prove(b *enclave.Bundle) {
	w.t.Helper()
	b.Proofs = nil
	subjects := []canon.Digest{b.Roster.Digest(), b.Manifest.Digest(), b.Plan.Digest(), b.Receipt.Digest()}
	for _, s := range b.Manifests {
		subjects = append(subjects, s.Digest())
	}
	for _, s := range append(slices.Clone(b.Keysets), b.Statements...) {
		subjects = append(subjects, s.Digest())
	}
	for _, d := range subjects {
		at, ok := w.logged[d]
		if !ok {
			continue
		}
		p, err := w.log.Prove(w.t.Context(), at)
		w.check(err)
		b.Proofs = append(b.Proofs, p)
	}
}

// open releases a bundle with the named custodians, led by the first, and returns the table.
func (w *world) open(b *enclave.Bundle, names ...string) (*release.Outcome, *enclave.Table, error) {
	w.t.Helper()
	out, err := w.custodians[names[0]].Lead(w.t.Context(), b, w.members(names...), nil)
	if err != nil {
		return nil, nil, err
	}
	plain, err := w.ids["analyst"].Open(keys.TableInfo(out.Release.Digest()), out.Sealed)
	w.check(err)
	var tab enclave.Table
	w.check(canon.Unmarshal(plain, &tab))
	return out, &tab, nil
}

// shares reads a custodian's stored shares of a plan.
func (w *world) shares(custodian string, b *enclave.Bundle, stage int) []byte {
	w.t.Helper()
	d := b.Plan.Digest()
	data, err := os.ReadFile(filepath.Join(w.dir, custodian, "state", "shares", fmt.Sprintf("%x-%d.json", d[:], stage)))
	w.check(err)
	return data
}

func (w *world) forgetShares(custodian string) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, custodian, "state", "shares", "*.json"))
	w.check(err)
	for _, f := range files {
		w.check(os.Remove(f))
	}
}

// wantRefusal checks the rule, and that the custodian wrote the refusal into its ledger and the log.
func (w *world) wantRefusal(err error, rule error) {
	w.t.Helper()
	if !errors.Is(err, rule) {
		w.t.Errorf("got %v\nwant a refusal: %v", err, rule)
		return
	}
	var r *release.Refusal
	if !errors.As(err, &r) || r.Custodian == "" {
		w.t.Errorf("refusal does not name its custodian: %v", err)
		return
	}
	ledger, rerr := os.ReadFile(filepath.Join(w.dir, r.Custodian, "state", "ledger.jsonl"))
	w.check(rerr)
	if !bytes.Contains(ledger, []byte("\n")) {
		w.t.Errorf("custodian %q has an empty ledger after a refusal", r.Custodian)
	}
	_, cp, err := w.log.Checkpoint(w.t.Context())
	w.check(err)
	for rec, err := range w.log.Entries(w.t.Context(), 0, cp.Size) {
		w.check(err)
		if rec.Entry.Type == enclave.EntryRefusal && rec.Entry.By == r.Custodian && rec.Entry.Reason == rule.Error() {
			return
		}
	}
	w.t.Errorf("the log has no entry of %q's refusal", r.Custodian)
}

func (w *world) tryOpen(name string) (*release.Custodian, error) {
	dir := filepath.Join(w.dir, name)
	ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
	w.check(err)
	own, err := store.Open(filepath.Join(dir, "mirror"))
	w.check(err)
	return release.New(release.Config{Dir: filepath.Join(dir, "state"), Signer: w.ids[name], Keys: ring, Mirror: mirror.New(own, w.blobs), RootKey: w.root.Verify(),
		Roster: w.signed, Log: &logView{Log: w.log}, Build: build, Clock: w.now})
}

func hexOf(d canon.Digest) string { return fmt.Sprintf("%x", d[:]) }
