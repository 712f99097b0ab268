// Package he is the homomorphic engine: BGV over the named parameter sets of package enclave, on Lattigo's rings. It
// seals vectors under an owner's secret key, adds and multiplies them without any key, and turns one coefficient of a
// result into additive shares of the pieces of that key.
//
// What it refuses to have: public keys, rotations, Galois keys, relinearisation keys, more than one product per term,
// and decryption by any single party but the owner. A result is never a whole polynomial: only one coefficient of it,
// the wanted sum, can be opened (an LWE sample).
//
// Encoding. With ciphertext modulus Q, plaintext modulus t and secret s, a ciphertext (c0, c1, c2) of message m has
//
//	c0 + c1·s + c2·s² = e + t⁻¹·m  (mod Q)
//
// for a small phase noise e, so [t·(c0 + c1·s + c2·s²)]_Q, centred, is m mod t. This is Lattigo's own convention for
// BGV (schemes/bgv); a product of two such ciphertexts takes one explicit factor t.
//
// Rows layout: the values stand in the N slots of the plaintext ring. Their sum is N times the constant coefficient of
// m, so summing all slots costs nothing and needs no rotation. Cube layout: cell k stands in coefficient k, and the sum
// over a set S of cells is the constant coefficient of m·Σ_{k∈S} X^{−k}.
package he

import (
	"fmt"
	"math/big"
	"sync"

	"github.com/tuneinsight/lattigo/v6/ring"

	"yingzhou.dev/lab/enclave/he/evaluator"
)

// Params is a parameter set with its precomputed rings. It is immutable and safe for concurrent use.
type Params struct {
	*evaluator.Params

	n, l  int
	q     []uint64
	t     uint64
	ringQ *ring.Ring
	ringT *ring.Ring
	nInvQ []uint64 // N⁻¹ mod q_i
	tInvQ []uint64 // t⁻¹ mod q_i
	nInvT uint64   // N⁻¹ mod t
	bigQ  *big.Int
	bigT  *big.Int
	tInv  *big.Int   // t⁻¹ mod Q
	crt   []*big.Int // (Q/q_i)·[(Q/q_i)⁻¹]_{q_i}
}

var compiled sync.Map // name → *Params; a cache of pure values

// Compile looks a named set up and prepares its rings.
func Compile(name string) (*Params, error) {
	if p, ok := compiled.Load(name); ok {
		return p.(*Params), nil
	}
	e, err := evaluator.Compile(name)
	if err != nil {
		return nil, err
	}
	p, err := newParams(e)
	if err != nil {
		return nil, fmt.Errorf("parameter set %q: %w", name, err)
	}
	actual, _ := compiled.LoadOrStore(name, p)
	return actual.(*Params), nil
}

func newParams(e *evaluator.Params) (*Params, error) {
	set := e.Set
	p := &Params{Params: e, n: set.N(), l: len(set.Q), q: set.Q, t: set.T, bigQ: set.Modulus(), bigT: new(big.Int).SetUint64(set.T)}
	var err error
	if p.ringQ, err = ring.NewRing(p.n, set.Q); err != nil {
		return nil, err
	}
	if p.ringT, err = ring.NewRing(p.n, []uint64{set.T}); err != nil {
		return nil, err
	}
	bigN := big.NewInt(int64(p.n))
	p.tInv = new(big.Int).ModInverse(p.bigT, p.bigQ)
	p.nInvT = new(big.Int).ModInverse(bigN, p.bigT).Uint64()
	for _, q := range set.Q {
		bq := new(big.Int).SetUint64(q)
		p.nInvQ = append(p.nInvQ, new(big.Int).ModInverse(bigN, bq).Uint64())
		p.tInvQ = append(p.tInvQ, new(big.Int).Mod(p.tInv, bq).Uint64())
		rest := new(big.Int).Quo(p.bigQ, bq)
		inv := new(big.Int).ModInverse(new(big.Int).Mod(rest, bq), bq)
		p.crt = append(p.crt, rest.Mul(rest, inv))
	}
	return p, nil
}

// poly views a flat slice of Words() residues as a Lattigo polynomial without copying.
func (p *Params) poly(flat []uint64) ring.Poly {
	c := make([][]uint64, p.l)
	for i := range c {
		c[i] = flat[i*p.n : (i+1)*p.n : (i+1)*p.n]
	}
	return ring.Poly{Coeffs: c}
}

// compose lifts residues to [0, Q) by the Chinese remainder theorem.
func (p *Params) compose(residues []uint64) *big.Int {
	x := new(big.Int)
	for i, r := range residues {
		x.Add(x, new(big.Int).Mul(p.crt[i], new(big.Int).SetUint64(r)))
	}
	return x.Mod(x, p.bigQ)
}

// centre maps [0, m) to the representative nearest zero.
func centre(x, m *big.Int) *big.Int {
	if new(big.Int).Lsh(x, 1).Cmp(m) > 0 {
		return new(big.Int).Sub(x, m)
	}
	return x
}
