// Package evaluator computes on ciphertexts without any key: sums over cubes, and sums and single products over rows
// (package he explains the encoding). It is all that a worker runs, so it imports neither Lattigo nor key code; its
// arithmetic is deterministic to the bit, and package he's tests hold it against Lattigo's.
package evaluator

import (
	"fmt"
	"math/big"
	"math/bits"
	"sync"

	"yingzhou.dev/lab/enclave"
)

// Params is a parameter set with the constants that evaluation needs. Immutable.
type Params struct {
	Set *enclave.ParamSet

	n, l  int
	q     []uint64
	nInvQ []uint64 // N⁻¹ mod q_i
	tModQ []uint64 // t mod q_i
	fold  int      // products that fit in 128 bits on top of a folded accumulator
}

var compiled sync.Map // name → *Params; a cache of pure values

// Compile looks a named set up. Equal names give equal pointers.
func Compile(name string) (*Params, error) {
	if p, ok := compiled.Load(name); ok {
		return p.(*Params), nil
	}
	set, err := enclave.LookupParams(name)
	if err != nil {
		return nil, err
	}
	p := &Params{Set: set, n: set.N(), l: len(set.Q), q: set.Q}
	width := 0
	for _, q := range set.Q {
		inv := new(big.Int).ModInverse(big.NewInt(int64(p.n)), new(big.Int).SetUint64(q))
		if inv == nil {
			return nil, fmt.Errorf("parameter set %q: %d is not prime to 2N", name, q)
		}
		p.nInvQ = append(p.nInvQ, inv.Uint64())
		p.tModQ = append(p.tModQ, set.T%q)
		width = max(width, bits.Len64(q))
	}
	// A folded accumulator is below 2^(width+64); each Karatsuba product below 2^(2·width+2).
	if p.fold = 1 << min(max(125-2*width, 0), 20); p.fold < 4 {
		return nil, fmt.Errorf("parameter set %q: primes of %d bits leave no room for lazy accumulation", name, width)
	}
	actual, _ := compiled.LoadOrStore(name, p)
	return actual.(*Params), nil
}

// N is the ring degree: slots, or cube cells, of one ciphertext.
func (p *Params) N() int { return p.n }

// Words is the length of one polynomial in residue form: len(Q)·N.
func (p *Params) Words() int { return p.l * p.n }

// Fold is how many products of two residues may be added up in 128 bits before reduction, with room to spare.
func (p *Params) Fold() int { return p.fold }

// ChunkBytes is the size of one ciphertext in a sealed blob.
func (p *Params) ChunkBytes() int64 { return int64(p.Words()) * 8 }

// PanelBytes is the size of an expanded panel of so many ciphertexts.
func (p *Params) PanelBytes(chunks int64) int64 { return 2 * chunks * p.ChunkBytes() }

// Expand recomputes the uniform half c1 of a blob's chunk: Words() residues, NTT domain.
func (p *Params) Expand(seed [32]byte, chunk int64, out []uint64) {
	p.Uniform(chunkKey(seed, chunk), out)
}
