package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const text = `goos: linux
BenchmarkGroupedSum1Mx18/kernel/workers=1-2         	       4	 301250000 ns/op	 9437184 B/op	      80 allocs/op
BenchmarkSealCSV/vectors=2-16 	       3	 500000000 ns/op	        32.00 B/row/vector	         2.100 Mrows/s
    bench_test.go:35: sealed in 3.6 s
BenchmarkPlain	1	7 ns/op
PASS
`
	r := results{}
	if n, err := r.parse(strings.NewReader(text)); n != 3 || err != nil {
		t.Errorf("%d results, %v", n, err)
	}
	want := results{
		"GroupedSum1Mx18/kernel/workers=1": {"ns/op": 301250000, "B/op": 9437184, "allocs/op": 80},
		"SealCSV/vectors=2":                {"ns/op": 500000000, "B/row/vector": 32, "Mrows/s": 2.1},
		"Plain":                            {"ns/op": 7},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := r.cell([]figure{seconds("GroupedSum1Mx18/kernel/workers=1", "s"), millis("Plain", "ms"), metric("Gone", "s", "s")}); got != "0.3 s, 7e-06 ms" {
		t.Errorf("a cell is %q", got)
	}
	if got := r.cell(nil); got != "–" {
		t.Errorf("an empty cell is %q", got)
	}
	for _, bad := range []string{"BenchmarkX-2 1 7 ns/op 8", "BenchmarkX-2 1 seven ns/op"} {
		if _, err := (results{}).parse(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestTableWithoutFigures(t *testing.T) {
	var out strings.Builder
	printTable(&out, results{}, []string{"DuckDB is left out: no C compiler"})
	if !strings.Contains(out.String(), "grouped sum") || !strings.HasSuffix(out.String(), "no C compiler\n") {
		t.Errorf("it prints\n%s", out.String())
	}
}

func TestLastLine(t *testing.T) {
	if got := lastLine("# pkg\ncgo: C compiler \"gcc\" not found\nFAIL\tpkg [build failed]\nFAIL\n"); got != `cgo: C compiler "gcc" not found` {
		t.Errorf("last line %q", got)
	}
}
