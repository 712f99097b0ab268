package schema

import (
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave/seal/table"
)

const goodHeader = "household,town,flat,m3,people,age,note\n"

// encode runs a table through the good schema.
func encode(t *testing.T, schema, text string) (records []Record, q *Quality, errs []error) {
	t.Helper()
	r, err := table.NewCSV(strings.NewReader(text), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEncoder(mustParse(t, schema), r.Header())
	if err != nil {
		t.Fatal(err)
	}
	for {
		row, err := r.Next()
		if err == io.EOF {
			return records, e.Quality(), errs
		}
		if err != nil {
			t.Fatal(err)
		}
		rec, err := e.Encode(row)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		records = append(records, Record{Key: rec.Key, Index: append([]int32(nil), rec.Index...),
			Value: append([]int64(nil), rec.Value...), Present: append([]bool(nil), rec.Present...)})
	}
}

func TestEncode(t *testing.T) {
	got, q, errs := encode(t, good, goodHeader+
		"A1,堡镇,TRUE,10,9,30,x\n"+ // 9 people are clamped to 8
		"A1,,,200,1,NA,\n"+ // missing town, flat, age and note
		"A2,城桥镇,0,19.96,4,120,\n") // rounded to 20.0
	if errs != nil {
		t.Fatal(errs)
	}
	// Columns: town, flat, m3 (centre 1000), people (centre 4), age (centre 60), note, household.
	want := []Record{
		{Key: "A1", Index: []int32{1, 0, 1, -1, -1, -1, -1}, Value: []int64{0, 0, -900, 4, -30, 0, 0}, Present: []bool{false, false, true, true, true, false, false}},
		{Key: "A1", Index: []int32{2, 2, 3, -1, -1, -1, -1}, Value: []int64{0, 0, 1000, -3, 0, 0, 0}, Present: []bool{false, false, true, true, false, false, false}},
		{Key: "A2", Index: []int32{0, 1, 2, -1, -1, -1, -1}, Value: []int64{0, 0, -800, 0, 60, 0, 0}, Present: []bool{false, false, true, true, true, false, false}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	wantQ := &Quality{Rows: 3, Columns: []ColumnQuality{{Name: "town", Missing: 1}, {Name: "flat", Missing: 1}, {Name: "m3", Rounded: 1},
		{Name: "people", Clamped: 1}, {Name: "age", Missing: 1}, {Name: "note", Missing: 2}, {Name: "household"}}}
	if d := cmp.Diff(wantQ, q); d != "" {
		t.Error(d)
	}
	if q.Err() != nil {
		t.Error(q.Err())
	}
}

func TestEncodeRefuses(t *testing.T) {
	const row = "A1,堡镇,true,10,2,30,x"
	for name, tc := range map[string]struct{ row, column, reason string }{
		"no key":           {",堡镇,true,10,2,30,x", "household", "key is missing"},
		"key pattern":      {"a1,堡镇,true,10,2,30,x", "household", "pattern"},
		"key too long":     {"A123456,堡镇,true,10,2,30,x", "household", "longer"},
		"outside domain":   {"A1,SECRET,true,10,2,30,x", "town", "declared domain"},
		"white space":      {"A1,堡镇 ,true,10,2,30,x", "town", "white space"},
		"required missing": {"A1,堡镇,true,NA,2,30,x", "m3", "required value"},
		"outside bounds":   {"A1,堡镇,true,200.1,2,30,x", "m3", "outside the declared bounds"},
		"not a number":     {"A1,堡镇,true,SECRET,2,30,x", "m3", "not a plain decimal"},
		"exponent":         {"A1,堡镇,true,1.2E+01,2,30,x", "m3", "exponent"},
		"too many digits":  {"A1,堡镇,true,123456789012345678901234567890,2,30,x", "m3", "too many digits"},
		"digits and text":  {"A1,堡镇,true,123456789012345678901234567890x,2,30,x", "m3", "not a plain decimal"},
	} {
		t.Run(name, func(t *testing.T) {
			_, q, errs := encode(t, good, goodHeader+row+"\n"+tc.row+"\n")
			var e *RowError
			if len(errs) != 1 || !errors.As(errs[0], &e) {
				t.Fatalf("got %v, want one *RowError", errs)
			}
			if e.Row != 2 || e.Line != 3 || e.Column != tc.column || !strings.Contains(e.Reason, tc.reason) {
				t.Errorf("got %v", e)
			}
			if q.BadRows != 1 || !errors.Is(q.Err(), ErrQuality) {
				t.Errorf("report: %v", q.Err())
			}
			if text := q.String() + q.Err().Error(); strings.Contains(text, "SECRET") || strings.Contains(text, "堡镇") || strings.Contains(text, "1234567") {
				t.Errorf("a value is in the report:\n%s", text)
			}
		})
	}
}

func TestClampOfHugeNumbers(t *testing.T) {
	got, q, errs := encode(t, good, goodHeader+"A1,堡镇,1,10,99999999999999999999,1,\nA2,堡镇,1,10,-99999999999999999999,1,\n")
	if errs != nil || got[0].Value[3] != 4 || got[1].Value[3] != -3 || q.Columns[3].Clamped != 2 {
		t.Errorf("got %v, %v", got, errs)
	}
}

func TestEntityRows(t *testing.T) {
	var b strings.Builder
	b.WriteString(goodHeader)
	for i := range 30 { // one entity of 30 rows among others of two
		fmt.Fprintf(&b, "A1,堡镇,true,10,2,30,x\nB%d,堡镇,true,10,2,30,x\nB%d,堡镇,true,10,2,30,x\n", i, i)
	}
	_, q, errs := encode(t, good, b.String())
	if len(errs) != 28 || q.Beyond != 28 || q.BadRows != 28 || len(q.BeyondRows) != maxListed || len(q.Bad) != maxListed || q.BeyondRows[0] != 7 {
		t.Errorf("%d errors, report %+v", len(errs), q)
	}
	if strings.Contains(q.String(), "A1") {
		t.Error("the key is in the report")
	}
}

func TestEncoderHeader(t *testing.T) {
	_, err := NewEncoder(mustParse(t, good), []string{"town", "m3", "people", "age", "note", "household", "surprise"})
	var p Problems
	if !errors.As(err, &p) || len(p) != 2 || !strings.Contains(err.Error(), `"surprise"`) || !strings.Contains(err.Error(), `"flat"`) {
		t.Errorf("got %v", err)
	}
}

func TestEntityCounter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOf(rapid.StringN(0, 2, -1)).Draw(t, "keys")
		c, want := newEntityCounter(), map[string]uint32{}
		for _, k := range keys {
			want[k]++
			if got := c.add(k); got != want[k] {
				t.Fatalf("count is %d, want %d", got, want[k])
			}
		}
	})
	c := newEntityCounter()
	for i := range 10_000 { // across several growths
		c.add(fmt.Sprint(i % 5000))
	}
	if c.most() != 2 || c.used != 5000 {
		t.Errorf("most %d, distinct %d", c.most(), c.used)
	}
}

// The reference is exact rational arithmetic, rounded half to even.
func TestParseScaled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[-+]?[0-9]{0,9}(\.[0-9]{0,9})?`).Draw(t, "text")
		scale := rapid.Int64Range(0, maxScale).Draw(t, "scale")
		v, rounded, err := parseScaled(s, scale)
		r, ok := new(big.Rat).SetString(s)
		if (err == nil) != ok {
			t.Fatalf("%q: %v, reference %v", s, err, ok)
		}
		if !ok {
			return
		}
		r.Mul(r, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(scale), nil)))
		want := new(big.Int).Div(r.Num(), r.Denom()) // floor
		half := new(big.Rat).Sub(r, new(big.Rat).SetInt(want)).Cmp(big.NewRat(1, 2))
		if half > 0 || half == 0 && want.Bit(0) == 1 {
			want.Add(want, big.NewInt(1))
		}
		if want.Int64() != v || rounded == r.IsInt() {
			t.Fatalf("%q at scale %d: got %d, rounded %v; want %d", s, scale, v, rounded, want)
		}
	})
	for s, want := range map[string]error{"": errNotNumber, ".": errNotNumber, "-": errNotNumber, "1e5": errExponent, "1 ": errNotNumber,
		"1,5": errNotNumber, "0x10": errNotNumber, "９": errNotNumber, "--1": errNotNumber, "9007199254740992": errTooLarge,
		"99999999999999999E9": errExponent, "9007199254740991": nil, "Inf": errNotNumber, "NaN": errNotNumber} {
		if _, _, err := parseScaled(s, 0); err != want {
			t.Errorf("%q: got %v, want %v", s, err, want)
		}
	}
}
