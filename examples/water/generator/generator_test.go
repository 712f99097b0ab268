package generator

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"testing"

	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
)

func generate(t testing.TB, rows int, seed uint64) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Write(&buf, rows, seed); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestDeterministic(t *testing.T) {
	a := generate(t, 5000, 1)
	if !bytes.Equal(a, generate(t, 5000, 1)) {
		t.Error("one seed gave two files")
	}
	if bytes.Equal(a, generate(t, 5000, 2)) {
		t.Error("two seeds gave one file")
	}
	// Documents and examples quote figures of this file.
	sum := sha256.Sum256(a)
	if got := hex.EncodeToString(sum[:8]); got != "744c411acb2aa424" {
		t.Errorf("the file of seed 1 changed: %s", got)
	}
}

func TestShape(t *testing.T) {
	rows, err := csv.NewReader(bytes.NewReader(generate(t, 30000, 7))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(rows[0], Header) {
		t.Fatalf("header is %q", rows[0])
	}
	seen := map[string]bool{}
	rare, use, count := 0, map[string]float64{}, map[string]float64{}
	for _, r := range rows[1:] {
		if seen[r[0]] || len(r[0]) != 8 {
			t.Fatal("pseudonyms must be unique and eight characters long")
		}
		seen[r[0]] = true
		if r[1] == RareTown && r[2] == RareBuilding {
			rare++
		}
		m3, err := strconv.ParseFloat(r[5], 64)
		if err != nil || m3 < 0 || m3 > 2000 {
			t.Fatalf("use out of range: %v", err)
		}
		for _, k := range []string{r[2], r[4], r[1]} {
			use[k] += m3
			count[k]++
		}
	}
	if rare != RareHouseholds {
		t.Errorf("%d rare households, want %d", rare, RareHouseholds)
	}
	mean := func(k string) float64 { return use[k] / count[k] }
	if mean("别墅") < mean("公寓") || mean("4") < mean("2") || mean("2") < mean("1") || mean("陈家镇") < mean("横沙乡") {
		t.Error("use does not follow building, people and town")
	}
	if len(seen) != 30000 || len(towns) != 18 {
		t.Errorf("%d households, %d towns", len(seen), len(towns))
	}
}

func TestBill(t *testing.T) {
	for _, tc := range []struct{ tenths, tier, yuan int }{
		{0, 0, 0}, {1, 0, 0}, {10, 0, 3}, {2200, 0, 759}, {2201, 1, 759}, {3000, 1, 1145}, {3010, 2, 1151}, {maxTenths, 2, 11056},
	} {
		if tier, yuan := bill(tc.tenths); tier != tc.tier || yuan != tc.yuan {
			t.Errorf("%d tenths: step %d, %d yuan; want %d, %d", tc.tenths, tier, yuan, tc.tier, tc.yuan)
		}
	}
}

type broken struct{}

var errBroken = errors.New("disk full")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteRefuses(t *testing.T) {
	if err := Write(broken{}, 10_000, 1); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if Write(io.Discard, -1, 1) == nil || Write(io.Discard, MaxHouseholds+1, 1) == nil {
		t.Error("accepted an impossible number of rows")
	}
}

func encodeAll(t testing.TB, s *schema.Schema, data []byte) *schema.Quality {
	r, err := table.NewCSV(bytes.NewReader(data), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := schema.NewEncoder(s, r.Header())
	if err != nil {
		t.Fatal(err)
	}
	for {
		row, err := r.Next()
		if err == io.EOF {
			return e.Quality()
		}
		if err == nil {
			_, err = e.Encode(row)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func load(t testing.TB) *schema.Schema {
	data, err := os.ReadFile("../schema.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := schema.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSchemaFits(t *testing.T) {
	q := encodeAll(t, load(t), generate(t, 20000, 1))
	if q.Rows != 20000 || q.Err() != nil {
		t.Errorf("%d rows: %v", q.Rows, q.Err())
	}
	for _, c := range q.Columns {
		if c.Missing+c.Rounded+c.Clamped > 0 {
			t.Errorf("column %s: %+v", c.Name, c)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for b.Loop() {
		if err := Write(io.Discard, 100_000, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*100_000/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkReadEncode reads CSV and encodes every column, as sealing does before any cryptography.
func BenchmarkReadEncode(b *testing.B) {
	data, s := generate(b, 1_000_000, 1), load(b)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		encodeAll(b, s, data)
	}
	b.ReportMetric(float64(b.N)*1_000_000/b.Elapsed().Seconds(), "rows/s")
}
