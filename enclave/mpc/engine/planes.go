package engine

import "yingzhou.dev/lab/enclave/mpc/internal/bitslice"

// blockRows is how many rows are compared as one block: their planes of one component, 64 KiB, and what is made of them
// stay in the second-level cache. It is a multiple of 64 that makes a block's planes fill frames.
const blockRows = 8192

// planes are bit planes of rows, block by block: in a block of w words a plane, plane b is words [b·w, (b+1)·w) of it.
type planes struct {
	share
	rows, count int // count planes, the lowest first
}

func newPlanes(rows, count int) planes {
	return planes{newShare(wordsFor(rows) * count), rows, count}
}

// block is one block's part of the planes. w is the number of words of a plane.
type block struct{ at, w int }

func (x planes) blocks() int { return (x.rows + blockRows - 1) / blockRows }

func (x planes) block(k int) block {
	first := k * (blockRows / 64)
	w := min(blockRows/64, wordsFor(x.rows)-first)
	return block{first * x.count, w}
}

// plane is plane b of block k.
func (x planes) plane(k, b int) share {
	i := x.block(k)
	return x.slice(i.at+b*i.w, i.at+(b+1)*i.w)
}

// run is planes b to c−1 of block k, which lie side by side.
func (x planes) run(k, b, c int) share {
	i := x.block(k)
	return x.slice(i.at+b*i.w, i.at+c*i.w)
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

// andBlocks writes products of planes to z, whose planes are as many in every block: pairs gives the factors of each
// plane of block k. One round.
func (p *party) andBlocks(z planes, pairs func(k, b int) factors) {
	at := cursor{z: z}
	p.ands(z.share, func(i, j int) []factors { return at.factors(i, j, pairs) })
}

// cursor walks through the planes of z and cuts them at the borders of frames.
type cursor struct {
	z   planes
	buf []factors
}

func (c *cursor) factors(i, j int, pairs func(k, b int) factors) []factors {
	c.buf = c.buf[:0]
	per := blockRows / 64 * c.z.count // words of a full block
	for i < j {
		k := i / per
		bl := c.z.block(k)
		b := (i - bl.at) / bl.w
		off := i - bl.at - b*bl.w
		n := min(j-i, bl.w-off)
		f := pairs(k, b)
		c.buf = append(c.buf, factors{f.x.slice(off, off+n), f.y.slice(off, off+n)})
		i += n
	}
	return c.buf
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
