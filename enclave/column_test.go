package enclave_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

func TestColumnAsDimension(t *testing.T) {
	for _, c := range []struct {
		column enclave.Column
		want   []string
	}{
		{enclave.Column{Type: enclave.TypeCategory, Domain: []string{"a", ""}}, []string{"a", ""}},
		{enclave.Column{Type: enclave.TypeNumber, Scale: 1, Bins: []int64{-5, 0, 500, 2000}}, []string{"[-0.5,0)", "[0,50)", "[50,200]"}},
		{enclave.Column{Type: enclave.TypeNumber, Bins: []int64{1, 9}}, []string{"[1,9]"}},
		{enclave.Column{Type: enclave.TypeNumber}, nil},
		{enclave.Column{Type: enclave.TypeNumber, Bins: []int64{1}}, nil},
		{enclave.Column{Type: enclave.TypeKey, Domain: []string{"a"}}, nil},
		{enclave.Column{Type: enclave.TypeOther, Bins: []int64{1, 2, 3}}, nil},
	} {
		var got []string
		for i := range c.column.Size() {
			got = append(got, c.column.Label(i))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v (-want +got)\n%s", c.column, diff)
		}
	}
}

func TestFormatScaled(t *testing.T) {
	for _, c := range []struct {
		v, scale int64
		want     string
	}{
		{0, 0, "0"}, {0, 3, "0"}, {-7, 0, "-7"}, {1200, 2, "12"}, {1250, 2, "12.5"}, {-5, 1, "-0.5"}, {-5, 6, "-0.000005"}, {100, 0, "100"},
		{1<<53 - 1, 6, "9007199254.740991"},
	} {
		if got := enclave.FormatScaled(c.v, c.scale); got != c.want {
			t.Errorf("%d·10^-%d is written %q, want %q", c.v, c.scale, got, c.want)
		}
	}
}

// Reach is the sensitivity of a sum: no value of the declared range is further from the centre, and one is as far.
func TestReachBoundsEveryValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 1<<53 - 1
		lo := rapid.Int64Range(-most, most).Draw(t, "min")
		c := enclave.Column{Type: enclave.TypeNumber, Min: lo, Max: rapid.Int64Range(lo, most).Draw(t, "max")}
		v := rapid.Int64Range(c.Min, c.Max).Draw(t, "v")
		for _, x := range []int64{v, c.Min, c.Max} {
			if d := x - c.Centre(); d > c.Reach() || -d > c.Reach() {
				t.Fatalf("%d is %d from the centre, reach %d", x, d, c.Reach())
			}
		}
		if c.Max-c.Centre() != c.Reach() || c.Reach() > (c.Max-c.Min)/2+1 {
			t.Fatalf("reach %d of a range of %d", c.Reach(), c.Max-c.Min)
		}
	})
}

func TestLookups(t *testing.T) {
	m := water()
	if c, ok := m.Column("town"); !ok || !c.May(operators.UseGroup) || c.May(operators.UseAggregate) {
		t.Errorf("column town is %+v, %v", c, ok)
	}
	if _, ok := m.Column("Town"); ok {
		t.Error("a column is found by another name")
	}
	if _, ok := m.Layout("Cube"); ok {
		t.Error("a layout is found by another name")
	}
	l, _ := m.Layout("rows")
	l.Vectors = append(l.Vectors, l.Vectors[1])
	if l.Find("s:m3") != 1 || l.Find("s:people") != -1 {
		t.Errorf("found s:m3 at %d and s:people at %d", l.Find("s:m3"), l.Find("s:people"))
	}
	if cols, size, err := m.Dims(nil); cols != nil || size != 1 || err != nil {
		t.Errorf("the empty axis has %d cells over %v: %v", size, cols, err)
	}
	p := enclave.Piece{Without: []int{1, 2}}
	if p.Holds(1) || p.Holds(2) || !p.Holds(0) {
		t.Error("a piece is held by those it is without")
	}
}

func TestMoments(t *testing.T) {
	for _, c := range []struct {
		moment  enclave.Moment
		want    string
		letter  string
		columns []string
	}{
		{enclave.CountMoment, "n", "n", nil},
		{enclave.PresentMoment("x"), "n:x", "n", []string{"x"}},
		{enclave.SumMoment("用水"), "s:用水", "s", []string{"用水"}},
		{enclave.SquareMoment("x"), "q:x", "q", []string{"x"}},
		{enclave.ProductMoment("y", "x"), "p:x,y", "p", []string{"x", "y"}},
		{enclave.ProductMoment("x", "y"), "p:x,y", "p", []string{"x", "y"}},
	} {
		letter, columns := c.moment.Split()
		if string(c.moment) != c.want || letter != c.letter || !slices.Equal(columns, c.columns) {
			t.Errorf("moment %q splits into %q and %q", c.moment, letter, columns)
		}
	}
}

func TestFunctions(t *testing.T) {
	x := enclave.Column{Name: "x", Type: enclave.TypeNumber, Bins: []int64{0, 1, 2}}
	y := enclave.Column{Name: "y", Type: enclave.TypeNumber}
	missing := enclave.Column{Name: "z", Type: enclave.TypeNumber, Nullable: true}
	town := enclave.Column{Name: "town", Type: enclave.TypeCategory, Domain: []string{"a"}}
	for _, c := range []struct {
		name string
		cols []enclave.Column
		want string // moments, or part of the error
	}{
		{"COUNT", nil, "n"},
		{"COUNT", []enclave.Column{missing}, "n n:z"},
		{"SUM", []enclave.Column{y}, "n s:y"},
		{"AVG", []enclave.Column{missing}, "n n:z s:z"},
		{"VAR_POP", []enclave.Column{y}, "n s:y q:y"},
		{"STDDEV_POP", []enclave.Column{missing}, "n n:z s:z q:z"},
		{"COVAR_POP", []enclave.Column{y, x}, "n s:y s:x p:x,y"},
		{"CORR", []enclave.Column{y, x}, "n s:y s:x p:x,y q:x q:y"},
		{"REGR_SLOPE", []enclave.Column{y, x}, "n s:y s:x p:x,y q:x"},
		{"REGR_INTERCEPT", []enclave.Column{y, x}, "n s:y s:x p:x,y q:x"},
		{"REGR_R2", []enclave.Column{y, x}, "n s:y s:x p:x,y q:x q:y"},
		{"PERCENTILE", []enclave.Column{x}, "n"},
		{"PERCENTILE", []enclave.Column{y}, "needs declared bins"},
		{"SUM", []enclave.Column{town}, `column "town" is a category`},
		{"CORR", []enclave.Column{y, missing}, `"z" may be`},
	} {
		f, err := enclave.LookupFunction(c.name)
		if err != nil {
			t.Fatal(err)
		}
		moments, err := f.Moments(c.cols)
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		var got []string
		for _, m := range moments {
			got = append(got, string(m))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s opens %q, want %q", c.name, got, c.want)
		}
	}
	if _, err := enclave.LookupFunction("MAX"); err == nil {
		t.Error("MAX is a function")
	}
	fs := enclave.Functions()
	fs[0].Name = "changed"
	if enclave.Functions()[0].Name != "COUNT" {
		t.Error("a caller changed the list of functions")
	}
	for _, f := range enclave.Functions() {
		if f.Doc == "" || f.Args > 2 {
			t.Errorf("%s has %d arguments and doc %q", f.Name, f.Args, f.Doc)
		}
	}
}
