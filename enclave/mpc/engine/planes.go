package engine

import "yingzhou.dev/lab/enclave/mpc/internal/bitslice"

// blockRows is how many rows are compared as one block: their planes of one component, 64 KiB, and what is made of them
// stay in the second-level cache. It is a multiple of 64.
const blockRows = 8192

// planes are bit planes of rows, block by block: in a block of w words a plane, plane b is words [b·w, (b+1)·w) of it.
// A block may have room for more planes than are in use, so that they can be folded in place.
type planes struct {
	share
	rows, count int // count planes, the lowest first
	room        int
}

// planes are taken from what earlier comparisons left, as they are, and drop leaves them to later ones: a sort needs a
// few tens of megabytes thirty times over. The closest fit is taken, so that little planes do not use up large memory.
func (p *party) planes(rows, count int) planes {
	n := wordsFor(rows) * count
	best := -1
	for i, s := range p.spare {
		if cap(s.a) >= n && cap(s.a) <= 4*n+chunk && (best < 0 || cap(s.a) < cap(p.spare[best].a)) {
			best = i
		}
	}
	if best < 0 {
		return planes{newShare(n), rows, count, count}
	}
	s := p.spare[best]
	p.spare[best] = p.spare[len(p.spare)-1]
	p.spare = p.spare[:len(p.spare)-1]
	return planes{share{s.a[:n], s.b[:n]}, rows, count, count}
}

// spares bounds what is kept: what one comparison uses at a time, and the larger ones of those that it is done with.
const spares = 8

func (p *party) drop(x planes) {
	s := share{x.a[:cap(x.a)], x.b[:cap(x.b)]}
	if len(p.spare) < spares {
		p.spare = append(p.spare, s)
		return
	}
	least := 0
	for i := range p.spare {
		if cap(p.spare[i].a) < cap(p.spare[least].a) {
			least = i
		}
	}
	if cap(p.spare[least].a) < cap(s.a) {
		p.spare[least] = s
	}
}

// block is one block's part of the planes. w is the number of words of a plane.
type block struct{ at, w int }

func (x planes) blocks() int { return (x.rows + blockRows - 1) / blockRows }

func (x planes) block(k int) block {
	first := k * (blockRows / 64)
	w := min(blockRows/64, wordsFor(x.rows)-first)
	return block{first * x.room, w}
}

// plane is plane b of block k.
func (x planes) plane(k, b int) share { return x.run(k, b, b+1) }

// run is planes b to c−1 of block k, which lie side by side.
func (x planes) run(k, b, c int) share {
	i := x.block(k)
	return x.slice(i.at+b*i.w, i.at+c*i.w)
}

// packed is the only plane there is, as bits.
func (x planes) packed() share {
	out := newShare(wordsFor(x.rows))
	for k := range x.blocks() {
		at := k * (blockRows / 64)
		copyShare(out.slice(at, at+x.block(k).w), x.plane(k, 0))
	}
	return out
}

func copyShare(dst, src share) {
	copy(dst.a, src.a)
	copy(dst.b, src.b)
}

func (s share) clear() {
	clear(s.a)
	clear(s.b)
}

// sliced fills dst, a block of count planes of w words, from that many words of rows; rows is at most 64·w.
func sliced(dst []uint64, w, count int, rows []uint64) {
	whole := len(rows) / 64 * 64
	bitslice.Planes(dst, w, count, rows[:whole])
	if whole < len(rows) {
		var last [64]uint64
		copy(last[:], rows[whole:])
		bitslice.Planes(dst[whole/64:], w, count, last[:])
	}
}

// andBlocks writes products of planes to z, which has no more room than planes: pair gives the factors of plane b of block
// k. It is asked for them in order, and what it gives may be overwritten when it is asked again. One round.
func (p *party) andBlocks(z planes, pair func(k, b int) (x, y share)) {
	per := blockRows / 64 * z.count // words of a full block
	p.ands(z.share, func(i, j int, and func(x, y share)) {
		for i < j { // frames may cut a plane
			k := i / per
			bl := z.block(k)
			b := (i - bl.at) / bl.w
			off := i - bl.at - b*bl.w
			n := min(j-i, bl.w-off)
			x, y := pair(k, b)
			and(x.slice(off, off+n), y.slice(off, off+n))
			i += n
		}
	})
}

// unsliced makes words of one component of planes.
func unsliced(x planes, component []uint64) []uint64 {
	out := make([]uint64, 64*wordsFor(x.rows))
	for k := range x.blocks() {
		b := x.block(k)
		bitslice.Words(out[k*blockRows:][:64*b.w], component[b.at:b.at+b.w*x.count], b.w, x.count)
	}
	return out[:x.rows]
}

// extend copies bit count−1 of every word to all bits above.
func extend(x []uint64, count int) {
	for i, v := range x {
		x[i] = uint64(int64(v<<(64-count)) >> (64 - count))
	}
}

func flipTop(x []uint64) {
	for i := range x {
		x[i] ^= 1 << 63
	}
}
