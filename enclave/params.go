package enclave

import (
	"fmt"
	"math/big"
	"math/bits"
	"strings"
)

// ParamSet is one of the few BGV parameter sets that are allowed. The primes are written out, so that the meaning of a
// stored ciphertext never depends on a library's prime search.
//
// There is no auxiliary modulus: products stay at degree two and the custodians hold pieces of s and of s², so there is
// no relinearisation key, no key-switching noise and no circular-security assumption.
type ParamSet struct {
	Name string
	// LogN is log2 of the ring degree N, which is also the number of slots.
	LogN int
	// Q are the NTT-friendly primes of the ciphertext modulus, q ≡ 1 mod 2N.
	Q []uint64
	// T is the plaintext modulus: prime, ≡ 1 mod 2N, not dividing Q.
	T uint64
	// NoiseBits bounds log2 of the phase noise |e| of the largest allowed circuit, a product summed over MaxRows rows.
	NoiseBits int
	// LossBits is the statistical distance that all openings of one keyset may add up to, as a negative power of two.
	LossBits int
}

// MaxRows is the largest number of rows of a sealed version; it bounds noise and overflow.
const MaxRows = 1 << 22

// Named sets. Security by the tables of the Homomorphic Encryption Standard (2018) for ternary secrets and σ = 3.2:
// N = 2^13 allows log2 Q ≤ 218 and N = 2^14 allows log2 Q ≤ 438 at 128 bits (classical).
var paramSets = []ParamSet{
	// Counts and small sums. log2 Q = 153: well over 128 bits.
	{Name: "bgv13-t36", LogN: 13, Q: []uint64{2251799813554177, 2251799813472257, 2251799813406721},
		T: 68719230977, NoiseBits: 57, LossBits: 40},
	// Default. log2 Q = 204: well over 192 bits.
	{Name: "bgv14-t50", LogN: 14, Q: []uint64{2251799813554177, 2251799811391489, 2251799810670593, 2251799810605057},
		T: 1125899904679937, NoiseBits: 72, LossBits: 40},
	// Wide sums. log2 Q = 264: over 192 bits.
	{Name: "bgv14-t58", LogN: 14, Q: []uint64{1152921504606748673, 2251799813554177, 2251799811391489, 2251799810670593, 2251799810605057},
		T: 288230376150630401, NoiseBits: 80, LossBits: 40},
}

// DefaultParams names the set used when a schema does not choose.
const DefaultParams = "bgv14-t50"

// LookupParams finds a named set.
func LookupParams(name string) (*ParamSet, error) {
	var names []string
	for i := range paramSets {
		if paramSets[i].Name == name {
			return &paramSets[i], nil
		}
		names = append(names, paramSets[i].Name)
	}
	return nil, fmt.Errorf("parameter set %q is not one of %s", name, strings.Join(names, ", "))
}

// N is the ring degree and the number of slots.
func (s *ParamSet) N() int { return 1 << s.LogN }

// Modulus is Q, the product of the primes.
func (s *ParamSet) Modulus() *big.Int {
	q := big.NewInt(1)
	for _, p := range s.Q {
		q.Mul(q, new(big.Int).SetUint64(p))
	}
	return q
}

// SmudgeBits is log2 of the bound B of the smudging noise that each of the pieces adds. Opening is exact while
// pieces·B + |e| < Q/2t; B leaves a factor of two for |e|, which is smaller by dozens of bits.
func (s *ParamSet) SmudgeBits(pieces int) int {
	room := new(big.Int).Quo(s.Modulus(), new(big.Int).Lsh(new(big.Int).SetUint64(s.T), 1))
	return room.BitLen() - 1 - bits.Len(uint(pieces-1)) - 1
}

// OpeningCap is how many distinct ciphertexts one keyset may open: each opening is within 2^(NoiseBits−SmudgeBits−1) of
// a distribution that is independent of the key, and all of them together stay within 2^-LossBits.
func (s *ParamSet) OpeningCap(pieces int) int64 {
	room := s.SmudgeBits(pieces) + 1 - s.NoiseBits - s.LossBits
	return int64(1) << min(max(room, 0), 62)
}
