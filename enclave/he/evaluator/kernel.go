package evaluator

import (
	"math/bits"

	"yingzhou.dev/lab/enclave/he/internal/modq"
)

// product accumulates Σ over chunks of the tensor (a0, a1)⊗(b0, b1) for one tile of one prime, with 128-bit lazy
// accumulation: products are added as pairs of words and reduced once at the end. The middle coefficient comes from
// Karatsuba's identity, a0·b1 + a1·b0 = (a0+a1)(b0+b1) − a0·b0 − a1·b1, which saves one multiplication in four.
type product struct {
	l0, h0, l1, h1, l2, h2 [Tile]uint64
}

type block = *[Tile]uint64

// add accumulates the chunks of tiles a and b (chunks·2·Tile words each) and folds the high words whenever the next
// products might overflow.
func (s *product) add(a, b []uint64, q uint64, fold int) {
	pending := 0
	for len(a) >= 4*Tile {
		if pending += 2; pending > fold {
			s.fold(q)
			pending = 2
		}
		s.two(block(a), block(a[Tile:]), block(a[2*Tile:]), block(a[3*Tile:]),
			block(b), block(b[Tile:]), block(b[2*Tile:]), block(b[3*Tile:]))
		a, b = a[4*Tile:], b[4*Tile:]
	}
	if len(a) > 0 {
		if pending++; pending > fold {
			s.fold(q)
		}
		s.one(block(a), block(a[Tile:]), block(b), block(b[Tile:]))
	}
}

// two adds two chunks per pass: it halves the traffic to the accumulators, and four chunks gain nothing more.
func (s *product) two(a00, a01, a10, a11, b00, b01, b10, b11 block) {
	for i := range Tile {
		l, h := s.l0[i], s.h0[i]
		h1, l1 := bits.Mul64(a00[i], b00[i])
		h2, l2 := bits.Mul64(a10[i], b10[i])
		var c uint64
		l, c = bits.Add64(l, l1, 0)
		h, _ = bits.Add64(h, h1, c)
		l, c = bits.Add64(l, l2, 0)
		h, _ = bits.Add64(h, h2, c)
		s.l0[i], s.h0[i] = l, h
	}
	for i := range Tile {
		l, h := s.l2[i], s.h2[i]
		h1, l1 := bits.Mul64(a01[i], b01[i])
		h2, l2 := bits.Mul64(a11[i], b11[i])
		var c uint64
		l, c = bits.Add64(l, l1, 0)
		h, _ = bits.Add64(h, h1, c)
		l, c = bits.Add64(l, l2, 0)
		h, _ = bits.Add64(h, h2, c)
		s.l2[i], s.h2[i] = l, h
	}
	for i := range Tile {
		l, h := s.l1[i], s.h1[i]
		h1, l1 := bits.Mul64(a00[i]+a01[i], b00[i]+b01[i])
		h2, l2 := bits.Mul64(a10[i]+a11[i], b10[i]+b11[i])
		var c uint64
		l, c = bits.Add64(l, l1, 0)
		h, _ = bits.Add64(h, h1, c)
		l, c = bits.Add64(l, l2, 0)
		h, _ = bits.Add64(h, h2, c)
		s.l1[i], s.h1[i] = l, h
	}
}

func (s *product) one(a0, a1, b0, b1 block) {
	for i := range Tile {
		s.l0[i], s.h0[i] = mac(s.l0[i], s.h0[i], a0[i], b0[i])
		s.l1[i], s.h1[i] = mac(s.l1[i], s.h1[i], a0[i]+a1[i], b0[i]+b1[i])
		s.l2[i], s.h2[i] = mac(s.l2[i], s.h2[i], a1[i], b1[i])
	}
}

func mac(l, h, a, b uint64) (uint64, uint64) {
	mh, ml := bits.Mul64(a, b)
	l, c := bits.Add64(l, ml, 0)
	h, _ = bits.Add64(h, mh, c)
	return l, h
}

// fold replaces high words by their residues: 2^64·h ≡ 2^64·(h mod q).
func (s *product) fold(q uint64) {
	for i := range Tile {
		s.h0[i] %= q
		s.h1[i] %= q
		s.h2[i] %= q
	}
}

// finish reduces, multiplies by the factor t that a product of two encodings needs, and writes the tensor's tile.
func (s *product) finish(q, t uint64, d0, d1, d2 []uint64) {
	ts := modq.Shoup(t, q)
	for i := range Tile {
		x0, x2 := modq.Reduce(s.h0[i], s.l0[i], q), modq.Reduce(s.h2[i], s.l2[i], q)
		x1 := modq.Sub(modq.Sub(modq.Reduce(s.h1[i], s.l1[i], q), x0, q), x2, q)
		d0[i], d1[i], d2[i] = modq.MulShoup(x0, t, ts, q), modq.MulShoup(x1, t, ts, q), modq.MulShoup(x2, t, ts, q)
	}
}

// sumTile adds up both halves over the chunks of a tile: the degree-one case.
func sumTile(a []uint64, q uint64, d0, d1 []uint64) {
	clear(d0[:Tile])
	clear(d1[:Tile])
	for ; len(a) > 0; a = a[2*Tile:] {
		for i := range Tile {
			d0[i] = modq.Add(d0[i], a[i], q)
			d1[i] = modq.Add(d1[i], a[Tile+i], q)
		}
	}
}

// addTiles adds b to a, word by word.
func addTiles(a, b []uint64, q uint64) {
	b = b[:len(a)]
	for i := range a {
		a[i] = modq.Add(a[i], b[i], q)
	}
}
