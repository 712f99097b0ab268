package engine

import (
	"math/bits"

	"yingzhou.dev/lab/enclave/mpc/internal/ring"
)

// shuffle is a secret permutation of rows, the composition of three, of which each node knows two: for hop j, nodes j and
// j−1 draw one from their common stream, permute x_j + x_{j+1} and x_{j−1} by it, and share the result afresh with the
// third (Laur, Willemson and Zhang, "Round-Efficient Oblivious Database Manipulation", ISC 2011). It may be applied to many
// columns, at different times, and undone.
type shuffle struct {
	hops [3][]uint32 // nil for the hop that this node does not know
}

// shuffle draws a permutation. No message.
func (p *party) shuffle(rows int) *shuffle {
	s := &shuffle{}
	for j := range s.hops {
		p.begin()
		switch p.id {
		case j:
			s.hops[j] = permutation(p.stream(&p.prev, 0), rows)
		case (j + 2) % 3:
			s.hops[j] = permutation(p.stream(&p.next, 0), rows)
		}
	}
	return s
}

// apply permutes columns, numbers where additive says so: after each hop, row i is what row perm[i] was before. Three
// rounds, whatever the number of columns.
func (p *party) apply(s *shuffle, columns []share, additive func(c int) bool) []share {
	for j := range 3 {
		columns = p.hop(j, s.hops[j], columns, additive, gather)
	}
	return columns
}

// undo is the inverse of apply.
func (p *party) undo(s *shuffle, columns []share, additive func(c int) bool) []share {
	for j := 2; j >= 0; j-- {
		columns = p.hop(j, s.hops[j], columns, additive, scatter)
	}
	return columns
}

func gather(dst, src []uint64, perm []uint32) {
	for i, q := range perm {
		dst[i] = src[q]
	}
}

func scatter(dst, src []uint64, perm []uint32) {
	for i, q := range perm {
		dst[q] = src[i]
	}
}

// hop permutes by one of the three permutations. Nodes j and j−1 know it and hold component j together; the third node
// gets components j+1 and j−1 of the result from its streams with the one and the other.
func (p *party) hop(j int, perm []uint32, columns []share, additive func(c int) bool, move func(dst, src []uint64, perm []uint32)) []share {
	p.begin()
	out := make([]share, len(columns))
	var common [][]uint64 // component j of each result as far as this node can make it
	next, prev := p.stream(&p.next, 0), p.stream(&p.prev, 0)
	for c, x := range columns {
		n := x.len()
		out[c] = newShare(n)
		switch p.id {
		case j: // holds components j, j+1
			sum := make([]uint64, n)
			combine(sum, x.a, x.b, additive(c), false)
			move(out[c].a, sum, perm)
			next.Fill(out[c].b)
			combine(out[c].a, out[c].a, out[c].b, additive(c), true)
			common = append(common, out[c].a)
		case (j + 2) % 3: // holds components j−1, j
			move(out[c].b, x.a, perm)
			prev.Fill(out[c].a)
			combine(out[c].b, out[c].b, out[c].a, additive(c), true)
			common = append(common, out[c].b)
		default: // holds components j+1, j−1
			prev.Fill(out[c].a)
			next.Fill(out[c].b)
		}
	}
	switch p.id {
	case j:
		p.swap(&p.prev, common, additive)
	case (j + 2) % 3:
		p.swap(&p.next, common, additive)
	}
	p.rounds++
	return out
}

// swap sends one's part of columns to a peer and adds the peer's.
func (p *party) swap(d *direction, columns [][]uint64, additive func(c int) bool) {
	type piece struct{ c, i, j int }
	var pieces []piece
	for c, x := range columns {
		for i := 0; i < len(x); i += frame {
			pieces = append(pieces, piece{c, i, min(i+frame, len(x))})
		}
	}
	theirs := make([]uint64, frame)
	for k := range len(pieces) + ahead {
		if k < len(pieces) {
			s := pieces[k]
			p.send(d, columns[s.c][s.i:s.j])
		}
		if k >= ahead && k-ahead < len(pieces) {
			s := pieces[k-ahead]
			t := theirs[:s.j-s.i]
			p.recv(d, t)
			combine(columns[s.c][s.i:s.j], columns[s.c][s.i:s.j], t, additive(s.c), false)
		}
	}
}

// combine is z = x ± y for numbers and x ⊕ y for words.
func combine(z, x, y []uint64, additive, minus bool) {
	x, y = x[:len(z)], y[:len(z)]
	switch {
	case !additive:
		xorWords(z, x, y)
	case minus:
		for i := range z {
			z[i] = x[i] - y[i]
		}
	default:
		for i := range z {
			z[i] = x[i] + y[i]
		}
	}
}

// permutation is uniform: Fisher and Yates, with indices below n drawn without bias (Lemire, "Fast Random Integer
// Generation in an Interval", 2019).
func permutation(s *ring.Stream, n int) []uint32 {
	perm := make([]uint32, n)
	for i := range perm {
		perm[i] = uint32(i)
	}
	random := make([]uint64, min(n, chunk))
	at := len(random)
	draw := func() uint64 {
		if at == len(random) {
			s.Fill(random)
			at = 0
		}
		at++
		return random[at-1]
	}
	for i := n - 1; i > 0; i-- {
		bound := uint64(i + 1)
		hi, lo := bits.Mul64(draw(), bound)
		if lo < bound {
			for least := -bound % bound; lo < least; {
				hi, lo = bits.Mul64(draw(), bound)
			}
		}
		perm[i], perm[hi] = perm[hi], perm[i]
	}
	return perm
}
