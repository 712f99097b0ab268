package schema

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave/seal/table"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func describe(t testing.TB, text string, opts DescribeOptions) (*Schema, *Description, error) {
	t.Helper()
	r, err := table.NewCSV(strings.NewReader(text), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return Describe(r, opts)
}

func sample() string {
	var b strings.Builder
	b.WriteString("household_id,town,flat,urban,code,m3,people,age,read_on,remark,nothing\n")
	towns := []string{"城桥镇", "堡镇", "新河镇"}
	for i := range 200 {
		age := fmt.Sprint(20 + i%60)
		if i%10 == 0 {
			age = ""
		}
		fmt.Fprintf(&b, "%06d,%s,%v,%d,%03d,%d.%d,%d,%s,2024-%02d-%02d,remark %d,\n",
			i/2, towns[i%3], i%2 == 0, i%2, i, 3+i%97, i%10, 1+i%6, age, 1+i%12, 1+i%28, i/2)
	}
	return b.String()
}

func TestDescribeGolden(t *testing.T) {
	s, d, err := describe(t, sample(), DescribeOptions{Dataset: "water"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"testdata/described.json": string(out), "testdata/described.txt": d.String()} {
		if *update {
			if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// edited fills in what a person must write.
func edited(t testing.TB, s *Schema) *Schema {
	t.Helper()
	out, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := Parse([]byte(strings.ReplaceAll(string(out), Placeholder, "")))
	if err != nil {
		t.Fatalf("the edited draft is refused: %v\n%s", err, out)
	}
	return parsed
}

// The draft is refused for its placeholders only, and once they are written, the table it came from encodes.
func TestDescribedTableEncodes(t *testing.T) {
	s, _, err := describe(t, sample(), DescribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse(out)
	var p Problems
	if !errors.As(err, &p) || len(p) != 6 {
		t.Errorf("the draft itself: got %v, want six texts to write", err)
	}
	q := run(t, edited(t, s), sample())
	if q.Err() != nil || q.Rows != 200 {
		t.Errorf("%d rows: %v", q.Rows, q.Err())
	}
}

func run(t testing.TB, s *Schema, text string) *Quality {
	t.Helper()
	r, err := table.NewCSV(strings.NewReader(text), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEncoder(s, r.Header())
	if err != nil {
		t.Fatal(err)
	}
	for {
		row, err := r.Next()
		if err == io.EOF {
			return e.Quality()
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Encode(row)
	}
}

// Whatever the columns hold, the draft, once edited, accepts the table it was drafted from.
func TestDescribeAnything(t *testing.T) {
	value := rapid.OneOf(rapid.StringMatching(`[-+]?[0-9]{1,4}(\.[0-9]{0,8})?`), rapid.SampledFrom([]string{"", "a", "b", "true", "False", "2024-01-31", "007", "1", "0"}))
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(rt, "rows")
		col := rapid.SliceOfN(value, n, n).Draw(rt, "column")
		var b strings.Builder
		b.WriteString("row_id,x\n")
		for i, v := range col {
			fmt.Fprintf(&b, "r%d,%s\n", i, v)
		}
		s, _, err := describe(t, b.String(), DescribeOptions{MaxLabels: 8})
		if err != nil {
			rt.Fatal(err)
		}
		if len(s.Sealing.Layouts) == 0 || len(s.Sealing.Layouts[0].Measures)+len(s.Sealing.Layouts[0].Dims) == 0 {
			s.Sealing.Layouts = []Layout{{Name: "rows", Kind: "rows"}}
		}
		if q := run(t, edited(t, s), b.String()); q.Err() != nil {
			rt.Fatal(q.Err())
		}
	})
}

func TestDescribeRefuses(t *testing.T) {
	if _, _, err := describe(t, "a,b\n", DescribeOptions{}); !errors.Is(err, table.ErrEmpty) {
		t.Errorf("no rows: got %v", err)
	}
	if _, _, err := describe(t, "a,b\n1\n", DescribeOptions{}); !errors.Is(err, table.ErrFields) {
		t.Errorf("broken table: got %v", err)
	}
	_, d, err := describe(t, "a,b\n1,x\n1,x\n", DescribeOptions{})
	if err != nil || !strings.Contains(d.String(), "no column tells entities apart") {
		t.Errorf("no key: %v, %v", d, err)
	}
}

func TestNiceBounds(t *testing.T) {
	for _, tc := range []struct {
		least, most, scale int64
		edges              string
	}{
		{3_000_000, 97_000_000, 0, "[0,10,20,30,40,50,60,70,80,90,100]"},
		{-1_500_000, 2_500_000, 1, "[-15,-10,-5,0,5,10,15,20,25]"},
		{7_000_000, 7_000_000, 0, "[7,8]"},
		{-7_000_000, -7_000_000, 0, "[-7,-6]"},
		{1, 999_999, 6, "[0,100000,200000,300000,400000,500000,600000,700000,800000,900000,1000000]"},
	} {
		edges, _ := niceBounds(tc.least, tc.most, tc.scale)
		if got, _ := json.Marshal(edges); string(got) != tc.edges {
			t.Errorf("%d..%d at scale %d: got %s, want %s", tc.least, tc.most, tc.scale, got, tc.edges)
		}
	}
}
