package engine

import "yingzhou.dev/lab/enclave/mpc/internal/bitslice"

// Comparisons work on bit planes. x < y is decided by the highest plane where they differ, and it is y's bit there. So
// with same = ¬(x⊕y) and value = y in every plane, two adjacent intervals, high and low, make one:
//
//	value = same.high ? value.low : value.high
//	same  = same.high ∧ same.low
//
// in ⌈log₂ planes⌉ rounds; the lowest interval's same is never used and not made. The carry of a sum u + v obeys the same
// recursion: it is u's bit where u and v agree, and the carry from below elsewhere.
//
// Where same.high is 1, value.high is the value of its lowest plane, which is as shared as it was from the start. So
//
//	value = value.high ⊕ same.high ∧ (lowest plane of high ⊕ value.low)
//
// and value.high is only added. A node's own part of it is enough: an interval that is to be the high one of its pair is
// not shared afresh, and neither is the highest of all until it is alone. That leaves half the values, and three products
// to be sent for two planes.

// fold is the work on one comparison.
type fold struct {
	p           *party
	leaf, same  planes // single planes
	count, span int    // intervals, and planes of an interval but the highest
	// z has what the turn before sent: the values of intervals 0, 2, 4 and so on, then same of 1, 2, 3 and so on.
	z      planes
	values int
	parts  planes // this node's part of the values of the others: component a after an even number of turns, else b
	turn   int
	top    planes // same of the highest interval, while it waits to be paired
	waits  bool

	sums [][]summed // for the transcript, by block and interval
}

// summed is how a value was made: u ⊕ Σ same∧either.
type summed struct {
	u    share
	x, y []share
}

// decide folds intervals of one plane to one interval of all, and packs its value. load fills block k, just before the
// first round works on it.
func (p *party) decide(same, value planes, load func(k int)) share {
	f := &fold{p: p, leaf: value, same: same, count: same.count, span: 1, top: p.planes(same.rows, 1)}
	f.parts = p.planes(same.rows, (same.count+1)/2)
	if f.count == 1 {
		for k := range same.blocks() {
			load(k)
		}
		f.z = value
	}
	for f.count > 1 {
		f.fold(load)
	}
	out := f.z.packed()
	for _, x := range []planes{same, value, f.parts, f.top} {
		p.drop(x)
	}
	if f.turn > 0 {
		p.drop(f.z)
	}
	return out
}

// sent is how many values and how many products of same a turn sends for a number of intervals, and how many intervals
// there will be. Package mpc prices by the same rule.
func sent(count int) (values, next int) {
	pairs := count / 2
	next = (count + 1) / 2
	if next == 1 {
		return 1, next
	}
	return (pairs + count%2) / 2, next
}

// fold is one round.
func (f *fold) fold(load func(k int)) {
	p := f.p
	pairs := f.count / 2
	values, next := sent(f.count)
	z := p.planes(f.leaf.rows, values+pairs-1)
	per := blockRows / 64 * z.count // words of a full block
	p.reshareBits(z.share, func(i, j int) {
		for i < j { // frames may cut a plane
			k := i / per
			bl := z.block(k)
			b := (i - bl.at) / bl.w
			off := i - bl.at - b*bl.w
			n := min(j-i, bl.w-off)
			if b == 0 && off == 0 {
				if f.turn == 0 {
					load(k)
				}
				f.keep(k, next)
			}
			if to := z.a[i : i+n]; b < values {
				f.value(to, k, 2*b, off)
			} else {
				x, y := f.both(k, b-values+1)
				x, y = x.slice(off, off+n), y.slice(off, off+n)
				bitslice.And(to, x.a, x.b, y.a, y.b)
			}
			i += n
		}
	})
	if p.transcript != nil {
		f.record(z, values, next)
	}
	if f.turn > 0 {
		p.drop(f.z)
	}
	f.waits = f.count%2 == 1
	f.z, f.values, f.count = z, values, next
	f.span *= 2
	f.turn++
}

// keep makes the parts of block k that are not sent, and carries the highest interval over if it has no partner.
func (f *fold) keep(k, next int) {
	pairs := f.count / 2
	for b := range pairs {
		if b%2 == 1 || b == next-1 && next > 1 {
			f.value(f.own(k, b, f.turn+1), k, b, 0)
		}
	}
	if f.count%2 == 1 {
		copy(f.own(k, pairs, f.turn+1), f.part(k, f.count-1))
		if !f.waits {
			copyShare(f.top.plane(k, 0), f.same1(k, f.count-1))
		}
	}
}

// value writes this node's part of the value of what will be interval b, from word off of its plane on.
func (f *fold) value(to []uint64, k, b, off int) {
	n := off + len(to)
	x := f.same1(k, 2*b+1).slice(off, n)
	u, v := f.leaf.plane(k, (2*b+1)*f.span).slice(off, n), f.value1(k, 2*b).slice(off, n)
	bitslice.Choose(to, f.part(k, 2*b+1)[off:n], x.a, x.b, u.a, u.b, v.a, v.b)
}

// both are the factors of same of what will be interval b.
func (f *fold) both(k, b int) (high, low share) { return f.same1(k, 2*b+1), f.same1(k, 2*b) }

// same1 is same of interval b, which is not the lowest.
func (f *fold) same1(k, b int) share {
	switch {
	case f.turn == 0:
		return f.same.plane(k, b)
	case f.waits && b == f.count-1:
		return f.top.plane(k, 0)
	}
	return f.z.plane(k, f.values+b-1)
}

// value1 is the value of interval b, an even one but not the highest.
func (f *fold) value1(k, b int) share {
	if f.turn == 0 {
		return f.leaf.plane(k, b)
	}
	return f.z.plane(k, b/2)
}

// part is this node's part of the value of interval b, an odd one or the highest.
func (f *fold) part(k, b int) []uint64 {
	if f.turn == 0 {
		return f.leaf.plane(k, b).a
	}
	return f.own(k, b, f.turn)
}

// own is where the part of interval b stands after some turns.
func (f *fold) own(k, b, turns int) []uint64 {
	x := f.parts.plane(k, b)
	if turns%2 == 0 {
		return x.a
	}
	return x.b
}

// record tells the transcript what a turn has made.
func (f *fold) record(z planes, values, next int) {
	if f.turn == 0 {
		f.sums = make([][]summed, z.blocks())
	}
	pairs := f.count / 2
	for k := range z.blocks() {
		var old []summed
		if old = f.sums[k]; f.turn == 0 {
			for b := range f.count {
				old = append(old, summed{u: f.leaf.plane(k, b)})
			}
		}
		now := make([]summed, next)
		for b := range pairs {
			s := old[2*b+1]
			x := f.same1(k, 2*b+1)
			now[b] = summed{s.u, append(s.x[:len(s.x):len(s.x)], kept(x)), append(s.y[:len(s.y):len(s.y)], xor(f.leaf.plane(k, (2*b+1)*f.span), f.value1(k, 2*b)))}
			if b%2 == 0 && b/2 < values {
				f.p.recordChoice(now[b], z.plane(k, b/2))
				now[b] = summed{}
			}
			if b > 0 {
				high, low := f.both(k, b)
				f.p.record(false, high, low, z.plane(k, values+b-1))
			}
		}
		if f.count%2 == 1 {
			now[pairs] = old[f.count-1]
		}
		f.sums[k] = now
	}
}
