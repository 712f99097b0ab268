package mpc_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave/mpc"
)

func TestDealAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]mpc.Kind{mpc.Number, mpc.Word}).Draw(t, "kind")
		values := rapid.SliceOfN(rapid.Uint64(), 0, 5000).Draw(t, "values")
		parts, err := mpc.Deal(rand.Reader, kind, values)
		if err != nil {
			t.Fatal(err)
		}
		var words [3][]uint64
		for c, p := range parts {
			again, err := mpc.ParseComponent(p.Encode())
			if err != nil {
				t.Fatalf("component %d: %v", c, err)
			}
			if again.Commitment() != p.Commitment() || !bytes.Equal(again.Encode(), p.Encode()) {
				t.Fatalf("component %d changes when it is parsed", c)
			}
			words[c] = again.Expand()
			if len(words[c]) != len(values) {
				t.Fatalf("component %d has %d words of %d", c, len(words[c]), len(values))
			}
		}
		for i, v := range values {
			sum := words[0][i] + words[1][i] + words[2][i]
			if kind == mpc.Word {
				sum = words[0][i] ^ words[1][i] ^ words[2][i]
			}
			if sum != v {
				t.Fatalf("row %d is %d, want %d", i, sum, v)
			}
		}
	})
}

// Dealing twice gives nothing in common, not even the commitments.
func TestDealIsRandom(t *testing.T) {
	a, err := mpc.Deal(rand.Reader, mpc.Number, []uint64{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	b, err := mpc.Deal(rand.Reader, mpc.Number, []uint64{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	for c := range a {
		if a[c].Commitment() == b[c].Commitment() || slices.Equal(a[c].Expand(), b[c].Expand()) {
			t.Errorf("component %d is dealt twice", c)
		}
	}
}

func TestDealRefuses(t *testing.T) {
	if _, err := mpc.Deal(rand.Reader, mpc.Bit, nil); err == nil {
		t.Error("deals bits")
	}
	if _, err := mpc.Deal(strings.NewReader("short"), mpc.Number, []uint64{1}); err == nil {
		t.Error("deals without randomness")
	}
}

func TestHolders(t *testing.T) {
	for c, want := range [][2]int{{0, 2}, {1, 0}, {2, 1}} {
		if got := mpc.Holders(c); got != want {
			t.Errorf("component %d is held by %v, want %v", c, got, want)
		}
	}
}

func TestParseComponentRefuses(t *testing.T) {
	parts, err := mpc.Deal(rand.Reader, mpc.Word, []uint64{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	seed, words := parts[0].Encode(), parts[2].Encode()
	change := func(b []byte, at int, v byte) []byte {
		out := slices.Clone(b)
		out[at] ^= v
		return out
	}
	for name, b := range map[string][]byte{
		"empty": nil, "half a header": seed[:20], "header alone": seed[:50], "short seed": seed[:81], "long seed": append(slices.Clone(seed), 0),
		"short words": words[:len(words)-1], "a word more": append(slices.Clone(words), make([]byte, 8)...),
		"another magic": change(seed, 0, 1), "another kind": change(seed, 8, 255), "another form": change(seed, 9, 2),
		"other rows": change(words, 10, 1), "too many rows": change(seed, 17, 1),
	} {
		if _, err := mpc.ParseComponent(b); !errors.Is(err, mpc.ErrComponent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseComponent(f *testing.F) {
	for _, values := range [][]uint64{nil, {1}, {1, 2, 3}} {
		parts, err := mpc.Deal(rand.Reader, mpc.Number, values)
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range parts {
			f.Add(p.Encode())
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := mpc.ParseComponent(data)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Encode(), data) {
			t.Errorf("%x is encoded as %x", data, c.Encode())
		}
	})
}
