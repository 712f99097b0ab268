package he

import (
	"fmt"
	"math/big"
	"math/bits"

	"yingzhou.dev/lab/enclave/he/evaluator"

	"yingzhou.dev/lab/enclave/he/internal/modq"
)

// Opener computes one piece's shares. For a cube it keeps c1·s_p of each ciphertext in the coefficient domain, so that
// a cell, or the sum of many, costs additions only. Not safe for concurrent use.
type Opener struct {
	piece *KeyPiece
	cubes map[*evaluator.Blob]map[int64][]uint64 // c1·s_p per chunk, coefficient domain
}

// NewOpener prepares a piece for opening.
func NewOpener(piece *KeyPiece) *Opener {
	return &Opener{piece: piece, cubes: map[*evaluator.Blob]map[int64][]uint64{}}
}

// Erase overwrites what the opener derived from the piece.
func (o *Opener) Erase() {
	for _, chunks := range o.cubes {
		for _, w := range chunks {
			clear(w)
		}
	}
	clear(o.cubes)
}

// Share is the piece's part of the opening of c:
//
//	h_p = ⟨c1, s_p⟩₀ + ⟨c2, (s²)_p⟩₀ + [t⁻¹]_Q·[η·u]_t + e  mod Q
//
// with ⟨·,·⟩₀ the constant coefficient of the product, u = N⁻¹ mod t for rows and 1 for cubes, η the piece's noise in
// encoded units and e its smudging, |e| < B = 2^SmudgeBits. It is a function of its arguments and nothing else: the
// caller derives η and e from a PRF, so every holder, retry and quorum computes the same value.
func (o *Opener) Share(c *evaluator.Ciphertext, eta, smudge *big.Int) (*big.Int, error) {
	p := o.piece.p
	residues := make([]uint64, p.l)
	switch {
	case c.Source != nil:
		o.cubeInner(c, residues)
	case len(c.A1) == p.Words():
		p.inner(c.A1, o.piece.s1, residues)
		if c.A2 != nil {
			p.inner(c.A2, o.piece.s2, residues)
		}
	default:
		return nil, fmt.Errorf("opening: ciphertext is not of parameter set %s", p.Set.Name)
	}
	h := p.compose(residues)
	n := new(big.Int).Mod(eta, p.bigT)
	if c.Source == nil {
		n.Mul(n, new(big.Int).SetUint64(p.nInvT)).Mod(n, p.bigT)
	}
	h.Add(h, n.Mul(n, p.tInv))
	h.Add(h, smudge)
	return h.Mod(h, p.bigQ), nil
}

// inner adds the constant coefficient of a·s to residues; both are in the NTT domain, whose values add up to N times
// the constant coefficient.
func (p *Params) inner(a, s []uint64, residues []uint64) {
	for l, q := range p.q {
		x, y := a[l*p.n:(l+1)*p.n], s[l*p.n:(l+1)*p.n]
		y = y[:len(x)]
		var sum uint64
		for len(x) > 0 {
			n := min(len(x), p.Fold()*4) // below 2^(2·width)·4·Fold < 2^128
			var lo, hi uint64
			for i := range n {
				mh, ml := bits.Mul64(x[i], y[i])
				var c uint64
				lo, c = bits.Add64(lo, ml, 0)
				hi, _ = bits.Add64(hi, mh, c)
			}
			sum = modq.Add(sum, modq.Reduce(hi, lo, q), q)
			x, y = x[n:], y[n:]
		}
		residues[l] = modq.Add(residues[l], modq.Mul(sum, p.nInvQ[l], q), q)
	}
}

func (o *Opener) cubeInner(c *evaluator.Ciphertext, residues []uint64) {
	p := o.piece.p
	chunks := o.cubes[c.Source]
	if chunks == nil {
		chunks = map[int64][]uint64{}
		o.cubes[c.Source] = chunks
	}
	for _, k := range c.Cells {
		w := chunks[k/int64(p.n)]
		if w == nil {
			w = make([]uint64, p.Words())
			p.Expand(c.Source.Seed, k/int64(p.n), w)
			poly := p.poly(w)
			p.ringQ.MulCoeffsBarrett(poly, p.poly(o.piece.s1), poly)
			p.ringQ.INTT(poly, poly)
			chunks[k/int64(p.n)] = w
		}
		at := int(k % int64(p.n))
		for l, q := range p.q {
			residues[l] = modq.Add(residues[l], w[l*p.n+at], q)
		}
	}
}

// Combine adds one share of every piece and decodes: V = [t·(c0 + Σ h_p)]_Q centred, mod t, times N for rows, centred.
// The result is the sum with the noise of every piece.
func (p *Params) Combine(c *evaluator.Ciphertext, shares []*big.Int) int64 {
	x := p.compose(c.B)
	for _, h := range shares {
		x.Add(x, h)
	}
	x.Mul(x, p.bigT).Mod(x, p.bigQ)
	x = centre(x, p.bigQ)
	x.Mod(x, p.bigT)
	if c.Source == nil {
		x.Mul(x, big.NewInt(int64(p.n))).Mod(x, p.bigT)
	}
	return centre(x, p.bigT).Int64()
}

// ShareBytes is the size of an encoded share.
func (p *Params) ShareBytes() int { return (p.bigQ.BitLen() + 7) / 8 }

// EncodeShare writes h in [0, Q) big-endian at fixed length.
func (p *Params) EncodeShare(h *big.Int) []byte { return h.FillBytes(make([]byte, p.ShareBytes())) }

// ParseShare reads a share strictly.
func (p *Params) ParseShare(b []byte) (*big.Int, error) {
	h := new(big.Int).SetBytes(b)
	if len(b) != p.ShareBytes() || h.Cmp(p.bigQ) >= 0 {
		return nil, fmt.Errorf("share of %d bytes is not a residue of parameter set %s", len(b), p.Set.Name)
	}
	return h, nil
}

// Phase decrypts the phase noise of a result with the owner's key: it exists to measure the noise of the largest
// circuits in tests. It returns t·(phase) centred, before reduction mod t.
func (k *SecretKey) Phase(c *evaluator.Ciphertext) (*big.Int, error) {
	p := k.p
	whole := &KeyPiece{p: p, s1: k.s, s2: make([]uint64, p.Words())}
	p.ringQ.MulCoeffsBarrett(p.poly(k.s), p.poly(k.s), p.poly(whole.s2))
	h, err := NewOpener(whole).Share(c, new(big.Int), new(big.Int))
	if err != nil {
		return nil, err
	}
	x := p.compose(c.B)
	x.Add(x, h).Mul(x, p.bigT).Mod(x, p.bigQ)
	return centre(x, p.bigQ), nil
}
