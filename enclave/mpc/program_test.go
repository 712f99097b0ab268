package mpc_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/internal/canon"
)

var noise = mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 1_000_000}

// care is a program like those that a planner writes.
func care() *mpc.Program {
	p := &mpc.Program{Tables: []mpc.Table{
		{Name: "people", Rows: 100, Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "age", Kind: mpc.Number, Bound: 130},
			{Name: "north", Kind: mpc.Number, Bound: 1}, {Name: "south", Kind: mpc.Number, Bound: 1}}},
		{Name: "visits", Rows: 300, Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "cost", Kind: mpc.Number, Bound: 1 << 20}}},
	}}
	matched, cols := p.Join([]string{"people.id"}, "", []string{"people.age", "people.north", "people.south"}, []string{"visits.id"})
	old := p.Less(p.Constant("visits", 60), cols[0])
	who := p.Number(p.And(p.Bit(matched), old))
	p.Releases = []mpc.Release{{Name: "costs", Cells: cols[1:], Who: who, Count: noise, MinCount: 20,
		Sums:      []mpc.Sum{{Column: p.Mul("visits.cost", who), Noise: mpc.Noise{Rows: 3, Delta: 1 << 20, EpsilonMicro: 500_000}}},
		Quantiles: []mpc.Quantile{{Column: "visits.cost", Fractions: []int64{500_000}, Min: 0, Max: 1 << 20, Unit: 16, Noise: mpc.Noise{Rows: 3, Delta: 1, EpsilonMicro: 2_000_000}}}}}
	return p
}

func commitments(p *mpc.Program) mpc.Commitments {
	out := mpc.Commitments{}
	for _, t := range p.Tables {
		for _, c := range t.Columns {
			name := t.Name + "." + c.Name
			out[name] = [3]mpc.Digest{canon.DigestOf(struct{ A string }{name}), {1}, {2}}
		}
	}
	return out
}

func TestCheckTypesColumns(t *testing.T) {
	p := care()
	types, err := p.Check()
	if err != nil {
		t.Fatal(err)
	}
	last := p.Steps[len(p.Steps)-1].Out[0]
	if diff := cmp.Diff(mpc.Type{Kind: mpc.Number, Bound: 1 << 20, Frame: "visits", Rows: 300}, types[last]); diff != "" {
		t.Errorf("product (-want +got)\n%s", diff)
	}
	if got := p.Releases[0].Quantiles[0].Steps(); got != 16 {
		t.Errorf("%d steps for 2^16 units", got)
	}
	if got := p.EpsilonMicro(); got != 3_500_000 {
		t.Errorf("ε is %d·10⁻⁶", got)
	}
	again := new(mpc.Program)
	if err := canon.Unmarshal(canon.MustMarshal(p), again); err != nil {
		t.Fatal(err)
	}
	if again.Digest() != p.Digest() {
		t.Error("a program changes when it is parsed")
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(p *mpc.Program)
	}{
		{`table "people": needs a name of its own`, func(p *mpc.Program) { p.Tables[1].Name = "people" }},
		{`-1 rows are not between`, func(p *mpc.Program) { p.Tables[0].Rows = -1 }},
		{`column "id" of kind "bit"`, func(p *mpc.Program) { p.Tables[0].Columns[0].Kind = mpc.Bit }},
		{`bound 0 is not between`, func(p *mpc.Program) { p.Tables[0].Columns[1].Bound = 0 }},
		{`column "people.age" needs a name of its own`, func(p *mpc.Program) { p.Tables[0].Columns[2].Name = "age" }},
		{`step 0 (join): no column "x" so far`, func(p *mpc.Program) { p.Steps[0].On = []string{"x"} }},
		{`is a number where a word is needed`, func(p *mpc.Program) { p.Steps[0].On = []string{"people.age"} }},
		{`0 columns where 1 are needed`, func(p *mpc.Program) { p.Steps[0].On = nil }},
		{`1 key columns on one side and 2 on the other`, func(p *mpc.Program) { p.Steps[0].By = append(p.Steps[0].By, "visits.id") }},
		{`is not beside the keys`, func(p *mpc.Program) { p.Steps[0].In = []string{"visits.cost"} }},
		{`makes 4 columns and names 3`, func(p *mpc.Program) { p.Steps[0].Out = p.Steps[0].Out[:3] }},
		{`filter "visits.flag" belongs to frame visits, not people`, func(p *mpc.Program) {
			p.Tables[1].Columns = append(p.Tables[1].Columns, mpc.Column{Name: "flag", Kind: mpc.Number, Bound: 1})
			p.Steps[0].Where = "visits.flag"
		}},
		{`may be up to 130 where 0 or 1 is needed`, func(p *mpc.Program) { p.Steps[0].Where = "people.age" }},
		{`no table "x"`, func(p *mpc.Program) { p.Steps[1].Frame = "x" }},
		{`needs one constant`, func(p *mpc.Program) { p.Steps[1].Const = nil }},
		{`no such operation`, func(p *mpc.Program) { p.Steps[2].Op = "divide" }},
		{`belong to different frames`, func(p *mpc.Program) { p.Steps[2].In[1] = "people.age" }},
		{`1 columns where 2 are needed`, func(p *mpc.Program) { p.Steps[2].In = p.Steps[2].In[:1] }},
		{`use and, or, xor, not`, func(p *mpc.Program) { b := p.Bit("visits.cost"); p.Equal(b, b) }},
		{`the result may exceed`, func(p *mpc.Program) { p.Mul(p.Mul(p.Mul("visits.cost", "visits.cost"), "visits.cost"), "visits.cost") }},
		{`the result may exceed`, func(p *mpc.Program) { p.Linear(0, []int64{1 << 43}, "visits.cost") }},
		{`2 constants for 2 columns`, func(p *mpc.Program) { p.Linear(0, []int64{1}, "visits.cost", "visits.cost") }},
		{`is a bit: make it a number first`, func(p *mpc.Program) { p.Sort([]string{"visits.id"}, p.Bit("visits.cost")) }},
		{`takes no columns but the key`, func(p *mpc.Program) {
			p.Distinct([]string{"visits.id"}, "")
			p.Steps[len(p.Steps)-1].In = []string{"visits.cost"}
		}},
		{`is not beside the keys`, func(p *mpc.Program) { p.Group([]string{"visits.id"}, "", "people.age") }},
		{`release "costs": column`, func(p *mpc.Program) { p.Releases[0].Who = "visits.cost" }},
		{`a cell has no column`, func(p *mpc.Program) { p.Releases[0].Cells = []string{""} }},
		{`cell: filter "people.north" belongs`, func(p *mpc.Program) { p.Releases[0].Cells[0] = "people.north" }},
		{`count: rows 1, sensitivity 1 and ε 0`, func(p *mpc.Program) { p.Releases[0].Count.EpsilonMicro = 0 }},
		{`sum of "people.age": frame is`, func(p *mpc.Program) { p.Releases[0].Sums[0].Column = "people.age" }},
		{`is too wide`, func(p *mpc.Program) {
			p.Releases[0].Sums[0].Noise = mpc.Noise{Rows: 1 << 30, Delta: 1 << 40, EpsilonMicro: 1}
		}},
		{`and their noise may exceed`, func(p *mpc.Program) {
			p.Tables[1].Rows = 511
			p.Releases[0].Sums[0] = mpc.Sum{Column: p.Linear(0, []int64{1 << 33}, "visits.cost"), Noise: mpc.Noise{Rows: 1, Delta: 1 << 53, EpsilonMicro: 1_000_000}}
		}},
		{`takes too long to draw`, func(p *mpc.Program) {
			p.Releases[0].Count = mpc.Noise{Rows: 1 << 22, Delta: 1, EpsilonMicro: 1_000_000}
		}},
		{`no fraction`, func(p *mpc.Program) { p.Releases[0].Quantiles[0].Fractions = nil }},
		{`is not between 0 and 1`, func(p *mpc.Program) { p.Releases[0].Quantiles[0].Fractions[0] = 1_000_000 }},
		{`is empty or too wide`, func(p *mpc.Program) { p.Releases[0].Quantiles[0].Max = 0 }},
		{`each of 16 steps`, func(p *mpc.Program) { p.Releases[0].Quantiles[0].Noise.EpsilonMicro = 15 }},
		{`no column says which rows`, func(p *mpc.Program) { p.Keys = []mpc.KeyRelease{{Keys: []string{"visits.id"}}} }},
		{`min count 0`, func(p *mpc.Program) {
			last, count, _ := p.Group([]string{"visits.id"}, "")
			p.Keys = []mpc.KeyRelease{{Keys: []string{"visits.id"}, Last: last, Count: count, Noise: noise}}
		}},
	} {
		p := care()
		c.change(p)
		if _, err := p.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error is %v, want %q", err, c.want)
		}
	}
}

func TestQuestions(t *testing.T) {
	p := care()
	q, err := p.Questions(commitments(p))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[mpc.Digest]string{}
	for name, d := range q {
		if other, taken := seen[d]; taken {
			t.Errorf("columns %q and %q have one name", name, other)
		}
		seen[d] = name
	}
	who := p.Releases[0].Who
	renamed := care()
	renamed.Steps[0].Out[0] = "other"
	renamed.Steps[3].In[0] = "other"
	if r, err := renamed.Questions(commitments(p)); err != nil || r[who] != q[who] {
		t.Errorf("a column's own name changes what it is (%v)", err)
	}
	swapped := care()
	at := slices.IndexFunc(swapped.Steps, func(s mpc.Step) bool { return s.Op == mpc.OpAnd })
	slices.Reverse(swapped.Steps[at].In)
	if r, _ := swapped.Questions(commitments(p)); r[who] != q[who] {
		t.Error("an AND does not commute")
	}
	for name, change := range map[string]func(p *mpc.Program, c mpc.Commitments){
		"constant":     func(p *mpc.Program, _ mpc.Commitments) { p.Steps[1].Const[0]++ },
		"order":        func(p *mpc.Program, _ mpc.Commitments) { slices.Reverse(p.Steps[2].In) },
		"data":         func(_ *mpc.Program, c mpc.Commitments) { c["people.age"] = [3]mpc.Digest{{9}} },
		"other column": func(p *mpc.Program, _ mpc.Commitments) { p.Steps[0].In[0] = "people.north" },
		"rows":         func(p *mpc.Program, _ mpc.Commitments) { p.Tables[1].Rows++ },
	} {
		other := care()
		c := commitments(other)
		change(other, c)
		if r, err := other.Questions(c); err != nil || r[who] == q[who] {
			t.Errorf("%s: another question has the same name (%v)", name, err)
		}
	}
	n := mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 5}
	values := map[mpc.Digest]string{}
	for i, d := range []mpc.Digest{q.Value("count", n, nil, who), q.Value("sum", n, nil, who), q.Value("count", n, nil, who, ""), q.Value("count", n, nil, "", who),
		q.Value("count", n, []int64{1}, who), q.Value("count", n, []int64{1, 1}, who), q.Value("count", mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 51}, nil, who),
		q.Value("count", mpc.Noise{Rows: 1, Delta: 5, EpsilonMicro: 1}, nil, who)} {
		if other, taken := values[d]; taken {
			t.Errorf("values %d and %s have one name", i, other)
		}
		values[d] = fmt.Sprint(i)
	}
	if _, err := p.Questions(mpc.Commitments{}); err == nil {
		t.Error("names columns without commitments")
	}
}

func TestCombineRefuses(t *testing.T) {
	p := &mpc.Program{Tables: []mpc.Table{{Name: "t", Rows: 1, Columns: []mpc.Column{{Name: "x", Kind: mpc.Number, Bound: 1}}}},
		Releases: []mpc.Release{{Name: "r", Frame: "t.x", Count: noise, Sums: []mpc.Sum{{Column: "t.x", Noise: noise}}}}}
	outputs := func() (out [3]mpc.Output) {
		for i := range out {
			out[i] = mpc.Output{Party: i, Program: p.Digest(), Releases: []mpc.ReleaseOutput{{Name: "r", Counts: []int64{5}, Kept: []bool{true},
				Sums: [][]mpc.Pair{{{uint64(10 * i), uint64(10 * ((i + 1) % 3))}}}}}}
		}
		return out
	}
	r, err := mpc.Combine(p, outputs())
	if err != nil || r.Releases[0].Sums[0][0] != 30 {
		t.Fatalf("%+v, %v", r, err)
	}
	for name, change := range map[string]func(o *[3]mpc.Output){
		"party":            func(o *[3]mpc.Output) { o[1].Party = 2 },
		"program":          func(o *[3]mpc.Output) { o[2].Program = mpc.Digest{} },
		"missing release":  func(o *[3]mpc.Output) { o[0].Releases = nil },
		"missing sum":      func(o *[3]mpc.Output) { o[0].Releases[0].Sums = nil },
		"short sum":        func(o *[3]mpc.Output) { o[1].Releases[0].Sums[0] = nil },
		"count":            func(o *[3]mpc.Output) { o[1].Releases[0].Counts[0]++ },
		"suppression":      func(o *[3]mpc.Output) { o[2].Releases[0].Kept[0] = false },
		"first component":  func(o *[3]mpc.Output) { o[2].Releases[0].Sums[0][0][0]++ },
		"second component": func(o *[3]mpc.Output) { o[0].Releases[0].Sums[0][0][1]++ },
	} {
		o := outputs()
		change(&o)
		if _, err := mpc.Combine(p, o); !errors.Is(err, mpc.ErrDisagree) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
