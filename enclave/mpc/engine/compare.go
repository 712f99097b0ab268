package engine

import "yingzhou.dev/lab/enclave/mpc/internal/ring"

// operand writes planes of part of the rows of one operand: those of block k, w words each.
type operand func(dst share, k, w int)

// less packs x < y for rows of two operands of count planes. If they are known to be distinct, the lowest planes need no
// comparison; else an interval of value 0 below all planes decides that equals are not less.
func (p *party) less(rows, count int, distinct bool, x, y operand) share {
	below := 1
	if distinct {
		below = 0
	}
	same, value := p.planes(rows, count+below), p.planes(rows, count+below)
	return p.decide(same, value, func(k int) {
		w := same.block(k).w
		s, v := same.run(k, below, below+count), value.run(k, below, below+count)
		x(s, k, w)
		y(v, k, w)
		xorTo(s, s, v)
		p.not(s)
		if !distinct {
			same.plane(k, 0).clear()
			value.plane(k, 0).clear()
		}
	})
}

// all packs the AND of all planes, and drops them. ⌈log₂ planes⌉ rounds.
func (p *party) all(x planes) share {
	for x.count > 1 {
		pairs, odd := x.count/2, x.count%2
		z := p.planes(x.rows, pairs)
		p.andBlocks(z, func(k, b int) (share, share) { return x.plane(k, 2*b), x.plane(k, 2*b+1) })
		for k := range x.blocks() {
			copyShare(x.run(k, 0, pairs), z.run(k, 0, pairs))
			if odd == 1 {
				copyShare(x.plane(k, pairs), x.plane(k, x.count-1))
			}
		}
		p.drop(z)
		x.count = pairs + odd
	}
	out := x.packed()
	p.drop(x)
	return out
}

// halves are the planes of two numbers mod 2^count whose sum is a shared number: u, the sum of components 0 and 1, that
// node 0 knows and shares, and v, component 2, that nodes 1 and 2 know. One round.
func (p *party) halves(x share, count int) (u, v planes) {
	n := x.len()
	u, v = p.planes(n, count), p.planes(n, count)
	u.clear()
	v.clear()
	p.begin()
	sums := make([]uint64, blockRows)
	var r *ring.Stream
	switch p.id {
	case 0:
		r = p.stream(&p.next, 0)
	case 1:
		r = p.stream(&p.prev, 0)
	}
	for k := range u.blocks() {
		i, j := k*blockRows, min((k+1)*blockRows, n)
		w := u.block(k).w
		mine, other := u.run(k, 0, count), v.run(k, 0, count)
		switch p.id {
		case 0:
			for m := i; m < j; m++ {
				sums[m-i] = x.a[m] + x.b[m]
			}
			sliced(mine.a, w, count, sums[:j-i])
			r.Fill(mine.b)
			xorWords(mine.a, mine.a, mine.b)
			p.send(&p.prev, mine.a)
		case 1:
			r.Fill(mine.a)
			sliced(other.b, w, count, x.b[i:j])
		case 2:
			p.recv(&p.next, mine.b)
			sliced(other.a, w, count, x.a[i:j])
		}
	}
	p.rounds++
	return u, v
}

// negative packs the sign bits of numbers that fit count bits of two's complement: u ⊕ v of the highest plane and the carry
// into it.
func (p *party) negative(x share, count int) share {
	u, v := p.halves(x, count)
	top := newShare(wordsFor(x.len()))
	same, value := p.planes(x.len(), count), p.planes(x.len(), count)
	out := p.decide(same, value, func(k int) {
		at := k * (blockRows / 64)
		xorTo(top.slice(at, at+u.block(k).w), u.plane(k, count-1), v.plane(k, count-1))
		xorTo(same.run(k, 1, count), u.run(k, 0, count-1), v.run(k, 0, count-1)) // where a carry from below passes
		copyShare(value.run(k, 1, count), u.run(k, 0, count-1))
		same.plane(k, 0).clear() // no carry from below
		value.plane(k, 0).clear()
	})
	p.drop(u)
	p.drop(v)
	xorTo(out, out, top)
	return out
}

// lessNumbers packs x < y for numbers whose difference fits count bits of two's complement.
func (p *party) lessNumbers(x, y share, count int) share { return p.negative(sub(x, y), count) }

// zero packs x = 0 for numbers with |x| < 2^count: it is if u = −v, in which −v is as local as v.
func (p *party) zero(x share, count int) share {
	minus := newShare(x.len())
	copyShare(minus, x)
	switch p.id {
	case 1:
		negate(minus.b)
	case 2:
		negate(minus.a)
	}
	u, v := p.halves(minus, count)
	xorTo(u.share, u.share, v.share)
	p.drop(v)
	p.not(u.share)
	return p.all(u)
}

func negate(x []uint64) {
	for i := range x {
		x[i] = -x[i]
	}
}

// word makes numbers words that sort as they do: the number plus 2^63, for numbers that fit count bits of two's
// complement. The carries of u + v come by parallel prefixes (Sklansky, 1960), in ⌈log₂ count⌉ rounds.
func (p *party) word(x share, count int) share {
	u, v := p.halves(x, count)
	n := x.len()
	carry, pass, sum := p.planes(n, count), v, p.planes(n, count) // plane b: out of the planes up to b, through some of them
	xorTo(sum.share, u.share, v.share)
	copyShare(pass.share, sum.share)
	copyShare(carry.share, u.share)
	low := p.planes(n, 1) // nothing comes from below: the lowest carry is u∧v = u ⊕ pass∧u
	p.andBlocks(low, func(k, b int) (share, share) { return pass.plane(k, 0), u.plane(k, 0) })
	for k := range carry.blocks() {
		xorTo(carry.plane(k, 0), carry.plane(k, 0), low.plane(k, 0))
		pass.plane(k, 0).clear()
	}
	either := newShare(blockRows / 64)
	for span := 1; span < count; span *= 2 {
		var at []int // planes in the upper half of their pair of spans
		for b := range count {
			if b&span != 0 {
				at = append(at, b)
			}
		}
		z := p.planes(n, 2*len(at))
		p.andBlocks(z, func(k, i int) (share, share) {
			b := at[i/2]
			below := b&^(span-1) - 1 // the end of the lower half
			if i%2 == 0 {
				c := carry.plane(k, b)
				e := either.slice(0, c.len())
				xorTo(e, c, carry.plane(k, below))
				return pass.plane(k, b), e
			}
			return pass.plane(k, b), pass.plane(k, below)
		})
		for k := range z.blocks() {
			for i, b := range at {
				xorTo(carry.plane(k, b), carry.plane(k, b), z.plane(k, 2*i))
				copyShare(pass.plane(k, b), z.plane(k, 2*i+1))
			}
		}
		p.drop(z)
	}
	for k := range sum.blocks() {
		xorTo(sum.run(k, 1, count), sum.run(k, 1, count), carry.run(k, 0, count-1))
	}
	out := share{unsliced(sum, sum.a), unsliced(sum, sum.b)}
	for _, x := range []planes{u, v, carry, sum, low} {
		p.drop(x)
	}
	extend(out.a, count)
	extend(out.b, count)
	if p.id == 0 {
		flipTop(out.a)
	}
	if p.id == 2 {
		flipTop(out.b)
	}
	return out
}

// lessWords packs x < y for fields of words, as unsigned numbers.
func (p *party) lessWords(x, y field) share {
	return p.less(x.len(), x.bits, false, x.rows(), y.rows())
}

// equalWords packs x = y.
func (p *party) equalWords(x, y field) share {
	same := p.planes(x.len(), x.bits)
	load := field{xor(x.share, y.share), x.bits}.rows()
	for k := range same.blocks() {
		load(same.run(k, 0, x.bits), k, same.block(k).w)
	}
	p.not(same.share)
	return p.all(same)
}

// rows is an operand of all rows.
func (f field) rows() operand {
	return func(dst share, k, w int) {
		i, j := k*blockRows, min((k+1)*blockRows, f.len())
		sliced(dst.a, w, f.bits, f.a[i:j])
		sliced(dst.b, w, f.bits, f.b[i:j])
	}
}
