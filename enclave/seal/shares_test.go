package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/enclave/seal/sealtest"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// sharedText is the schema with shares beside its cube.
var sharedText = strings.NewReplacer(
	`"yingzhou": {"uses": ["key"]}`, `"yingzhou": {"uses": ["key"], "identifier": "text"}`,
	`"uses": ["aggregate"]}}`, `"uses": ["aggregate", "filter"]}}`,
	`{"name": "rows", "kind": "rows", "indicators": [["town"]], "measures": ["m3"]}`, `{"name": "joint", "kind": "shares"}`).Replace(text)

// sharing is three nodes for a world, whose custodians have the pieces of its key.
func (w *world) sharing() (ids [3]*keys.Identity) {
	w.t.Helper()
	cfg := &seal.Sharing{ProjectKey: bytes.Repeat([]byte{7}, identifier.KeyBytes), Scenario: canon.Sum([]byte("scenario"))}
	for i := range ids {
		id, err := keys.NewIdentity(fmt.Sprint("node-", i))
		if err != nil {
			w.t.Fatal(err)
		}
		ids[i] = id
		cfg.Nodes = append(cfg.Nodes, operators.Party{Name: id.Name(), HPKE: id.HPKE()})
	}
	steward, err := keys.NewIdentity("lin.hua")
	if err != nil {
		w.t.Fatal(err)
	}
	w.dealt, err = seal.Deal(seal.Dealing{Dataset: "water", Params: w.cfg.Schema.Params(), Custodians: cfg.Nodes, Quorum: 2, EntityRows: 1, BudgetMicro: 1}, steward, "水务局")
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.Keyset = &enclave.Keyset{}
	if err := w.dealt.Keyset.Open(enclave.KindKeyset, cfg.Keyset); err != nil {
		w.t.Fatal(err)
	}
	w.cfg.Shares, w.cfg.Key, w.cfg.Keyset = cfg, w.dealt.Key, w.dealt.Keyset.Digest()
	return ids
}

// load opens columns at all three nodes and puts them together.
func (w *world) load(l *enclave.Layout, ids [3]*keys.Identity, columns ...string) map[string][]int64 {
	w.t.Helper()
	var by [3]map[string][2]mpc.Component
	for n := range by {
		k, err := shares.Unlock(w.cfg.Keyset, l, n, sealtest.NodeSecret(w.t, w.dealt, ids[n]), ids[n].Open)
		if err != nil {
			w.t.Fatal(err)
		}
		by[n], err = shares.Load(context.Background(), w.cfg.Keyset, l, n, k, columns, func(d enclave.Digest) (io.ReadCloser, error) { return os.Open(w.blob.Path(d)) })
		if err != nil {
			w.t.Fatal(err)
		}
	}
	out := map[string][]int64{}
	for _, c := range columns {
		a, b, d := by[0][c][0].Expand(), by[0][c][1].Expand(), by[1][c][1].Expand()
		for i := range a {
			v := a[i] + b[i] + d[i]
			if shares.KindOf(c) == mpc.Word {
				v = a[i] ^ b[i] ^ d[i]
			}
			out[c] = append(out[c], int64(v))
		}
	}
	return out
}

func TestSealShares(t *testing.T) {
	w := newWorld(t, sharedText, csv(t, "id,town,m3,debt\nP1,a,10.5,-3\nｐ 2,c,200,\nP3,a,0,100\n"))
	ids := w.sharing()
	w.cfg.Forms = seal.Split
	res, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Layouts) != 1 || res.Layouts[0].Kind != enclave.Shares {
		t.Fatalf("layouts %+v", res.Layouts)
	}
	l := &res.Layouts[0]
	var names []string
	for _, v := range l.Vectors {
		names = append(names, v.Name)
	}
	if diff := cmp.Diff([]string{"n", "e", "i:town:0", "i:town:1", "i:town:2", "v:m3", "n:debt", "v:debt"}, names); diff != "" {
		t.Errorf("columns (-want +got)\n%s", diff)
	}
	got := w.load(l, ids, names...)
	p, err := identifier.NewPseudonyms(w.cfg.Shares.ProjectKey, w.cfg.Shares.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]int64{"n": {1, 1, 1}, "e": {int64(p.Of("P1")), int64(p.Of("P2")), int64(p.Of("P3"))}, "i:town:0": {1, 0, 1}, "i:town:1": {0, 0, 0},
		"i:town:2": {0, 1, 0}, "v:m3": {105, 2000, 0}, "n:debt": {1, 0, 1}, "v:debt": {-3, 0, 100}}
	seen := map[int64]bool{}
	for name, vs := range want {
		if len(got[name]) != enclave.ShareRowsUnit {
			t.Errorf("%s has %d rows, want %d", name, len(got[name]), enclave.ShareRowsUnit)
			continue
		}
		if diff := cmp.Diff(vs, got[name][:3]); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
		for _, v := range got[name][3:] {
			if name == "e" && seen[v] || name != "e" && v != 0 {
				t.Fatalf("%s has %d in the padding", name, v)
			}
			seen[v] = seen[v] || name == "e"
		}
	}
	// Sealing again splits alike nothing but the pseudonyms: no blob is the same.
	w.cfg.Table = csv(t, "id,town,m3,debt\nP1,a,10.5,-3\n")
	again, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range again.Layouts[0].Vectors {
		if v.Blob == l.Vectors[i].Blob || v.Commitments[0] == l.Vectors[i].Commitments[0] {
			t.Errorf("column %q was sealed with the randomness of the version before", v.Name)
		}
	}
}

// A refresh changes every piece, and what was sealed before still opens at its nodes, in whatever order the roster names
// them. Each node's secret is its own: no other custodian has it.
func TestSharesOutliveRefresh(t *testing.T) {
	w := newWorld(t, sharedText, csv(t, "id,town,m3,debt\nP1,a,10.5,-3\n"))
	ids := w.sharing()
	w.cfg.Forms = seal.Split
	res, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := w.load(&res.Layouts[0], ids, "v:m3")
	n := w.cfg.Shares.Nodes
	steward, err := keys.NewIdentity("lin.hua")
	if err != nil {
		t.Fatal(err)
	}
	first := w.dealt
	w.dealt, err = seal.Refresh(w.cfg.Shares.Keyset, first.Keyset.Digest(), []operators.Party{n[2], n[0], n[1]}, 1, canon.Time{}, first.Key, steward)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.load(&res.Layouts[0], ids, "v:m3")); diff != "" {
		t.Errorf("after the refresh (-before +after)\n%s", diff)
	}
	for i := range ids {
		if a, b := sealtest.NodeSecret(t, first, ids[i]), sealtest.NodeSecret(t, w.dealt, ids[i]); a != b {
			t.Errorf("the refresh changed the secret of node %d", i)
		}
		j := (i + 1) % len(ids)
		if _, err := shares.Unlock(w.cfg.Keyset, &res.Layouts[0], i, sealtest.NodeSecret(t, w.dealt, ids[j]), ids[i].Open); !errors.Is(err, enclave.ErrBlob) {
			t.Errorf("with the secret of node %d those of node %d open: %v", j, i, err)
		}
	}
}

func TestSealBothForms(t *testing.T) {
	w := newWorld(t, sharedText, csv(t, "id,town,m3,debt\nP1,a,10.5,-3\n"))
	w.sharing()
	w.cfg.Forms = seal.HE | seal.Split
	res, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Layouts) != 2 {
		t.Errorf("%d layouts, want the cube and the shares", len(res.Layouts))
	}
}

func TestSealSharesRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		csv    string
		change func(*seal.Config)
		text   string
	}{
		"twice in two spellings": {"id,town,m3,debt\np1,a,1,1\nＰ1,a,1,1\n", nil, "more than the declared"},
		"no key":                 {"id,town,m3,debt\nP1,a,1,1\n", func(c *seal.Config) { c.Shares.ProjectKey = nil }, "project key"},
		"no dataset's key":       {"id,town,m3,debt\nP1,a,1,1\n", func(c *seal.Config) { c.Key = nil }, "the dataset's key"},
		"another's node":         {"id,town,m3,debt\nP1,a,1,1\n", func(c *seal.Config) { c.Shares.Nodes[2].Name = "node-9" }, `"node-9" is not a custodian`},
		"no scenario":            {"id,town,m3,debt\nP1,a,1,1\n", func(c *seal.Config) { c.Shares.Scenario = canon.Digest{} }, "scenario"},
		"two nodes":              {"id,town,m3,debt\nP1,a,1,1\n", func(c *seal.Config) { c.Shares.Nodes = c.Shares.Nodes[:2] }, "three nodes"},
		"one node twice":         {"id,town,m3,debt\nP1,a,1,1\n", func(c *seal.Config) { c.Shares.Nodes[1] = c.Shares.Nodes[0] }, "are not three"},
		"not asked":              {"id,town,m3,debt\nP1,a,1,1\n", func(c *seal.Config) { c.Shares = nil }, "needed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, strings.Replace(sharedText, "8388607", "1", 1), csv(t, c.csv))
			w.sharing()
			w.cfg.Forms = seal.Split
			if c.change != nil {
				c.change(&w.cfg)
			}
			res, err := seal.Seal(t.Context(), w.cfg)
			if err == nil {
				t.Fatal("sealed")
			}
			all := err.Error()
			if res != nil && res.Quality != nil {
				all += fmt.Sprint(res.Quality)
			}
			if !strings.Contains(all, c.text) {
				t.Errorf("%v\nwant %q", all, c.text)
			}
			blobs, lerr := w.blob.List()
			if err := lerr; err != nil || len(blobs) > 0 {
				t.Errorf("%d blobs are left behind (%v)", len(blobs), err)
			}
		})
	}
}

// Memory does not grow with the rows: four times the table, about the same peak.
func TestSealSharesInConstantMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("seals 200,000 rows")
	}
	peak := func(rows int) uint64 {
		w := newWorld(t, sharedText, csv(t, manyRows(rows)))
		w.sharing()
		w.cfg.Forms = seal.Split
		var most uint64
		w.cfg.Progress = func(int64) {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
		}
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := seal.Seal(t.Context(), w.cfg); err != nil {
			t.Fatal(err)
		}
		return most - min(most, before.HeapInuse)
	}
	small, large := peak(50_000), peak(200_000)
	// The counter of rows per entity has 24 bytes an entity; nothing else may depend on the rows.
	if limit := small + 200_000*60 + 8<<20; large > limit {
		t.Errorf("200,000 rows take %d bytes at most, 50,000 take %d", large, small)
	}
}

func manyRows(n int) string {
	var b strings.Builder
	b.WriteString("id,town,m3,debt\n")
	for i := range n {
		fmt.Fprintf(&b, "P%d,%c,%d,%d\n", i, 'a'+i%3, i%200, i%100)
	}
	return b.String()
}
