package enclave_test

import (
	"math/big"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
)

var setNames = []string{"bgv13-t36", "bgv14-t50", "bgv14-t58"}

// Primes and congruences that encoding rests on: an NTT of length N modulo every prime and modulo t, and CRT.
func TestParamSetsAreWellFormed(t *testing.T) {
	for _, name := range setNames {
		s, err := enclave.LookupParams(name)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[uint64]bool{}
		for _, p := range append([]uint64{s.T}, s.Q...) {
			if !new(big.Int).SetUint64(p).ProbablyPrime(32) {
				t.Errorf("%s: %d is not prime", name, p)
			}
			if p%uint64(2*s.N()) != 1 {
				t.Errorf("%s: %d is not 1 mod 2N", name, p)
			}
			if seen[p] {
				t.Errorf("%s: %d is there twice: t must not divide Q, and Q be square-free", name, p)
			}
			seen[p] = true
		}
		// Homomorphic Encryption Standard (2018), table 1: ternary secret, 128 bits against classical attacks.
		most := map[int]int{13: 218, 14: 438}[s.LogN]
		if bits := s.Modulus().BitLen(); bits > most {
			t.Errorf("%s: log2 Q = %d, the standard allows %d", name, bits, most)
		}
		if s.N() != 1<<s.LogN {
			t.Errorf("%s: N = %d", name, s.N())
		}
	}
}

// Opening is exact, and hides what it must, for every number of pieces that a quorum of up to nine custodians has.
func TestSmudgingFitsAndHides(t *testing.T) {
	for _, name := range setNames {
		s, err := enclave.LookupParams(name)
		if err != nil {
			t.Fatal(err)
		}
		half := new(big.Int).Quo(s.Modulus(), new(big.Int).Lsh(new(big.Int).SetUint64(s.T), 1))
		last := 1 << 30
		for pieces := 1; pieces <= 126; pieces++ {
			b := s.SmudgeBits(pieces)
			sum := new(big.Int).Lsh(big.NewInt(int64(pieces)), uint(b))
			sum.Add(sum, new(big.Int).Lsh(big.NewInt(1), uint(s.NoiseBits)))
			if sum.Cmp(half) >= 0 {
				t.Errorf("%s: %d pieces of 2^%d and noise 2^%d reach Q/2t", name, pieces, b, s.NoiseBits)
			}
			if b > last {
				t.Errorf("%s: %d pieces smudge with 2^%d, fewer with 2^%d", name, pieces, b, last)
			}
			last = b
			n := s.OpeningCap(pieces)
			if n < 1 || n&(n-1) != 0 {
				t.Errorf("%s: %d openings with %d pieces", name, n, pieces)
			}
			// n openings, each within 2^(NoiseBits−SmudgeBits−1), add up to at most 2^-LossBits.
			if loss := new(big.Int).Lsh(big.NewInt(n), uint(s.LossBits+s.NoiseBits)); loss.Cmp(new(big.Int).Lsh(big.NewInt(1), uint(b+1))) > 0 {
				t.Errorf("%s: %d openings with %d pieces lose more than 2^-%d", name, n, pieces, s.LossBits)
			}
		}
	}
	// Two of three custodians: a change of these figures is a change of what keysets already dealt may open.
	for name, want := range map[string][2]int64{"bgv13-t36": {113, 1 << 17}, "bgv14-t50": {149, 1 << 38}, "bgv14-t58": {201, 1 << 62}} {
		s, _ := enclave.LookupParams(name)
		if got := [2]int64{int64(s.SmudgeBits(3)), s.OpeningCap(3)}; got != want {
			t.Errorf("%s: smudging 2^%d and %d openings, want 2^%d and %d", name, got[0], got[1], want[0], want[1])
		}
	}
}

func TestLookupParams(t *testing.T) {
	if s, err := enclave.LookupParams(enclave.DefaultParams); err != nil || s.Name != enclave.DefaultParams {
		t.Errorf("the default set is %v, %v", s, err)
	}
	_, err := enclave.LookupParams("bgv13-t42") // few openings: refused in ARCHITECTURE
	if err == nil || !strings.Contains(err.Error(), `"bgv13-t42" is not one of bgv13-t36, bgv14-t50, bgv14-t58`) {
		t.Errorf("an unknown set gives %v", err)
	}
}
