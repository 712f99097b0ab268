package e2e

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/engine"
	"yingzhou.dev/lab/enclave/mpc/mpctest"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/program"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/sealtest"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/plan"
)

// agencies are three datasets sealed in share form from random tables, the same tables in SQLite, and three nodes.
type agencies struct {
	t       *testing.T
	db      *sql.DB
	ids     [3]*keys.Identity
	dealt   map[string]*seal.Dealt
	blobs   *store.Store
	sources map[string]plan.Source
	grant   *operators.Grant
}

// agencySchema is a table of people or of bills: bills may have three rows of a person.
const agencySchema = `{"fields":[
 {"name":"person","type":"string","constraints":{"required":true},"yingzhou":{"uses":["key"],"identifier":"text"}},%s],
 "yingzhou":{"dataset":%q,"params":"bgv13-t36","entity_rows":%d,"budget":1000,
 "catalog":{"title":"t","classification":"c","level":2,"sharing":"conditional","opening":"closed","update_cycle":"yearly","unit":"u","legal_basis":"b"},
 "layouts":[{"name":"joint","kind":"shares"}]}}`

func category(name string, labels ...string) string {
	return fmt.Sprintf(`{"name":%q,"type":"string","constraints":{"required":true,"enum":["%s"]},"yingzhou":{"uses":["group","filter"]}}`, name, strings.Join(labels, `","`))
}

func whole(name string, lo, hi int, bins string) string {
	uses := `"aggregate","filter"`
	if bins != "" {
		uses += `,"group"`
		bins = `,"bins":` + bins
	}
	return fmt.Sprintf(`{"name":%q,"type":"integer","constraints":{"required":true,"minimum":%d,"maximum":%d},"yingzhou":{"uses":[%s]%s}}`, name, lo, hi, uses, bins)
}

func decimals(name string, lo, hi, scale int, required bool) string {
	return fmt.Sprintf(`{"name":%q,"type":"number","constraints":{"required":%t,"minimum":%d,"maximum":%d},"yingzhou":{"uses":["aggregate","filter"],"scale":%d}}`, name, required, lo, hi, scale)
}

// shape is what the tables are like.
type shape struct {
	name   string
	people int // at least, and up to three times as many
	number func(rnd *rand.Rand, lo, hi int) int
	label  func(rnd *rand.Rand, from []string) string
}

var (
	uniform  = func(rnd *rand.Rand, lo, hi int) int { return lo + rnd.IntN(hi-lo+1) }
	anyLabel = func(rnd *rand.Rand, from []string) string { return from[rnd.IntN(len(from))] }
	ordinary = shape{"ordinary", 30, uniform, anyLabel}
	shapes   = []shape{ordinary,
		{"extreme", 20, func(rnd *rand.Rand, lo, hi int) int { return []int{lo, lo, lo + 1, hi - 1, hi, hi}[rnd.IntN(6)] }, anyLabel},
		{"equal", 20, func(_ *rand.Rand, lo, hi int) int { return lo + (hi-lo)/3 }, func(_ *rand.Rand, from []string) string { return from[len(from)-1] }},
		{"few", 1, uniform, anyLabel},
	}
)

func newAgencies(t *testing.T, rnd *rand.Rand, s shape) *agencies {
	t.Helper()
	w := &agencies{t: t, sources: map[string]plan.Source{}, dealt: map[string]*seal.Dealt{}}
	var err error
	w.db, err = sql.Open("sqlite", ":memory:")
	w.check(err)
	w.db.SetMaxOpenConns(1)
	t.Cleanup(func() { w.db.Close() })
	w.blobs, err = store.Open(t.TempDir())
	w.check(err)
	for i := range w.ids {
		w.ids[i], err = keys.NewIdentity(fmt.Sprint("node-", i))
		w.check(err)
	}
	w.grant = &operators.Grant{Operator: "o", Scenario: canon.Sum([]byte("scenario")), EpsilonMicro: canon.MaxInt, JobEpsilonMicro: canon.MaxInt, MinCohort: 1,
		Consents: []operators.Digest{}, Approvals: []operators.Digest{}, Workers: []operators.Digest{}}
	people := s.people + rnd.IntN(2*s.people)
	pick := func(from ...string) string { return s.label(rnd, from) }
	between := func(lo, hi int) int { return s.number(rnd, lo, hi) }
	rows := func(share float64, most int, row func() []string) (out [][]string) {
		for p := range people {
			for range most {
				if rnd.Float64() < share {
					out = append(out, append([]string{fmt.Sprintf("P%03d", p)}, row()...))
				}
			}
		}
		if len(out) == 0 { // an empty table is refused
			out = append(out, append([]string{"P000"}, row()...))
		}
		rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		return out
	}
	w.add("residents", 1, []string{"town TEXT", "age INTEGER", "alone TEXT"}, []string{category("town", "北", "南", "岛"), whole("age", 0, 120, "[0,18,60,120]"), category("alone", "是", "否")},
		rows(.9, 1, func() []string {
			return []string{pick("北", "南", "南", "岛"), strconv.Itoa(between(0, 120)), pick("是", "否")}
		}))
	w.add("bills", 3, []string{"kind TEXT", "cost REAL", "paid REAL", "visits INTEGER"}, []string{category("kind", "a", "b"), decimals("cost", -50, 400, 1, true), decimals("paid", 0, 400, 2, false), whole("visits", 0, 9, "")},
		rows(.5, 3, func() []string {
			paid := ""
			if rnd.IntN(4) > 0 {
				paid = fmt.Sprintf("%.2f", float64(between(0, 40000))/100)
			}
			return []string{pick("a", "b"), fmt.Sprintf("%.1f", float64(between(-500, 4000))/10), paid, strconv.Itoa(between(0, 9))}
		}))
	w.add("welfare", 1, []string{"benefit TEXT", "age INTEGER", "monthly INTEGER"}, []string{category("benefit", "x", "y", "z"), whole("age", 0, 120, ""), whole("monthly", 0, 200, "")},
		rows(.6, 1, func() []string {
			return []string{pick("x", "y", "z"), strconv.Itoa(between(0, 120)), strconv.Itoa(between(0, 200))}
		}))
	return w
}

func (w *agencies) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// add seals a table and puts it into SQLite.
func (w *agencies) add(name string, m int, defs, fields []string, rows [][]string) {
	w.t.Helper()
	sc, err := schema.Parse(fmt.Appendf(nil, agencySchema, strings.Join(fields, ","), name, m))
	w.check(err)
	header := []string{"person"}
	for _, d := range defs {
		header = append(header, strings.Fields(d)[0])
	}
	csv := strings.Join(header, ",") + "\n"
	_, err = w.db.Exec("CREATE TABLE " + name + " (person TEXT, " + strings.Join(defs, ", ") + ")")
	w.check(err)
	for _, r := range rows {
		csv += strings.Join(r, ",") + "\n"
		var args []any
		for _, v := range r {
			if args = append(args, v); v == "" {
				args[len(args)-1] = nil
			}
		}
		_, err := w.db.Exec("INSERT INTO "+name+" VALUES (?"+strings.Repeat(", ?", len(defs))+")", args...)
		w.check(err)
	}
	in, err := table.NewCSV(strings.NewReader(csv), table.Options{})
	w.check(err)
	params, err := he.Compile(sc.Params())
	w.check(err)
	var nodes []operators.Party
	for _, id := range w.ids {
		nodes = append(nodes, operators.Party{Name: id.Name(), HPKE: id.HPKE()})
	}
	dealt, err := seal.Deal(seal.Dealing{Dataset: name, Params: sc.Params(), Custodians: nodes, Quorum: 2, EntityRows: int64(m), BudgetMicro: canon.MaxInt}, w.ids[0], "agency of "+name)
	w.check(err)
	w.dealt[name] = dealt
	ks, digest := &enclave.Keyset{}, dealt.Keyset.Digest()
	w.check(dealt.Keyset.Open(enclave.KindKeyset, ks))
	cfg := seal.Config{Table: in, Schema: sc, Key: dealt.Key, Params: params, Keyset: digest, Blobs: w.blobs, Forms: seal.Split,
		Shares: &seal.Sharing{ProjectKey: bytes.Repeat([]byte{9}, identifier.KeyBytes), Scenario: w.grant.Scenario, Nodes: nodes, Keyset: ks}}
	res, err := seal.Seal(w.t.Context(), cfg)
	w.check(err)
	man := &enclave.Manifest{Dataset: name, Version: 1, Owner: ks.Owner, Keyset: digest, Columns: res.Columns, RowsBound: res.RowsBound, Layouts: res.Layouts}
	w.sources[name] = plan.Source{Keyset: ks, KeysetDigest: digest, Manifest: man, ManifestDigest: canon.DigestOf(man)}
	use := operators.DatasetUse{Dataset: name}
	for _, c := range man.Columns {
		use.Columns = append(use.Columns, operators.ColumnUse{Column: c.Name, Uses: c.Uses})
	}
	w.grant.Datasets = append(w.grant.Datasets, use)
	w.grant.Limits = append(w.grant.Limits, operators.Limit{Dataset: name, EpsilonMicro: canon.MaxInt})
}

// plan plans a query with all the ε there is.
func (w *agencies) plan(query string) (*enclave.Plan, *enclave.Manifest, error) {
	w.t.Helper()
	names, err := plan.Datasets(query)
	if err != nil {
		return nil, nil, err
	}
	r := plan.Request{Query: query, Grant: w.grant, GrantDigest: canon.DigestOf(w.grant)}
	var all []*enclave.Manifest
	for i, n := range names {
		s := w.sources[n]
		if all = append(all, s.Manifest); i == 0 {
			r.Keyset, r.KeysetDigest, r.Manifest, r.ManifestDigest = s.Keyset, s.KeysetDigest, s.Manifest, s.ManifestDigest
		} else {
			r.Others = append(r.Others, s)
		}
	}
	p, err := plan.Build(r)
	return p, enclave.View(all), err
}

// run evaluates a plan at three nodes over TLS and returns its table as rows of text.
func (w *agencies) run(p *enclave.Plan, view *enclave.Manifest) [][]string {
	w.t.Helper()
	prog, err := plan.Program(p)
	w.check(err)
	meshes := mpctest.Connect(w.t, mpctest.Configs(w.t))
	var outs [3]mpc.Output
	var g errgroup.Group
	for node := range outs {
		g.Go(func() error {
			dealt := mpc.Dealt{Columns: map[string][2]mpc.Component{}, Commitments: mpc.Commitments{}}
			for i, src := range p.Joint.Sources {
				l, _ := w.sources[src.Dataset].Manifest.Layout(src.Layout)
				var cols []string
				for _, c := range prog.Tables[i].Columns {
					cols = append(cols, c.Name)
				}
				k, err := shares.Unlock(src.Keyset, l, node, sealtest.NodeSecret(w.t, w.dealt[src.Dataset], w.ids[node]), w.ids[node].Open)
				if err != nil {
					return err
				}
				held, err := shares.Load(w.t.Context(), src.Keyset, l, node, k, cols, func(d enclave.Digest) (io.ReadCloser, error) { return os.Open(w.blobs.Path(d)) })
				if err != nil {
					return err
				}
				commitments, err := shares.Commitments(l, src.Dataset, cols)
				if err != nil {
					return err
				}
				for name, pair := range held {
					dealt.Columns[src.Dataset+"."+name] = pair
				}
				for name, c := range commitments {
					dealt.Commitments[name] = c
				}
			}
			out, err := engine.Run(w.t.Context(), engine.Config{Party: node, Next: meshes[node].Next, Prev: meshes[node].Prev,
				NoiseKey: fmt.Appendf(nil, "noise key of node %d of the test", node), Abort: meshes[node].Abort}, prog, dealt)
			if err == nil {
				outs[node] = *out
			}
			return err
		})
	}
	w.check(g.Wait())
	res, err := mpc.Combine(prog, outs)
	w.check(err)
	cells, _, err := p.Expand(view)
	w.check(err)
	keep, rules, values, err := program.FromResult(p, prog, cells, res)
	w.check(err)
	tab, err := program.Tabulate(p, view, program.JointPieces, cells, keep, rules, values)
	w.check(err)
	var rows [][]string
	for _, r := range tab.Rows {
		var line []string
		for _, v := range r.Values {
			text := v.Text
			if v.Null != "" {
				text = "NULL"
			}
			line = append(line, text)
		}
		rows = append(rows, line)
	}
	return rows
}

// jointQueries have the same meaning in SQLite but for ON entity. Quantiles are checked by rank (TestJointQuantiles).
var jointQueries = []string{
	`SELECT COUNT(*) FROM residents`,
	`SELECT town, COUNT(*) FROM residents WHERE age > 59 GROUP BY town`,
	`SELECT town, COUNT(*) FROM residents WHERE age BETWEEN 33 AND 77 AND NOT alone = '是' GROUP BY town`,
	`SELECT kind, COUNT(*), SUM(cost), COUNT(paid), SUM(paid) FROM bills WHERE cost < 200.05 AND cost >= -3 GROUP BY kind`,
	`SELECT COUNT(*) FROM bills WHERE paid > cost`,
	`SELECT COUNT(*) FROM bills WHERE NOT (paid > cost OR visits = 3)`,
	`SELECT COUNT(*) FROM bills WHERE NOT paid <= 100 AND visits <> 5`,
	`SELECT COUNT(DISTINCT visits), COUNT(DISTINCT kind), COUNT(DISTINCT paid), COUNT(DISTINCT person) FROM bills`,
	`SELECT town, COUNT(*), SUM(cost) FROM residents JOIN bills ON entity GROUP BY town`,
	`SELECT town, alone, COUNT(*) FROM residents JOIN bills ON entity WHERE residents.age >= 20 GROUP BY town, alone`,
	`SELECT town, COUNT(DISTINCT bills.person), SUM(visits) FROM bills JOIN residents ON entity WHERE alone = '否' AND cost > 0 GROUP BY town`,
	`SELECT benefit, COUNT(*), SUM(monthly) FROM residents JOIN welfare ON entity WHERE residents.age > welfare.age GROUP BY benefit`,
	`SELECT COUNT(*) FROM welfare JOIN residents ON entity WHERE residents.age = welfare.age OR town IN ('北', '岛') AND monthly > 100`,
	`SELECT town, COUNT(*), SUM(cost), SUM(monthly) FROM residents JOIN bills ON entity JOIN welfare ON entity WHERE monthly >= 20 AND (visits < 5 OR alone = '是') GROUP BY town`,
	`SELECT benefit, town, COUNT(*) FROM welfare JOIN residents ON entity GROUP BY benefit, town ORDER BY COUNT(*) DESC, benefit, town LIMIT 2`,
	`SELECT town, COUNT(*) FROM residents WHERE town <> '岛' AND age NOT IN (1, 2, 3.5) GROUP BY town HAVING COUNT(*) > 4`,
}

func TestJointQueriesAgainstSQLite(t *testing.T) {
	rounds := 2
	if testing.Short() {
		rounds = 1
	}
	for seed := range rounds {
		w := newAgencies(t, rand.New(rand.NewPCG(uint64(seed), 5)), ordinary)
		for _, q := range jointQueries {
			t.Run(fmt.Sprint(seed, " ", q), func(t *testing.T) {
				w.t = t
				p, view, err := w.plan(q)
				w.check(err)
				if p.Joint == nil {
					t.Fatal("not planned for the secret-shared engine")
				}
				got, want := w.run(p, view), w.ask(q)
				if at := slices.IndexFunc(p.Outputs, func(o enclave.Output) bool { return o.Func == "COUNT" && len(o.Args) == 0 }); at >= 0 && len(p.Groups) > 0 {
					want = slices.DeleteFunc(want, func(row []string) bool { // fewer rows than one person may have: held back
						n, err := strconv.ParseInt(row[at], 10, 64)
						return err == nil && n < p.EntityRows
					})
				}
				sameRows(t, got, want, !strings.Contains(q, "ORDER BY"))
			})
		}
		w.t = t
	}
}

// ask answers the query in SQLite: rows of cells that would be shown, numbers at our digits.
func (w *agencies) ask(q string) [][]string {
	w.t.Helper()
	for _, n := range []string{"bills", "welfare", "residents"} {
		q = strings.Replace(q, "JOIN "+n+" ON entity", "JOIN "+n+" USING (person)", 1)
		q = strings.ReplaceAll(q, n+".person", "person")
	}
	rows, err := w.db.Query(q)
	w.check(err)
	defer rows.Close()
	cols, err := rows.Columns()
	w.check(err)
	var out [][]string
	for rows.Next() {
		vals, ptrs := make([]any, len(cols)), make([]any, len(cols))
		for i := range vals {
			ptrs[i] = &vals[i]
		}
		w.check(rows.Scan(ptrs...))
		var line []string
		for _, v := range vals {
			line = append(line, fmt.Sprint(v))
		}
		out = append(out, line)
	}
	w.check(rows.Err())
	return out
}

func sameRows(t *testing.T, got, want [][]string, unordered bool) {
	t.Helper()
	if unordered {
		less := func(rows [][]string) func(i, j int) bool {
			return func(i, j int) bool { return slices.Compare(rows[i], rows[j]) < 0 }
		}
		sort.Slice(got, less(got))
		sort.Slice(want, less(want))
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		for k := range got[i] {
			x, errX := strconv.ParseFloat(got[i][k], 64)
			y, errY := strconv.ParseFloat(want[i][k], 64)
			if errX == nil && errY == nil && x-y < 1e-6 && y-x < 1e-6 {
				continue
			}
			same = same && got[i][k] == want[i][k]
		}
	}
	if !same {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Without noise, bisection finds the least value that at least the fraction of the rows does not exceed.
func TestJointQuantiles(t *testing.T) {
	w := newAgencies(t, rand.New(rand.NewPCG(3, 5)), ordinary)
	q := `SELECT town, COUNT(*), MEDIAN(cost), PERCENTILE_CONT(cost, 0.9), MIN(cost), MAX(cost), PERCENTILE(residents.age, 0.25) FROM residents JOIN bills ON entity
		WHERE residents.age > 20 GROUP BY town`
	p, view, err := w.plan(q)
	w.check(err)
	rows, err := w.db.Query(`SELECT town, cost, age FROM residents JOIN bills USING (person) WHERE age > 20`)
	w.check(err)
	defer rows.Close()
	costs, ages := map[string][]float64{}, map[string][]float64{}
	for rows.Next() {
		var town string
		var cost, age float64
		w.check(rows.Scan(&town, &cost, &age))
		costs[town], ages[town] = append(costs[town], cost), append(ages[town], age)
	}
	w.check(rows.Err())
	quantile := func(xs []float64, p float64) string {
		slices.Sort(xs)
		for i, x := range xs {
			if float64(i+1) >= p*float64(len(xs))-1e-9 {
				return strconv.FormatFloat(x, 'f', -1, 64)
			}
		}
		return "none"
	}
	var want [][]string
	for town, xs := range costs {
		want = append(want, []string{town, strconv.Itoa(len(xs)), quantile(xs, .5), quantile(xs, .9), quantile(xs, .01), quantile(xs, .99), quantile(ages[town], .25)})
	}
	sameRows(t, w.run(p, view), want, true)
}

// What the engine leaves out is refused with a reason and a place, and nothing is planned.
func TestJointRefusals(t *testing.T) {
	w := newAgencies(t, rand.New(rand.NewPCG(1, 5)), ordinary)
	for q, text := range map[string]string{
		`SELECT COUNT(*) FROM residents LEFT JOIN bills ON entity`:                           "inner join",
		`SELECT COUNT(*) FROM residents, bills`:                                              "inner join",
		`SELECT COUNT(*) FROM residents JOIN bills`:                                          "ON entity",
		`SELECT COUNT(*) FROM residents JOIN bills ON residents.person = bills.person`:       "ON entity and in no other way",
		`SELECT COUNT(*) FROM residents JOIN residents ON entity`:                            "twice",
		`SELECT COUNT(*) FROM residents JOIN welfare ON entity WHERE age > 3`:                `no column "age"`,
		`SELECT person, COUNT(*) FROM residents GROUP BY person`:                             "never sealed",
		`SELECT MEDIAN(paid) FROM bills`:                                                     "never missing",
		`SELECT COUNT(*) FROM residents WHERE town > '北'`:                                    "no order",
		`SELECT COUNT(*) FROM residents WHERE town = age`:                                    "not both numbers",
		`SELECT COUNT(*) FROM residents WHERE age > 'x'`:                                     "without quotes",
		`SELECT COUNT(*) FROM residents WHERE age < 10 AND town = '西'`:                       "not a label",
		`SELECT town, COUNT(*) FROM residents WHERE town = '北' AND town = '南' GROUP BY town`: "no cell of GROUP BY",
		`SELECT SUM(DISTINCT age) FROM residents`:                                            "COUNT(DISTINCT x)",
		`SELECT PERCENTILE_CONT(age, 1) FROM residents`:                                      "between 0 and 1",
		`SELECT COUNT(*) FROM residents WHERE age IS NULL`:                                   "IS",
		`SELECT COUNT(*) FROM residents WHERE EXISTS (SELECT 1)`:                             "subqueries",
	} {
		if _, _, err := w.plan(q); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s\n%v\nwant %q", q, err, text)
		}
	}
	w.grant.Datasets[0].Columns = slices.DeleteFunc(w.grant.Datasets[0].Columns, func(c operators.ColumnUse) bool { return c.Column == "person" })
	if _, _, err := w.plan(`SELECT COUNT(*) FROM residents JOIN bills ON entity`); err == nil || !strings.Contains(err.Error(), "may not be matched in this scenario") {
		t.Errorf("without the use join: %v", err)
	}
	w.grant.Scenario = canon.Sum([]byte("other"))
	if _, _, err := w.plan(`SELECT COUNT(*) FROM bills JOIN welfare ON entity`); err == nil || !strings.Contains(err.Error(), "was not sealed in share form for this scenario") {
		t.Errorf("in another scenario: %v", err)
	}
}
