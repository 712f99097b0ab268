package engine

// Comparisons work on bit planes. Over an interval of planes, lt says that x < y there and eq that they are equal; two
// adjacent intervals, high and low, make one:
//
//	lt = lt.high ⊕ eq.high ∧ lt.low        eq = eq.high ∧ eq.low
//
// so 1 + ⌈log₂ planes⌉ rounds compare, at about three ANDs a plane. The lowest interval's eq is never used and not made.

// operand writes planes of part of the rows of one operand: those of block k, w words each.
type operand func(dst share, k, w int)

// less packs x < y for rows of two operands of count planes.
func (p *party) less(rows, count int, x, y operand) share {
	lt, eq := newPlanes(rows, count), newPlanes(rows, count)
	p.strict(lt, eq, x, y)
	return p.lexicographic(lt, eq)
}

// strict makes lt = ¬x∧y and eq = ¬(x⊕y) of every plane. One round.
func (p *party) strict(lt, eq planes, x, y operand) {
	size := blockRows / 64 * lt.count
	xs, ys := newShare(size), newShare(size)
	loaded := -1
	p.andBlocks(lt, func(k, b int) factors {
		w := lt.block(k).w
		if k != loaded {
			n := w * lt.count
			x(xs.slice(0, n), k, w)
			y(ys.slice(0, n), k, w)
			p.not(xs.slice(0, n))
			xorTo(eq.run(k, 0, lt.count), xs.slice(0, n), ys.slice(0, n))
			loaded = k
		}
		return factors{xs.slice(b*w, (b+1)*w), ys.slice(b*w, (b+1)*w)}
	})
}

// lexicographic folds intervals of one plane to one interval of all, and packs its lt.
func (p *party) lexicographic(lt, eq planes) share {
	for lt.count > 1 {
		pairs := lt.count / 2
		odd := lt.count % 2 // the highest interval stays as it is
		z := newPlanes(lt.rows, 2*pairs-1)
		p.andBlocks(z, func(k, b int) factors {
			if b < pairs {
				return factors{eq.plane(k, 2*b+1), lt.plane(k, 2*b)}
			}
			b -= pairs - 1 // the second product, of all pairs but the lowest
			return factors{eq.plane(k, 2*b+1), eq.plane(k, 2*b)}
		})
		l, e := newPlanes(lt.rows, pairs+odd), newPlanes(lt.rows, pairs+odd)
		for k := range lt.blocks() {
			for b := range pairs {
				xorTo(l.plane(k, b), lt.plane(k, 2*b+1), z.plane(k, b))
				if b > 0 {
					copyShare(e.plane(k, b), z.plane(k, pairs-1+b))
				}
			}
			if odd == 1 {
				copyShare(l.plane(k, pairs), lt.plane(k, lt.count-1))
				copyShare(e.plane(k, pairs), eq.plane(k, lt.count-1))
			}
		}
		lt, eq = l, e
	}
	return lt.share
}

func copyShare(dst, src share) {
	copy(dst.a, src.a)
	copy(dst.b, src.b)
}

// all packs the AND of all planes. ⌈log₂ planes⌉ rounds.
func (p *party) all(x planes) share {
	for x.count > 1 {
		pairs, odd := x.count/2, x.count%2
		z := newPlanes(x.rows, pairs)
		p.andBlocks(z, func(k, b int) factors { return factors{x.plane(k, 2*b), x.plane(k, 2*b+1)} })
		if odd == 1 {
			w := newPlanes(x.rows, pairs+1)
			for k := range x.blocks() {
				copyShare(w.run(k, 0, pairs), z.run(k, 0, pairs))
				copyShare(w.plane(k, pairs), x.plane(k, x.count-1))
			}
			z = w
		}
		x = z
	}
	return x.share
}

// halves are the planes of two numbers mod 2^count whose sum is a shared number: u, the sum of components 0 and 1, that
// node 0 knows and shares, and v, component 2, that nodes 1 and 2 know. One round.
func (p *party) halves(x share, count int) (u, v planes) {
	n := x.len()
	u, v = newPlanes(n, count), newPlanes(n, count)
	p.begin()
	size := blockRows / 64 * count
	sums := make([]uint64, blockRows)
	random := make([]uint64, size)
	var r *stream
	switch p.id {
	case 0:
		r = p.stream(&p.next, 0)
	case 1:
		r = p.stream(&p.prev, 0)
	}
	for k := range u.blocks() {
		b := u.block(k)
		i, j := k*blockRows, min((k+1)*blockRows, n)
		part := u.slice(b.at, b.at+b.w*count)
		other := v.slice(b.at, b.at+b.w*count)
		switch p.id {
		case 0:
			for m := i; m < j; m++ {
				sums[m-i] = x.a[m] + x.b[m]
			}
			sliced(part.a, b.w, count, sums[:j-i])
			r.fill(random[:len(part.a)])
			copy(part.b, random)
			xorWords(part.a, part.a, random[:len(part.a)])
			p.send(&p.prev, part.a)
		case 1:
			r.fill(part.a)
			sliced(other.b, b.w, count, x.b[i:j])
		case 2:
			p.recv(&p.next, part.b)
			sliced(other.a, b.w, count, x.a[i:j])
		}
	}
	p.rounds++
	return u, v
}

// negative packs the sign bits of numbers that fit count bits of two's complement: u ⊕ v of the highest plane and the carry
// into it. A carry comes out of an interval if it generates one, u∧v, or propagates one, u⊕v, that comes out of the
// interval below: the same recursion as for lt and eq.
func (p *party) negative(x share, count int) share {
	u, v := p.halves(x, count)
	top := newShare(wordsFor(x.len()))
	for k := range u.blocks() {
		at := k * (blockRows / 64)
		xorTo(top.slice(at, at+u.block(k).w), u.plane(k, count-1), v.plane(k, count-1))
	}
	if count == 1 {
		return top
	}
	carry, propagate := newPlanes(x.len(), count-1), newPlanes(x.len(), count-1)
	p.andBlocks(carry, func(k, b int) factors {
		if b == 0 {
			xorTo(propagate.run(k, 0, count-1), u.run(k, 0, count-1), v.run(k, 0, count-1))
		}
		return factors{u.plane(k, b), v.plane(k, b)}
	})
	out := p.lexicographic(carry, propagate)
	xorTo(out, out, top)
	return out
}

// lessNumbers packs x < y for numbers whose difference fits count bits of two's complement.
func (p *party) lessNumbers(x, y share, count int) share { return p.negative(sub(x, y), count) }

// zero packs x = 0 for numbers with |x| < 2^count.
func (p *party) zero(x share, count int) share {
	// x = 0 if u = −v, in which −v is as local as v.
	n := x.len()
	minus := share{make([]uint64, n), make([]uint64, n)}
	copy(minus.a, x.a)
	copy(minus.b, x.b)
	switch p.id {
	case 1:
		negate(minus.b)
	case 2:
		negate(minus.a)
	}
	u, v := p.halves(minus, count)
	xorTo(u.share, u.share, v.share)
	p.not(u.share)
	return p.all(u)
}

func negate(x []uint64) {
	for i := range x {
		x[i] = -x[i]
	}
}

// word makes numbers words that sort as they do: the number plus 2^63, for numbers that fit count bits of two's
// complement. The sum u + v by parallel prefixes (Sklansky, 1960), ⌈log₂ count⌉ + 2 rounds.
func (p *party) word(x share, count int) share {
	u, v := p.halves(x, count)
	n := x.len()
	g, pr := newPlanes(n, count), newPlanes(n, count) // plane b: carry out of [0..b], propagation through part of it
	sum := newPlanes(n, count)
	p.andBlocks(g, func(k, b int) factors {
		if b == 0 {
			xorTo(pr.run(k, 0, count), u.run(k, 0, count), v.run(k, 0, count))
			copyShare(sum.run(k, 0, count), pr.run(k, 0, count))
		}
		return factors{u.plane(k, b), v.plane(k, b)}
	})
	for span := 1; span < count; span *= 2 {
		var at []int // planes in the upper half of their pair of spans
		for b := range count {
			if b&span != 0 {
				at = append(at, b)
			}
		}
		z := newPlanes(n, 2*len(at))
		p.andBlocks(z, func(k, i int) factors {
			b := at[i/2]
			below := b&^(span-1) - 1 // the end of the lower half
			if i%2 == 0 {
				return factors{pr.plane(k, b), g.plane(k, below)}
			}
			return factors{pr.plane(k, b), pr.plane(k, below)}
		})
		for k := range z.blocks() {
			for i, b := range at {
				xorTo(g.plane(k, b), g.plane(k, b), z.plane(k, 2*i))
				copyShare(pr.plane(k, b), z.plane(k, 2*i+1))
			}
		}
	}
	for k := range sum.blocks() {
		xorTo(sum.run(k, 1, count), sum.run(k, 1, count), g.run(k, 0, count-1))
	}
	out := share{unsliced(sum, sum.a), unsliced(sum, sum.b)}
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
func (p *party) lessWords(x, y field) share { return p.less(x.len(), x.bits, x.rows(), y.rows()) }

// equalWords packs x = y.
func (p *party) equalWords(x, y field) share {
	differ := newPlanes(x.len(), x.bits)
	load := field{xor(x.share, y.share), x.bits}.rows()
	for k := range differ.blocks() {
		load(differ.run(k, 0, x.bits), k, differ.block(k).w)
	}
	p.not(differ.share)
	return p.all(differ)
}

// rows is an operand of all rows.
func (f field) rows() operand {
	return func(dst share, k, w int) {
		i, j := k*blockRows, min((k+1)*blockRows, f.len())
		sliced(dst.a, w, f.bits, f.a[i:j])
		sliced(dst.b, w, f.bits, f.b[i:j])
	}
}
