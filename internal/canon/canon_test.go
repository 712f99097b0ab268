package canon

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sample has every kind of field that artefacts use.
type sample struct {
	Name  string   `json:"name"`
	Count int64    `json:"count"`
	Flag  bool     `json:"flag,omitempty"`
	Blob  []byte   `json:"blob,omitempty"`
	List  []string `json:"list"`
	Inner *inner   `json:"inner,omitempty"`
	Ref   Digest   `json:"ref,omitzero"`
	At    Time     `json:"at"`
}

type inner struct {
	Runs []int64           `json:"runs"`
	Map  map[string]string `json:"map,omitempty"`
}

func TestMarshalKnownAnswers(t *testing.T) {
	tests := []struct {
		name string
		in   any
		want string
	}{
		{"key order", map[string]any{"b": 1, "a": true, "": "x"}, `{"":"x","a":true,"b":1}`},
		// RFC 8785, section 3.2.3: sorting by UTF-16 code units puts the emoji (D83D…) before U+FB33.
		{"RFC 8785 sorting", map[string]any{
			"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
			"\U0001f600": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis",
		}, `{"\r":"Carriage Return","1":"One","` + "\u0080" + `":"Control","ö":"Latin Small Letter O With Diaeresis",` +
			`"€":"Euro Sign","😀":"Emoji: Grinning Face","` + "\ufb33" + `":"Hebrew Letter Dalet With Dagesh"}`},
		// RFC 8785, section 3.2.2: the string of the example.
		{"RFC 8785 string", "\u20ac$\u000f\nA'\u0042\u0022\u005c\\\"/", `"€$\u000f\nA'B\"\\\\\"/"`},
		{"no HTML or line separator escapes", "<&>\u2028\u2029\u007f", "\"<&>\u2028\u2029\u007f\""},
		{"control characters", "\b\t\n\f\r\x00\x1f", `"\b\t\n\f\r\u0000\u001f"`},
		{"largest integers", []int64{MaxInt, -MaxInt, 0}, `[9007199254740991,-9007199254740991,0]`},
		{"bytes", map[string][]byte{"k": {0xfb, 0xff}}, `{"k":"+/8="}`},
		{"empty", struct{}{}, `{}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Marshal(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("Marshal (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, v := range map[string]any{
		"nil":                     nil,
		"nil slice":               sample{Name: "x"},
		"null deep inside":        map[string]any{"a": []any{1, nil}},
		"integer beyond 2^53-1":   []int64{MaxInt + 1},
		"integer below -(2^53-1)": []int64{-MaxInt - 1},
		"uint64":                  []uint64{math.MaxUint64},
		"fraction":                []float64{0.5},
		"large float":             []float64{1e21},
		"NaN":                     []float64{math.NaN()},
		"channel":                 make(chan int),
		"broken UTF-8":            "a\xff",
		"broken UTF-8 in a field": sample{List: []string{"\xc0\xaf"}},
		"broken UTF-8 in a key":   map[string]int{"\xed\xa0\x80": 1},
		"broken UTF-8 by pointer": &inner{Runs: []int64{}, Map: map[string]string{"k": "\xf5"}},
		"our time with fraction":  Time{time.Unix(0, 1)},
		"year 10000":              Time{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"year -1":                 Time{time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if out, err := Marshal(v); err == nil {
			t.Errorf("%s: Marshal gave %s", name, out)
		}
	}
}

func TestMustMarshalPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("MustMarshal of a nil slice did not panic")
		}
	}()
	MustMarshal(sample{})
}

func TestUnmarshalRefuses(t *testing.T) {
	const good = `{"at":"2026-01-31T08:00:00Z","count":1,"list":["a"],"name":"n"}`
	var s sample
	if err := Unmarshal([]byte(good), &s); err != nil {
		t.Fatal(err)
	}
	swap := func(old, now string) string { return strings.Replace(good, old, now, 1) }
	for name, in := range map[string]string{
		"empty":                 "",
		"null":                  "null",
		"other type":            `[]`,
		"leading space":         " " + good,
		"trailing newline":      good + "\n",
		"second value":          good + "{}",
		"trailing brace":        good + "}",
		"truncated":             good[:len(good)-1],
		"space inside":          swap(`:1`, `: 1`),
		"order of keys":         `{"count":1,"at":"2026-01-31T08:00:00Z","list":["a"],"name":"n"}`,
		"unknown field":         swap(`"name"`, `"extra":1,"name"`),
		"duplicate key":         swap(`"count":1`, `"count":1,"count":1`),
		"duplicate, other case": swap(`"count":1`, `"Count":1,"count":1`),
		"key in capitals":       swap(`"count"`, `"COUNT"`),
		"missing field":         swap(`"count":1,`, ``),
		"zero of omitempty":     swap(`"list"`, `"flag":false,"list"`),
		"zero of omitzero":      swap(`"name":"n"`, `"name":"n","ref":"`+Digest{}.String()+`"`),
		"null field":            swap(`["a"]`, `null`),
		"number 1.0":            swap(`:1`, `:1.0`),
		"number 1e0":            swap(`:1`, `:1e0`),
		"number 01":             swap(`:1`, `:01`),
		"number -0":             swap(`:1`, `:-0`),
		"number as string":      swap(`:1`, `:"1"`),
		"integer beyond 2^53-1": swap(`:1`, `:9007199254740992`),
		"escaped letter":        swap(`"n"}`, `"\u006e"}`),
		"escaped slash":         swap(`"n"}`, `"\/"}`),
		"lone surrogate":        swap(`"n"}`, `"\ud800"}`),
		"invalid UTF-8":         swap(`"n"}`, "\"\xff\"}"),
		"raw control character": swap(`"n"}`, "\"\x01\"}"),
		"time with fraction":    swap(`08:00:00Z`, `08:00:00.5Z`),
		"time with zero frac":   swap(`08:00:00Z`, `08:00:00.000Z`),
		"time with zone":        swap(`08:00:00Z`, `16:00:00+08:00`),
		"time lower case":       swap(`T08:00:00Z`, `t08:00:00z`),
		"time 24:00":            swap(`T08:00`, `T24:00`),
		"time as number":        swap(`"2026-01-31T08:00:00Z"`, `1`),
		"base64 with newline":   swap(`"count"`, `"blob":"AA\n==","count"`),
		"base64 loose bits":     swap(`"count"`, `"blob":"AB==","count"`),
		"digest in capitals":    swap(`"name":"n"`, `"name":"n","ref":"sha256:`+strings.Repeat("A", 64)+`"`),
	} {
		var s sample
		if err := Unmarshal([]byte(in), &s); err == nil {
			t.Errorf("%s: accepted %s", name, in)
		}
	}
	var v sample
	if err := Unmarshal([]byte(good+" "), &v); !errors.Is(err, ErrNotCanonical) {
		t.Errorf("white space at the end: %v, want ErrNotCanonical", err)
	}
}

// A stale value must not fill in what the bytes leave out.
func TestUnmarshalIntoUsedValue(t *testing.T) {
	s := sample{Flag: true, Inner: &inner{Runs: []int64{1}}}
	if err := Unmarshal([]byte(`{"at":"2026-01-31T08:00:00Z","count":1,"list":[],"name":"n"}`), &s); err == nil {
		t.Errorf("parsed into a used value as %+v", s)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := sample{
			Name:  rapid.String().Draw(t, "name"),
			Count: rapid.Int64Range(-MaxInt, MaxInt).Draw(t, "count"),
			Flag:  rapid.Bool().Draw(t, "flag"),
			Blob:  rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "blob"),
			List:  rapid.SliceOf(rapid.String()).Draw(t, "list"),
			Inner: &inner{Runs: rapid.SliceOf(rapid.Int64Range(-MaxInt, MaxInt)).Draw(t, "runs"),
				Map: rapid.MapOfN(rapid.String(), rapid.String(), 1, 5).Draw(t, "map")},
			Ref: Sum(rapid.SliceOf(rapid.Byte()).Draw(t, "ref")),
			At:  At(time.Unix(rapid.Int64Range(-62167219200, 253402300799).Draw(t, "at"), 0)),
		}
		b, err := Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(b) {
			t.Fatalf("not JSON: %q", b)
		}
		var got sample
		if err := Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("round trip (-want +got):\n%s", diff)
		}
	})
}

// FuzzUnmarshal holds the strict parser to its promise: what it accepts is what the encoder writes.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{"at":"2026-01-31T08:00:00Z","count":1,"list":["a"],"name":"n"}`,
		`{"at":"0001-01-01T00:00:00Z","blob":"AAE=","count":-9007199254740991,"flag":true,"inner":{"map":{"k":"v"},"runs":[1,2]},"list":[],"name":"\u0000€😀"}`,
		`{"at":"2026-01-31T08:00:00Z","count":1,"count":1,"list":[],"name":"n"}`,
		`{"at":"2026-01-31T08:00:00.5Z","count":1e3,"list":null,"name":"\ud800"} `,
		`null`, `{}`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		if Unmarshal(data, &s) == nil {
			if again := MustMarshal(s); !bytes.Equal(again, data) {
				t.Fatalf("accepted %q, which encodes as %q", data, again)
			}
		}
		var any map[string]json.RawMessage
		if Unmarshal(data, &any) == nil {
			if again := MustMarshal(any); !bytes.Equal(again, data) {
				t.Fatalf("accepted %q as a map, which encodes as %q", data, again)
			}
		}
	})
}
