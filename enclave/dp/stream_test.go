package dp

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"io"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// Ours: computed by the reference stream of reference_test.go, and again with openssl dgst -hmac and openssl enc.
func TestStreamKnownAnswer(t *testing.T) {
	const want = "d31a46e5eac1bf69a6b97bf977dacb08c692dead45e2c8614772ad653ccd430e"
	got := make([]byte, 32)
	NewStream([]byte("yingzhou"), []byte("noise"), []byte{1, 2, 3}).Read(got)
	if hex.EncodeToString(got) != want {
		t.Errorf("stream starts with %x, want %s", got, want)
	}
}

// NIST SP 800-38A, F.5.5: AES-256-CTR. The mode is the standard one; only key and counter block are ours.
func TestReferenceIsAES256(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	block, err := aes.NewCipher(unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"))
	if err != nil {
		t.Fatal(err)
	}
	r := &reference{block: block, counter: new(big.Int).SetBytes(unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"))}
	var got []byte
	for range 32 {
		got = append(got, r.next())
	}
	want := unhex("0bdf7df1591716335e9a8b15c860c502" + "5a6e699d536119065433863c8f657b94") // output blocks 1 and 2
	if !bytes.Equal(got, want) {
		t.Errorf("key stream is %x, want %x", got, want)
	}
}

func TestReadsDoNotDependOnGrouping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(t, "key")
		a, r := NewStream(seed), newReference(seed)
		for range rapid.IntRange(1, 12).Draw(t, "reads") {
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				got := make([]byte, rapid.SampledFrom([]int{0, 1, 7, 255, 256, 257, 1000}).Draw(t, "length"))
				if n, err := io.ReadFull(a, got); n != len(got) || err != nil {
					t.Fatalf("read %d bytes of %d: %v", n, len(got), err)
				}
				for i := range got {
					if got[i] != r.next() {
						t.Fatalf("byte %d of a read of %d differs", i, len(got))
					}
				}
			case 1:
				var want uint64
				for range 8 {
					want = want<<8 | uint64(r.next())
				}
				if got := a.Uint64(); got != want {
					t.Fatalf("Uint64 is %x, want %x", got, want)
				}
			case 2:
				if got, want := a.Bool(), r.next()&1 == 1; got != want {
					t.Fatalf("Bool is %v, want %v", got, want)
				}
			}
		}
	})
}

func TestContextsSeparateStreams(t *testing.T) {
	b := func(s string) []byte { return []byte(s) }
	seen := map[[16]byte]int{}
	for i, s := range []*Stream{
		NewStream(b("k")), NewStream(b("k"), nil), NewStream(b("k"), nil, nil), NewStream(b("l")),
		NewStream(b("k"), b("ab")), NewStream(b("k"), b("a"), b("b")), NewStream(b("k"), b("b"), b("a")),
		NewStream(b("k"), b("ab"), nil), NewStream(b("k"), nil, b("ab")), NewStream(b("l"), b("ab")),
	} {
		var first [16]byte
		s.Read(first[:])
		if j, dup := seen[first]; dup {
			t.Errorf("streams %d and %d are the same", j, i)
		}
		seen[first] = i
	}
}

func TestStreamRefusesNoKey(t *testing.T) {
	mustPanic(t, "empty key", func() { NewStream(nil, []byte("context")) })
	mustPanic(t, "Below(0)", func() { NewStream([]byte("k")).Below(new(big.Int)) })
}

func TestBelowIsUniform(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 10, 255, 256, 257} {
		s, seen := testStream("below", n), map[int64]float64{}
		const draws = 60_000
		for range draws {
			seen[s.Below(big.NewInt(n)).Int64()]++
		}
		stat, want := 0.0, draws/float64(n)
		for x := range n {
			stat += (seen[x] - want) * (seen[x] - want) / want
			delete(seen, x)
		}
		if len(seen) > 0 {
			t.Errorf("Below(%d) went outside: %v", n, seen)
		}
		checkChiSquare(t, stat, int(n-1))
	}
}

func TestBelowAndSymmetricStayInside(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(t, "key")
		n := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "n"))
		n.Add(n, one)
		s, r := NewStream(key), newReference(key)
		for range 3 {
			x := s.Below(n)
			if x.Sign() < 0 || x.Cmp(n) >= 0 {
				t.Fatalf("Below(%v) = %v", n, x)
			}
			if want := r.uniform(n); x.Cmp(want) != 0 {
				t.Fatalf("Below(%v) = %v, want %v", n, x, want)
			}
		}
		if x := s.Symmetric(n); x.CmpAbs(n) >= 0 {
			t.Fatalf("Symmetric(%v) = %v", n, x)
		}
	})
	s, seen := testStream("symmetric", 0), map[int64]int{}
	for range 7000 {
		seen[s.Symmetric(big.NewInt(4)).Int64()]++
	}
	for x := int64(-3); x <= 3; x++ {
		if n := seen[x]; n < 870 || n > 1130 {
			t.Errorf("Symmetric(4) gave %d %d times of 7000", x, n)
		}
	}
}
