package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// results holds figures by benchmark and unit: results["GroupedSum1Mx18/kernel/workers=1"]["ns/op"].
type results map[string]map[string]float64

// A line of go test: a name with GOMAXPROCS behind it, the number of runs, and pairs of value and unit
// (https://go.dev/design/14313-benchmark-format).
var resultLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// parse adds the results that go test printed and says how many there were.
func (r results) parse(in io.Reader) (n int, err error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		m := resultLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		fields := strings.Fields(m[2])
		if len(fields)%2 != 0 {
			return n, fmt.Errorf("result %q is not pairs of value and unit", m[1])
		}
		units := map[string]float64{}
		for i := 0; i < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return n, fmt.Errorf("result %q: %w", m[1], err)
			}
			units[fields[i+1]] = v
		}
		r[m[1]] = units
		n++
	}
	return n, lines.Err()
}

// figure is one number of the table: a benchmark's value in a unit, times a factor, printed with a unit for people.
type figure struct {
	benchmark, unit string
	factor          float64
	as              string // e.g. "s one core"
}

// cell prints figures side by side; what was not measured is a dash.
func (r results) cell(fs []figure) string {
	var out []string
	for _, f := range fs {
		if v, ok := r[f.benchmark][f.unit]; ok {
			out = append(out, fmt.Sprintf("%s %s", significant(v*f.factor), f.as))
		}
	}
	return or(strings.Join(out, ", "))
}

// significant writes two or three digits.
func significant(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

func seconds(benchmark, as string) figure { return figure{benchmark, "ns/op", 1e-9, as} }
func millis(benchmark, as string) figure  { return figure{benchmark, "ns/op", 1e-6, as} }
func metric(benchmark, unit, as string) figure {
	return figure{benchmark, unit, 1, as}
}

// row is a line of the table. Aims are those of the project's design.
type row struct {
	what, aim                 string
	measured, lattigo, duckDB []figure
}

var table = []row{
	{"sealing from CSV, per value vector", "≥ 3 M rows/s",
		[]figure{metric("SealCSV/vectors=2", "Mvalues/s", "M rows/s of 2 vectors"), metric("SealCSV/vectors=20", "Mvalues/s", "of 20")}, nil, nil},
	{"sealing from CSV, the whole table", "",
		[]figure{metric("SealCSV/vectors=1", "Mrows/s", "M rows/s to 1 vector"), metric("SealCSV/vectors=20", "Mrows/s", "to 20")}, nil,
		[]figure{metric("DuckDB/load", "Mrows/s", "M rows/s")}},
	{"encryption alone, one core", "", []figure{metric("SealRows/bgv14-t50", "Mrows/s", "M rows/s")}, nil, nil},
	{"storage per row and vector", "≤ 34 B", []figure{metric("SealCSV/vectors=20", "B/row/vector", "B")}, nil, nil},
	{"grouped sum, 1 M rows × 18 groups", "≤ 0.9 s CPU",
		[]figure{seconds("GroupedSum1Mx18/kernel/workers=1", "s one core"), seconds("GroupedSum1Mx18/kernel/workers=2", "s two")},
		[]figure{metric("GroupedSum1Mx18/lattigo-MulRelin-Add-InnerSum", "s/query(extrapolated)", "s one core")},
		[]figure{seconds("DuckDB/sum1Mx18", "s")}},
	{"cube, 8,192 cells into 18 groups", "≤ 50 ms", []figure{millis("Cube8192Cells/groups=18", "ms")}, nil, nil},
	{"cube, 8,192 cells into 8,192 groups", "≤ 50 ms", []figure{millis("Cube8192Cells/groups=8192", "ms")}, nil, nil},
	{"opening 216 cells, two custodians, CPU", "≤ 200 ms", []figure{millis("Open216/cube", "ms of a cube"), millis("Open216/rows", "ms of rows")}, nil, nil},
	{"whole job, 1 M rows by 18 towns, on rows", "≤ 3 s",
		[]figure{seconds("Job1M/rows", "s"), metric("Job1M/rows", "s-compute", "of it in the worker"), metric("Job1M/rows", "s-release", "with the custodians")}, nil,
		[]figure{seconds("DuckDB/rows", "s")}},
	{"  the first job on these inputs", "", []figure{metric("Job1M/rows", "s-first", "s")}, nil, nil},
	{"whole job, 1 M rows by 72 groups, on a cube", "≤ 3 s",
		[]figure{seconds("Job1M/cube", "s"), metric("Job1M/cube", "s-compute", "of it in the worker"), metric("Job1M/cube", "s-release", "with the custodians")}, nil,
		[]figure{seconds("DuckDB/cube", "s")}},
	{"secret shares, 1 M rows: multiply", "≤ 40 ms", []figure{millis("Million/mul", "ms")}, nil, nil},
	{"  less-than, number to number", "≤ 0.25 s", []figure{seconds("Million/less", "s"), seconds("Million/less20bits", "s at 20 bits")}, nil, nil},
	{"  grouped sum × 18, one-hot", "≤ 60 ms", []figure{millis("Million/grouped18", "ms")}, nil, nil},
	{"  shuffle one column", "≤ 0.18 s", []figure{seconds("Million/shuffle", "s")}, nil, nil},
	{"  sort with one payload", "≤ 5 s, ≤ 500 rounds",
		[]figure{seconds("Million/sort", "s"), metric("Million/sort", "rounds/op", "rounds"), seconds("Million/sort64", "s for a whole word"), metric("Million/sort64", "rounds/op", "rounds")}, nil, nil},
	{"  join-sum 2 × 524 k, GROUP BY town", "≤ 6 s", []figure{seconds("Million/joinSum", "s"), metric("Million/joinSum", "rounds/op", "rounds")}, nil, nil},
	{"memory of the worker, 1 M rows × 18", "≤ 200 MB own, 1,600 mapped",
		[]figure{metric("Worker1Mx18", "MB-own", "MB its own"), metric("Worker1Mx18", "MB-mapped", "MB mapped read-only")}, nil, nil},
}
