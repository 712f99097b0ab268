package seal_test

import (
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
)

// text is a schema of towns and water use, with room for one change.
const text = `{
  "fields": [
    {"name": "id", "type": "string", "constraints": {"required": true}, "yingzhou": {"uses": ["key"]}},
    {"name": "town", "type": "string", "constraints": {"required": true, "enum": ["a", "b", "c"]}, "yingzhou": {"uses": ["group", "filter"]}},
    {"name": "m3", "type": "number", "constraints": {"required": true, "minimum": 0, "maximum": 200}, "yingzhou": {"scale": 1, "uses": ["aggregate"]}},
    {"name": "debt", "type": "integer", "constraints": {"minimum": -100, "maximum": 100}, "yingzhou": {"uses": ["aggregate"]}}
  ],
  "yingzhou": {
    "dataset": "water", "params": "bgv13-t36", "entity_rows": 8388607, "budget": 20,
    "catalog": {"title": "t", "classification": "c", "level": 2, "sharing": "conditional", "opening": "closed", "update_cycle": "monthly", "unit": "u", "legal_basis": "l"},
    "layouts": [
      {"name": "cube", "kind": "cube", "dims": ["town"], "measures": ["m3", "debt"]},
      {"name": "rows", "kind": "rows", "indicators": [["town"]], "measures": ["m3"]}
    ]
  }
}`

func parse(t testing.TB, text string) *schema.Schema {
	t.Helper()
	s, err := schema.Parse([]byte(strings.Replace(text, "8388607", strconv.Itoa(enclave.MaxRows), 1)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// world is an agency with a key and an empty store.
type world struct {
	t    testing.TB
	dir  string
	key  *he.SecretKey
	p    *he.Params
	cfg  seal.Config
	blob *store.Store

	dealt *seal.Dealt // of sharing
}

func newWorld(t testing.TB, schemaText string, in table.Reader) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	sc := parse(t, schemaText)
	var err error
	if w.p, err = he.Compile(sc.Params()); err != nil {
		t.Fatal(err)
	}
	if w.key, err = he.GenerateKey(w.p); err != nil {
		t.Fatal(err)
	}
	if w.blob, err = store.Open(w.dir); err != nil {
		t.Fatal(err)
	}
	w.cfg = seal.Config{Table: in, Schema: sc, Key: w.key, Params: w.p, Keyset: canon.Sum([]byte("keyset")), Blobs: w.blob, Workers: 2}
	return w
}

func csv(t testing.TB, text string) table.Reader {
	t.Helper()
	r, err := table.NewCSV(strings.NewReader(text), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// files counts what lies in the store, finished or not.
func (w *world) files() (n int) {
	w.t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// sum opens Σ over the whole table of one vector: of a cube's cells, or of the slots of rows.
func (w *world) sum(layouts []enclave.Layout, layout, vector string, cells ...int64) int64 {
	w.t.Helper()
	l := layouts[0]
	if l.Name != layout {
		l = layouts[1]
	}
	v := l.Find(vector)
	if v < 0 {
		w.t.Fatalf("layout %q has no vector %q", layout, vector)
	}
	terms := []enclave.Term{{Vector: v, Cells: cells}}
	if l.Kind == enclave.Rows {
		terms = []enclave.Term{{A: []int{v}}}
	}
	m := mirror.New(w.blob, w.blob)
	defer m.Close()
	if err := m.Fetch(w.t.Context(), w.cfg.Keyset, w.p.Set.Name, &l, []int{v}); err != nil {
		w.t.Fatal(err)
	}
	cts, err := evaluator.Evaluate(w.t.Context(), w.p.Params, &l, terms, m, 1, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	pieces, err := w.key.Split(2)
	if err != nil {
		w.t.Fatal(err)
	}
	var shares []*big.Int
	for _, piece := range pieces {
		h, err := he.NewOpener(piece).Share(&cts[0], new(big.Int), new(big.Int))
		if err != nil {
			w.t.Fatal(err)
		}
		shares = append(shares, h)
	}
	return w.p.Combine(&cts[0], shares)
}

// generated is a CSV file of so many rows that exists only while it is read: memory that grows while it is sealed is
// sealing's own. Few different entities, because the counter of rows per entity grows with them by design.
type generated struct {
	rows, next int
	buf        []byte
}

func newGenerated(rows int) *generated { return &generated{rows: rows} }

func (g *generated) Read(p []byte) (int, error) {
	if g.next == 0 && g.buf == nil {
		g.buf = append(g.buf, "id,town,m3,debt\n"...)
	}
	for len(g.buf) < len(p) && g.next < g.rows {
		i := g.next
		g.buf = fmt.Appendf(g.buf, "h%d,%c,%d.%d,%s\n", i%1000, 'a'+i%3, i%200, i%10, []string{"", "-7", "9"}[i%3])
		g.next++
	}
	if len(g.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, g.buf)
	g.buf = append(g.buf[:0], g.buf[n:]...)
	return n, nil
}
