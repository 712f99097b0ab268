package release_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/engine"
	mpclink "yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/mpctest"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/plan"
)

// inProcess is a compute node in a goroutine of the test, with real connections to the two others.
type inProcess struct {
	j    *joint
	name string
	own  *store.Store
}

// joint is a world with two datasets in share form.
type joint struct {
	*world
	runs atomic.Int64
	// differs is the custodian whose node is not what receipts say, if any.
	differs string
	// during is called when a node runs, with its custodian's name; the node ends with its error.
	during func(name string) error
	alter  func(name string, out *mpc.Output, tr *release.Transcript)
}

func (n *inProcess) Check(_ context.Context, r *enclave.Receipt) error {
	if r.Isolation != isolation || n.j.differs == n.name {
		return refusal.New(refusal.ErrReceipt, "this node is another")
	}
	return nil
}

func (n *inProcess) Run(ctx context.Context, job release.NodeJob) (*mpc.Output, *release.Transcript, error) {
	n.j.runs.Add(1)
	if n.j.during != nil {
		if err := n.j.during(n.name); err != nil {
			return nil, nil, &refusal.UnavailableError{What: "node of " + n.name, Cause: err}
		}
	}
	dealt := mpc.Dealt{Columns: map[string][2]mpc.Component{}, Commitments: mpc.Commitments{}}
	for i, s := range job.Sources {
		var cols []string
		for _, c := range job.Program.Tables[i].Columns {
			cols = append(cols, c.Name)
		}
		held, err := shares.Load(ctx, s.Keyset, &s.Layout, job.Party, s.Keys, cols, func(d enclave.Digest) (io.ReadCloser, error) { return os.Open(n.own.Path(d)) })
		if err != nil {
			return nil, nil, err
		}
		of, err := shares.Commitments(&s.Layout, s.Table, cols)
		if err != nil {
			return nil, nil, err
		}
		for name, pair := range held {
			dealt.Columns[s.Table+"."+name] = pair
		}
		for name, parts := range of {
			dealt.Commitments[name] = parts
		}
	}
	dir := filepath.Join(n.j.dir, "n")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	socket := func(party int) string { return filepath.Join(dir, fmt.Sprint(party%3)) }
	l, err := net.Listen("unix", socket(job.Party))
	if err != nil {
		return nil, nil, err
	}
	cert, err := mpctest.Certificate(job.Party)
	if err != nil {
		return nil, nil, err
	}
	pins, err := mpctest.Pins()
	if err != nil {
		return nil, nil, err
	}
	mesh, err := mpclink.Connect(ctx, mpclink.Config{Party: job.Party, Certificate: cert, Peers: pins, Job: job.Plan, Listener: l,
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket(job.Party+1))
		}})
	if err != nil {
		return nil, nil, err
	}
	defer mesh.Close()
	out, err := engine.Run(ctx, engine.Config{Party: job.Party, Next: mesh.Next, Prev: mesh.Prev, NoiseKey: job.NoiseKey, Abort: mesh.Abort}, job.Program, dealt)
	if err != nil {
		return nil, nil, err
	}
	tr := &release.Transcript{}
	if n.j.alter != nil {
		n.j.alter(n.name, out, tr)
	}
	return out, tr, nil
}

const isolation = "three goroutines"

const sharedSchema = `{"fields":[
 {"name":"id","type":"string","constraints":{"required":true},"yingzhou":{"uses":["key"],"identifier":"text"}},
 {"name":"town","type":"string","constraints":{"required":true,"enum":["north","south","islet"]},"yingzhou":{"uses":["group","filter"]}},
 {"name":%q,"type":"integer","constraints":{"required":true,"minimum":0,"maximum":100},"yingzhou":{"uses":["aggregate","filter"]}}],
 "yingzhou":{"dataset":%q,"params":"bgv13-t36","entity_rows":1,"budget":%d,
 "catalog":{"title":"t","classification":"c","level":2,"sharing":"conditional","opening":"conditional","update_cycle":"yearly","unit":"u","legal_basis":"b"},
 "layouts":[{"name":"joint","kind":"shares"}]}}`

const jointQuery = "SELECT water.town, COUNT(*), SUM(y), MEDIAN(x) FROM water JOIN tax ON entity WHERE x > 5 GROUP BY water.town"

// newJoint is a world where "water" (column x) and "tax" (column y) may be joined. tax has the given budget.
func newJoint(t *testing.T, taxBudget int) *joint {
	t.Helper()
	j := &joint{}
	j.world = newWorld(t)
	j.world.node = func(name string, own *store.Store) release.Node { return &inProcess{j, name, own} }
	for _, name := range custodianNames {
		j.restart(name)
	}
	scenarioUse := func(dataset, column string) operators.DatasetUse {
		return operators.DatasetUse{Dataset: dataset, Columns: []operators.ColumnUse{{Column: "id", Uses: []operators.Use{operators.UseJoin}},
			{Column: "town", Uses: []operators.Use{operators.UseFilter, operators.UseGroup}}, {Column: column, Uses: []operators.Use{operators.UseAggregate, operators.UseFilter}}}}
	}
	j.state("official-1", operators.KindLicense, operators.License{Operator: "operator", NotBefore: j.at(), NotAfter: canon.At(j.now().AddDate(2, 0, 0)), SecurityReview: "r", Agreement: "a", By: "official-1", Made: j.at()})
	datasets := []operators.DatasetUse{scenarioUse("tax", "y"), scenarioUse("water", "x")}
	j.scenario = j.state("analyst", operators.KindScenario, operators.Scenario{Name: "s", Operator: "operator", Purpose: "p", Datasets: datasets, EpsilonMicro: 40_000_000,
		JobEpsilonMicro: 12_000_000, MinCohort: 10, MarginMilli: 2000, Workers: []canon.Digest{program}, NotAfter: canon.At(j.now().AddDate(1, 0, 0)), By: "analyst", Made: j.at()}).Digest()
	j.share("water", "x", "steward", agency, 100)
	j.share("tax", "y", "rival-steward", rival, taxBudget)
	for i, who := range []string{"rival-steward", "steward"} {
		j.state(who, operators.KindConsent, operators.Consent{Scenario: j.scenario, Use: datasets[i], EpsilonMicro: 40_000_000, By: who, Made: j.at()})
	}
	j.decide("official-1", j.scenario, operators.Approve)
	j.decide("official-2", j.scenario, operators.Approve)
	j.tick()
	return j
}

// share registers a dataset and seals it in share form: 300 people in the north with 10, 200 in the south with 50, three on
// the islet with 90.
func (j *joint) share(dataset, column, steward, body string, budget int) {
	j.t.Helper()
	sc, err := schema.Parse(fmt.Appendf(nil, sharedSchema, column, dataset, budget))
	j.check(err)
	dealt, err := seal.Deal(seal.Dealing{Dataset: dataset, Params: sc.Params(), Custodians: j.roster.WithRole(operators.RoleCustodian), Quorum: 2, EntityRows: 1, BudgetMicro: sc.BudgetMicro(), Made: j.at()}, j.ids[steward], body)
	j.check(err)
	for _, p := range dealt.Pieces {
		j.check(j.custodians[p.Custodian].Accept(j.t.Context(), dealt.Keyset, p.Piece, p.Sealed, j.ids[p.Custodian].Open))
	}
	j.keysets[dataset], j.secrets[dataset] = dealt.Keyset, dealt.Key
	j.announce(enclave.EntryKeyset, dealt.Keyset.Digest())
	params, err := he.Compile(sc.Params())
	j.check(err)
	text := strings.Replace(rows(), "id,town,x,y", "id,town,"+column+",drop", 1)
	var csv strings.Builder
	for line := range strings.Lines(text) {
		csv.WriteString(line[:strings.LastIndex(line, ",")] + "\n")
	}
	in, err := table.NewCSV(strings.NewReader(csv.String()), table.Options{})
	j.check(err)
	var ks enclave.Keyset
	j.check(dealt.Keyset.Open(enclave.KindKeyset, &ks))
	cfg := seal.Config{Table: in, Schema: sc, Key: dealt.Key, Params: params, Keyset: dealt.Keyset.Digest(), Blobs: j.blobs, Forms: seal.Split,
		Shares: &seal.Sharing{ProjectKey: bytes.Repeat([]byte{3}, 32), Scenario: j.scenario, Nodes: j.roster.WithRole(operators.RoleCustodian), Keyset: &ks}}
	res, err := seal.Seal(j.t.Context(), cfg)
	j.check(err)
	signed, _, err := seal.Manifest(res, cfg, 1, canon.Digest{}, body, "csv", j.ids[steward], j.at())
	j.check(err)
	j.manifests[dataset] = signed
	j.announce(enclave.EntryManifest, signed.Digest())
}

// job takes a joint query to where custodians are asked.
func (j *joint) job(query string, epsilon int64) *enclave.Bundle {
	j.t.Helper()
	names, err := plan.Datasets(query)
	j.check(err)
	g, err := operators.Authorize(operators.Statements{Roster: j.signed, RootKey: j.root.Verify(), All: j.statements, Owners: j.owners()},
		operators.Request{Operator: "operator", Scenario: j.scenario, Analyst: "analyst", Now: j.now()})
	j.check(err)
	q := release.Question{Query: query, EpsilonMicro: epsilon, Grant: g, GrantDigest: canon.DigestOf(g)}
	b := &enclave.Bundle{Format: enclave.KindBundle, Roster: j.signed, Statements: slices.Clone(j.statements), Grant: j.sign("lab", operators.KindGrant, g)}
	for _, s := range j.keysets {
		b.Keysets = append(b.Keysets, s)
	}
	b.Keysets = append(b.Keysets, j.refreshes...)
	var manifests []*enclave.Manifest
	for i, n := range names {
		ks, _ := j.lineage(n)
		m, signed, keyset := &enclave.Manifest{}, j.manifests[n], j.keysets[n]
		j.check(signed.Open(enclave.KindManifest, m))
		manifests = append(manifests, m)
		if i == 0 {
			q.Keyset, q.KeysetDigest, q.Manifest, q.ManifestDigest, b.Manifest = ks, keyset.Digest(), m, signed.Digest(), signed
			continue
		}
		q.Others = append(q.Others, release.Other{Keyset: ks, KeysetDigest: keyset.Digest(), Manifest: m, ManifestDigest: signed.Digest()})
		b.Manifests = append(b.Manifests, signed)
	}
	p, err := build(q)
	j.check(err)
	b.Plan = j.sign("analyst", enclave.KindPlan, p)
	prog, err := plan.Program(p)
	j.check(err)
	_, terms, err := p.Expand(enclave.View(manifests))
	j.check(err)
	inputs := []canon.Digest{}
	for i, t := range prog.Tables {
		l, _ := manifests[i].Layout("joint")
		for _, c := range t.Columns {
			inputs = append(inputs, l.Vectors[l.Find(c.Name)].Blob)
		}
	}
	j.jobs++
	j.tick()
	b.Receipt = j.sign("node", enclave.KindReceipt, enclave.Receipt{Job: fmt.Sprintf("job-%d", j.jobs), Plan: b.Plan.Digest(), Inputs: inputs, Worker: program, Isolation: isolation,
		Terms: int64(len(terms)), Output: canon.Sum(p.Joint.Program), Started: j.at(), Ended: j.at(), By: "node"})
	j.announce(enclave.EntryPlan, b.Plan.Digest())
	j.announce(enclave.EntryReceipt, b.Receipt.Digest())
	j.prove(b)
	return b
}

func texts(tab *enclave.Table) (out [][]string) {
	for _, r := range tab.Rows {
		var line []string
		for _, v := range r.Values {
			line = append(line, v.Text)
		}
		out = append(out, line)
	}
	return out
}

// A join of two agencies' tables goes through the same gate: charged to both, small cells held back, verified offline, and
// the same question again gets the same answer for nothing.
func TestJointRelease(t *testing.T) {
	j := newJoint(t, 100)
	b := j.job(jointQuery, 12_000_000)
	out, tab, err := j.open(b, custodianNames...)
	j.check(err)
	if len(tab.Rows) != 2 || len(tab.Suppressed) != 1 || tab.Suppressed[0].Labels[0] != "islet" {
		t.Fatalf("rows %v, suppressed %v", texts(tab), tab.Suppressed)
	}
	for i, want := range []struct{ n, sum, median float64 }{{300, 3000, 10}, {200, 10000, 50}} {
		var got [3]float64
		for k := range got {
			_, err := fmt.Sscan(tab.Rows[i].Values[k+1].Text, &got[k])
			j.check(err)
		}
		if d := got[0] - want.n; d < -15 || d > 15 {
			t.Errorf("row %d: count %v, want about %v", i, got[0], want.n)
		}
		if d := got[1] - want.sum; d < -1200 || d > 1200 {
			t.Errorf("row %d: sum %v, want about %v", i, got[1], want.sum)
		}
		if got[2] != want.median {
			t.Errorf("row %d: median %v, want %v", i, got[2], want.median)
		}
	}
	b.Release = out.Release
	b.Proofs = append(b.Proofs, out.Proof)
	if _, _, err := release.CheckRelease(b, j.root.Verify(), build); err != nil {
		t.Errorf("the release does not verify offline: %v", err)
	}
	kept, err := j.custodians["cust-a"].Evidence(t.Context(), b.Release.Digest())
	j.check(err)
	ran := j.runs.Load()
	j.check(j.custodians["cust-b"].Recheck(t.Context(), b, kept))
	if j.runs.Load() != ran {
		t.Error("a recheck ran a node")
	}
	again, same, err := j.open(j.job(jointQuery, 12_000_000), custodianNames...)
	j.check(err)
	if fmt.Sprint(texts(same)) != fmt.Sprint(texts(tab)) {
		t.Errorf("the same question gets\n%v and then\n%v", texts(tab), texts(same))
	}
	var rel enclave.Release
	j.check(again.Release.Open(enclave.KindRelease, &rel))
	if rel.ChargedMicro != 0 {
		t.Errorf("asking again is charged ε %d", rel.ChargedMicro)
	}
}

// Every dataset of a join pays; the poorer one decides, and before any node runs.
func TestJointBudget(t *testing.T) {
	j := newJoint(t, 15)
	_, _, err := j.open(j.job(jointQuery, 10_000_000), custodianNames...)
	j.check(err)
	ran := j.runs.Load()
	_, _, err = j.open(j.job(strings.Replace(jointQuery, "x > 5", "x > 6", 1), 10_000_000), custodianNames...)
	j.wantRefusal(err, release.ErrBudget)
	if err == nil || !strings.Contains(err.Error(), "dataset tax") {
		t.Errorf("the refusal does not name the dataset whose budget is spent: %v", err)
	}
	if j.runs.Load() != ran {
		t.Error("a node ran for a job that was refused")
	}
}

// What a custodian refuses, its node never sees.
func TestJointRefusals(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the nodes once for each of many cases")
	}
	for name, c := range map[string]struct {
		change func(*joint, *enclave.Bundle)
		rule   error
	}{
		"revoked": {func(j *joint, b *enclave.Bundle) {
			j.decide("official-1", j.scenario, operators.Revoke)
			b.Statements = slices.Clone(j.statements)
			j.tick()
			j.tick()
			j.prove(b)
		}, release.ErrUnauthorized},
		"manifest left out": {func(j *joint, b *enclave.Bundle) { b.Manifests = nil }, release.ErrPlanMismatch},
		"manifest twice":    {func(j *joint, b *enclave.Bundle) { b.Manifests[0] = b.Manifest }, release.ErrPlanMismatch},
		"not logged": {func(j *joint, b *enclave.Bundle) {
			b.Proofs = slices.DeleteFunc(b.Proofs, func(p enclave.LogProof) bool {
				return bytes.Contains(p.Entry, []byte(b.Manifests[0].Digest().String()))
			})
		}, release.ErrNotLogged},
		"joined dataset disposed of": {func(j *joint, b *enclave.Bundle) {
			var m enclave.Manifest
			j.check(b.Manifests[0].Open(enclave.KindManifest, &m))
			j.announce(enclave.EntryDisposal, m.Keyset)
		}, release.ErrDisposed},
		"other program": {func(j *joint, b *enclave.Bundle) {
			var r enclave.Receipt
			j.check(b.Receipt.Open(enclave.KindReceipt, &r))
			r.Output = canon.Sum([]byte("other"))
			b.Receipt = j.sign("node", enclave.KindReceipt, r)
			j.announce(enclave.EntryReceipt, b.Receipt.Digest())
			j.prove(b)
		}, release.ErrReceipt},
		"other node": {func(j *joint, _ *enclave.Bundle) { j.differs = "cust-b" }, release.ErrReceipt},
		"other isolation": {func(j *joint, b *enclave.Bundle) {
			var r enclave.Receipt
			j.check(b.Receipt.Open(enclave.KindReceipt, &r))
			r.Isolation = "vacuum"
			b.Receipt = j.sign("node", enclave.KindReceipt, r)
			j.announce(enclave.EntryReceipt, b.Receipt.Digest())
			j.prove(b)
		}, release.ErrReceipt},
		"damaged blob": {func(j *joint, b *enclave.Bundle) {
			var r enclave.Receipt
			j.check(b.Receipt.Open(enclave.KindReceipt, &r))
			path := j.blobs.Path(r.Inputs[1])
			data, err := os.ReadFile(path)
			j.check(err)
			data[len(data)/2] ^= 1
			j.check(os.Chmod(path, 0o600))
			j.check(os.WriteFile(path, data, 0o600))
		}, release.ErrForeignKeyset},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJoint(t, 100)
			b := j.job(jointQuery, 8_000_000)
			c.change(j, b)
			_, _, err := j.open(b, custodianNames...)
			j.wantRefusal(err, c.rule)
			if j.runs.Load() != 0 {
				t.Error("a node ran")
			}
		})
	}
	j := newJoint(t, 100)
	if _, _, err := j.open(j.job(jointQuery, 8_000_000), custodianNames[:2]...); err == nil || j.runs.Load() != 0 {
		t.Errorf("two of three custodians open a joint plan: %v", err)
	}
}

// gone is a custodian that nobody reaches.
type gone struct{ release.Member }

func (gone) Seen(context.Context) (string, error) {
	return "", &refusal.UnavailableError{What: "cust-c"}
}

// A node that is lost in the middle, or a custodian that is away, costs time: nothing is released, nothing is charged twice,
// and the noise of the next attempt is that of the first.
func TestJointNodeLost(t *testing.T) {
	j := newJoint(t, 100)
	b := j.job(jointQuery, 8_000_000)
	var lost atomic.Bool
	j.during = func(name string) error {
		if name == "cust-b" && lost.CompareAndSwap(false, true) {
			return errors.New("killed")
		}
		return nil
	}
	_, _, err := j.open(b, custodianNames...)
	if err == nil || refusal.Final(err) {
		t.Fatalf("a node was killed: %v", err)
	}
	ran := j.runs.Load()
	_, err = j.custodians["cust-a"].Lead(t.Context(), b, append(j.members(custodianNames[:2]...), gone{j.custodians["cust-c"]}), nil)
	var quorum *release.QuorumError
	if !errors.As(err, &quorum) || refusal.Final(err) || quorum.Need != 3 || j.runs.Load() != ran {
		t.Errorf("a custodian is away: %v, %d nodes ran", err, j.runs.Load()-ran)
	}
	out, tab, err := j.open(b, custodianNames...)
	j.check(err)
	var rel enclave.Release
	j.check(out.Release.Open(enclave.KindRelease, &rel))
	fresh := newJoint(t, 100) // with other keys
	first, other, err := fresh.open(fresh.job(jointQuery, 8_000_000), custodianNames...)
	fresh.check(err)
	var unhurt enclave.Release
	fresh.check(first.Release.Open(enclave.KindRelease, &unhurt))
	if rel.ChargedMicro != unhurt.ChargedMicro {
		t.Errorf("after a retry ε %d is charged, and without ε %d", rel.ChargedMicro, unhurt.ChargedMicro)
	}
	_, again, err := j.open(j.job(jointQuery, 8_000_000), custodianNames...)
	j.check(err)
	if fmt.Sprint(texts(again)) != fmt.Sprint(texts(tab)) || fmt.Sprint(texts(other)) == fmt.Sprint(texts(tab)) {
		t.Errorf("the same question got\n%v after a failure, then\n%v, and under other keys\n%v", texts(tab), texts(again), texts(other))
	}
}

// While a node runs its custodian decides about other jobs, and what has changed when it ends counts.
func TestJointWhileNodesRun(t *testing.T) {
	j := newJoint(t, 100)
	b, second := j.job(jointQuery, 4_000_000), j.job(strings.Replace(jointQuery, "x > 5", "x > 6", 1), 4_000_000)
	var once sync.Once
	var late error
	j.during = func(name string) error {
		once.Do(func() {
			late = j.custodians[name].Commit(t.Context(), second, custodianNames)
			j.decide("official-1", j.scenario, operators.Revoke)
		})
		return nil
	}
	_, _, err := j.open(b, custodianNames...)
	if late != nil {
		t.Errorf("another job meanwhile: %v", late)
	}
	var withheld *refusal.WithheldError
	if !errors.As(err, &withheld) {
		t.Errorf("the scenario was revoked while nodes ran: %v", err)
	}
	for _, name := range custodianNames {
		found, err := filepath.Glob(filepath.Join(j.dir, name, "state", "shares", "*"))
		if err != nil || len(found) > 0 {
			t.Errorf("custodian %q signed its node's output all the same: %v, %v", name, found, err)
		}
	}
}

// A node that tells the gate another story than the others is noticed by every custodian, and nothing is released.
func TestJointCheating(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the nodes once for each of many cases")
	}
	for name, alter := range map[string]func(*mpc.Output, *release.Transcript){
		"count":     func(o *mpc.Output, _ *release.Transcript) { o.Releases[0].Counts[0]++ },
		"kept":      func(o *mpc.Output, _ *release.Transcript) { o.Releases[0].Kept[2] = true },
		"sum":       func(o *mpc.Output, _ *release.Transcript) { o.Releases[0].Sums[0][0][0]++ },
		"quantile":  func(o *mpc.Output, _ *release.Transcript) { o.Releases[0].Quantiles[0][0][0]++ },
		"party":     func(o *mpc.Output, _ *release.Transcript) { o.Party = 0 },
		"program":   func(o *mpc.Output, _ *release.Transcript) { o.Program = canon.Sum(nil) },
		"messages":  func(_ *mpc.Output, tr *release.Transcript) { tr.SentNext = canon.Sum(nil) },
		"receiving": func(_ *mpc.Output, tr *release.Transcript) { tr.ReceivedPrev = canon.Sum(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			j := newJoint(t, 100)
			j.alter = func(node string, out *mpc.Output, tr *release.Transcript) {
				if node == "cust-b" {
					alter(out, tr)
				}
			}
			_, _, err := j.open(j.job(jointQuery, 8_000_000), custodianNames...)
			if !errors.Is(err, release.ErrCrossCheck) {
				t.Errorf("got %v", err)
			}
		})
	}
}
