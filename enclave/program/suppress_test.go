package program_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/program"
)

func TestKeepAtTheLine(t *testing.T) {
	// b = m/ε, margin = ⌈z·√(2·3)·b⌉: for m = 1, ε = 0.5, z = 2 that is ⌈9.798⌉; for m = 3 it is ⌈29.394⌉.
	for _, c := range []struct {
		cohort, rows, marginMilli int64
		least                     int64
		rule                      string
	}{
		{10, 1, 2000, 20, "fewer than 10 (+ margin 10) people: small-cell rule"},
		{10, 1, 0, 10, "fewer than 10 (+ margin 0) people: small-cell rule"},
		{10, 3, 2000, 60, "fewer than 30 (+ margin 30) rows, as 10 people may have at up to 3 rows each: small-cell rule"},
		{1, 1, 2000, 11, "fewer than 1 (+ margin 10) people: small-cell rule"},
		{1 << 62, 1 << 40, 0, -1, ""}, // a product beyond 64 bits must not wrap round to a small one
	} {
		p := &enclave.Plan{EntityRows: c.rows, MinCohort: c.cohort, MarginMilli: c.marginMilli,
			Measures: []enclave.Measure{{Moment: "n", Delta: 1, EpsilonMicro: 500_000}}}
		if c.least < 0 {
			if keep, _ := program.Keep(p, 3, make([]enclave.Cell, 1), []int64{1<<63 - 1}); keep[0] {
				t.Errorf("%d people at %d rows each are fewer than 2^63 rows", c.cohort, c.rows)
			}
			continue
		}
		counts := []int64{c.least - 1, c.least, c.least + 1, -c.least, 0}
		keep, rules := program.Keep(p, 3, make([]enclave.Cell, len(counts)), counts)
		if want := []bool{false, true, true, false, false}; !slices.Equal(keep, want) {
			t.Errorf("%+v: keep is %v, want %v", c, keep, want)
		}
		if want := []string{c.rule, "", "", c.rule, c.rule}; !slices.Equal(rules, want) {
			t.Errorf("rules are %q, want %q", rules, want)
		}
	}
}

// A rule must be the same for every cell that it holds back: anything else would tell of the count.
func TestRuleTellsNothingOfTheCount(t *testing.T) {
	p := &enclave.Plan{EntityRows: 2, MinCohort: 50, MarginMilli: 3000, Measures: []enclave.Measure{{Moment: "n", Delta: 1, EpsilonMicro: 1_000_000}}}
	seen := map[string]bool{}
	for n := int64(-200); n < 100; n++ {
		_, rules := program.Keep(p, 3, make([]enclave.Cell, 1), []int64{n})
		seen[rules[0]] = true
	}
	if len(seen) != 1 {
		t.Errorf("%d different rules", len(seen))
	}
}

func TestKeepWantsACountForEveryCell(t *testing.T) {
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "1 counts for 2 cells") {
			t.Errorf("recovered %v", r)
		}
	}()
	program.Keep(&enclave.Plan{}, 3, make([]enclave.Cell, 2), []int64{1})
}

func TestValues(t *testing.T) {
	v := program.NewValues(2, 3)
	for _, bin := range []int{4, 0, 9, 4, 2} {
		v.Set(1, 2, bin, int64(100+bin))
	}
	v.Set(1, 2, 9, -1)
	for _, c := range []struct {
		cell, measure, bin int
		want               int64
		ok                 bool
	}{{1, 2, 0, 100, true}, {1, 2, 2, 102, true}, {1, 2, 4, 104, true}, {1, 2, 9, -1, true}, {1, 2, 3, 0, false}, {0, 2, 0, 0, false}, {1, 1, 0, 0, false}} {
		if got, ok := v.Get(c.cell, c.measure, c.bin); got != c.want || ok != c.ok {
			t.Errorf("Get(%d, %d, %d) = %d, %v", c.cell, c.measure, c.bin, got, ok)
		}
	}
}
