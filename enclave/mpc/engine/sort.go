package engine

import (
	"fmt"
	"math/bits"
	"slices"

	"yingzhou.dev/lab/enclave/mpc"
)

// Rows are sorted by shuffling their keys and then opening comparisons of shuffled keys (Hamada et al., ICISC 2012). Keys
// are distinct, so the outcome of every comparison is a function of the secret shuffle alone.
//
// Which comparisons to make is public and chosen for few of them and few rounds. Of a segment of L rows some √L are ranked
// by comparing each with each, in one batch; they cut the rest into pieces by binary search, one batch for each level; and
// so on with the pieces, all segments at once. Each row is compared 1.07·log₂ n times, and a million rows take about forty
// batches. Quicksort needs 1.3·log₂ n and fifty; a radix sort, which needs no comparison, takes a shuffle of two
// columns and a product for every bit of the key, which is several times as much as this for the keys of a join.

const (
	// fewRows is how many rows are ranked by comparing each with each.
	fewRows = 8
	// batchRows is how many comparisons are made at once: their planes take some 40 bytes each.
	batchRows = 1 << 20
)

// sorted is an order of rows: that of a secret shuffle, then a public permutation.
type sorted struct {
	*shuffle
	order []uint32 // row i of the result is row order[i] of the shuffled rows
	key   key      // in order
}

// sort orders rows by distinct keys.
func (p *party) sort(k key) *sorted {
	s := &sorted{shuffle: p.shuffle(k.rows())}
	k.words = p.apply(s.shuffle, k.words, func(int) bool { return false })
	s.order = p.rank(k)
	s.key = k
	return s
}

func reorder(x share, order []uint32, move func(dst, src []uint64, perm []uint32)) share {
	out := newShare(x.len())
	move(out.a, x.a, order)
	move(out.b, x.b, order)
	return out
}

// bring puts columns in the order of s, and back returns them to the order before. Three rounds each.
func (p *party) bring(s *sorted, columns []share, additive func(c int) bool) []share {
	out := p.apply(s.shuffle, columns, additive)
	for c := range out {
		out[c] = reorder(out[c], s.order, gather)
	}
	return out
}

func (p *party) back(s *sorted, columns []share, additive func(c int) bool) []share {
	out := make([]share, len(columns))
	for c := range out {
		out[c] = reorder(columns[c], s.order, scatter)
	}
	return p.undo(s.shuffle, out, additive)
}

// compared opens whether the key of row x[i] is less than that of row y[i]. Rows beyond the last, which fill a word, are
// public zeros.
func (p *party) compared(k key, x, y []uint32) []uint64 {
	out := make([]uint64, 0, wordsFor(len(x)))
	for i := 0; i < len(x); i += batchRows {
		j := min(i+batchRows, len(x))
		lt := p.less(j-i, k.bits, true, k.at(x[i:j]), k.at(y[i:j]))
		out = append(out, p.openWords(lt)...)
	}
	p.compares += int64(len(x))
	return out
}

func bit(x []uint64, i int) bool { return x[i/64]>>(i%64)&1 == 1 }

// segment is rows [lo, hi) of the order that lie between two ranked rows. Its first pivots rows are ranked in this turn:
// all of them, or 2^depth − 1.
type segment struct{ lo, hi, pivots, depth int }

func cut(lo, hi int) segment {
	n := hi - lo
	if n <= fewRows {
		return segment{lo, hi, n, 0}
	}
	depth := max(2, (bits.Len(uint(n))-1)/2)
	return segment{lo, hi, 1<<depth - 1, depth}
}

// rank finds the order of shuffled rows with distinct keys, and moves the keys there: after each turn, so that comparisons
// read them one after the other.
func (p *party) rank(k key) []uint32 {
	order := make([]uint32, k.rows())
	for i := range order {
		order[i] = uint32(i)
	}
	moved := slices.Clone(order) // by place: where the row that belongs there is now
	var segments []segment
	if len(order) > 1 {
		segments = []segment{cut(0, len(order))}
	}
	next, words := make([]uint32, len(order)), make([]uint64, len(order))
	for len(segments) > 0 {
		p.pivots(k, moved, segments)
		pieces := p.split(k, moved, next, segments)
		for _, s := range segments {
			settle(order[s.lo:s.hi], next, moved[s.lo:s.hi], s.lo)
			for _, w := range k.words {
				settle(w.a[s.lo:s.hi], words, moved[s.lo:s.hi], s.lo)
				settle(w.b[s.lo:s.hi], words, moved[s.lo:s.hi], s.lo)
			}
			for i := s.lo; i < s.hi; i++ {
				moved[i] = uint32(i)
			}
		}
		segments = pieces
	}
	p.spare = nil // columns come next, and need the memory
	return order
}

// settle moves what belongs to a segment's rows; the segment begins at lo.
func settle[T uint32 | uint64](x, room []T, moved []uint32, lo int) {
	for i, q := range moved {
		room[i] = x[int(q)-lo]
	}
	copy(x, room)
}

// pivots sorts the first rows of every segment by comparing each with each.
func (p *party) pivots(k key, moved []uint32, segments []segment) {
	total := 0
	for _, s := range segments {
		total += s.pivots * (s.pivots - 1) / 2
	}
	x, y := make([]uint32, 0, total), make([]uint32, 0, total)
	for _, s := range segments {
		rows := moved[s.lo : s.lo+s.pivots]
		for j := range rows {
			for i := range j {
				x, y = append(x, rows[i]), append(y, rows[j])
			}
		}
	}
	less := p.compared(k, x, y)
	at := 0
	for _, s := range segments {
		rows := moved[s.lo : s.lo+s.pivots]
		rank := make([]int, len(rows))
		for j := range rows {
			for i := range j {
				if bit(less, at) {
					rank[j]++
				} else {
					rank[i]++
				}
				at++
			}
		}
		ranked := make([]uint32, len(rows))
		seen := make([]bool, len(rows))
		for i, r := range rank {
			if seen[r] { // a before b before c before a: some node has made an error
				p.fail(nobody, fmt.Errorf("%w: comparisons contradict each other", mpc.ErrInconsistent))
			}
			seen[r] = true
			ranked[r] = rows[i]
		}
		copy(rows, ranked)
	}
}

// split moves the rows of every segment between its pivots, and returns the segments of more than one row that result.
func (p *party) split(k key, moved, next []uint32, segments []segment) []segment {
	place := make([]uint32, len(moved)) // by position: the pivots below, as far as they are known
	most := 0
	for _, s := range segments {
		most = max(most, s.depth)
	}
	for level := range most {
		p.descend(k, moved, place, segments, level)
	}
	var out []segment
	for _, s := range segments {
		if s.depth > 0 {
			out = distribute(s, moved, next, place, out)
		}
	}
	return out
}

// descend compares every row of segments that are deeper than level with the pivot in the middle of the pivots left to it.
func (p *party) descend(k key, moved, place []uint32, segments []segment, level int) {
	total := 0
	for _, s := range segments {
		if level < s.depth {
			total += s.hi - s.lo - s.pivots
		}
	}
	x, y := make([]uint32, 0, total), make([]uint32, 0, total)
	for _, s := range segments {
		if level >= s.depth {
			continue
		}
		half := uint32(1) << (s.depth - level - 1)
		for i := s.lo + s.pivots; i < s.hi; i++ {
			x, y = append(x, moved[i]), append(y, moved[uint32(s.lo)+place[i]+half-1])
		}
	}
	less := p.compared(k, x, y)
	at := 0
	for _, s := range segments {
		if level >= s.depth {
			continue
		}
		half := uint32(1) << (s.depth - level - 1)
		for i := s.lo + s.pivots; i < s.hi; i++ {
			if !bit(less, at) {
				place[i] += half
			}
			at++
		}
	}
}

// distribute puts the rows of a segment in order as far as it is known: piece 0, pivot 0, piece 1, and so on.
func distribute(s segment, moved, next, place []uint32, out []segment) []segment {
	count := make([]int, s.pivots+1)
	for i := s.lo + s.pivots; i < s.hi; i++ {
		count[place[i]]++
	}
	at := s.lo
	for piece, n := range count {
		if n > 1 {
			out = append(out, cut(at, at+n))
		}
		count[piece] = at // where the piece's next row goes
		at += n
		if piece < s.pivots {
			next[at] = moved[s.lo+piece]
			at++
		}
	}
	for i := s.lo + s.pivots; i < s.hi; i++ {
		next[count[place[i]]] = moved[i]
		count[place[i]]++
	}
	copy(moved[s.lo:s.hi], next[s.lo:s.hi])
	return out
}
