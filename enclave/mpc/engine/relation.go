package engine

import (
	"slices"

	"yingzhou.dev/lab/enclave/mpc"
)

// Operations between rows with equal keys: sort, compare neighbours, add up runs, and undo the sort, so that results stand
// beside the rows that they belong to.

func numbers(int) bool { return true }

// runs is, for rows in the order of s, the number 1 in a row whose fields of, the most significant ones of the key, equal
// those of the row before it, else 0.
func (p *party) runs(s *sorted, of []field) share {
	k := s.key
	n, skip := k.rows(), k.bits
	for _, f := range of {
		skip -= f.bits
	}
	out := newShare(n)
	if n < 2 {
		return out
	}
	keys := p.planes(n-1, k.bits)
	same := p.planes(n-1, k.bits-skip)
	now, before := k.from(1), k.from(0)
	other := newShare(blockRows / 64 * k.bits)
	for b := range keys.blocks() {
		w := keys.block(b).w
		run, second := keys.run(b, 0, k.bits), other.slice(0, w*k.bits)
		now(run, b, w)
		before(second, b, w)
		xorTo(run, run, second)
		copyShare(same.run(b, 0, same.count), keys.run(b, skip, k.bits))
	}
	p.drop(keys)
	p.not(same.share)
	ones := p.numbers(p.all(same), n-1)
	copy(out.a[1:], ones.a)
	copy(out.b[1:], ones.b)
	return out
}

// first is the number 1 in a row that begins a run, else 0.
func (p *party) first(same share) share {
	out := newShare(same.len())
	copyShare(out, same)
	negate(out.a)
	negate(out.b)
	p.constant(out, 1)
	return out
}

func reversed(columns []share) []share {
	out := make([]share, len(columns))
	for i, c := range columns {
		out[i] = share{slices.Clone(c.a), slices.Clone(c.b)}
		slices.Reverse(out[i].a)
		slices.Reverse(out[i].b)
	}
	return out
}

// from is an operand of rows from one on, as many as there are but one.
func (k key) from(first int) operand {
	index := make([]uint32, k.rows()-1)
	for i := range index {
		index[i] = uint32(i + first)
	}
	return k.at(index)
}

// join looks the rows by up among the rows on, whose keys are distinct: matched is the number 1 in a row of by whose key
// some row of on has where the number where is 1 (nil: in all rows), and values are the values of the columns in that row.
func (p *party) join(on, by []field, where *share, columns []share) (matched share, values []share) {
	n, m := on[0].len(), by[0].len()
	fields := make([]field, len(on))
	for i := range fields {
		fields[i] = field{concat([]share{on[i].share, by[i].share}), on[i].bits}
	}
	s := p.sort(p.indexed(fields...)) // rows of on come first among equals
	same := p.runs(s, fields)
	here := newShare(n)
	if where != nil {
		here = *where
	} else {
		p.constant(here, 1)
	}
	// A few columns at a time: each takes some eighty bytes a row on its way.
	var out []share
	for rest := append([]share{here}, columns...); len(rest) > 0; {
		now := min(len(rest), mpc.JoinColumns)
		all := make([]share, now)
		for c := range all {
			all[c] = concat([]share{rest[c], newShare(m)})
		}
		all = p.back(s, p.scan(same, p.bring(s, all, numbers)), numbers)
		for _, c := range all {
			out = append(out, share{slices.Clone(c.a[n:]), slices.Clone(c.b[n:])})
		}
		rest = rest[now:]
	}
	return out[0], out[1:]
}

// group adds columns up over rows with equal keys where the number where is 1 (nil: all rows). one is the number 1 in one
// such row of each key, else 0, and counts and sums are those of the key in that row, else 0.
func (p *party) group(by []field, where *share, columns []share) (one share, sums []share) {
	n := by[0].len()
	fields := append([]field(nil), by...)
	ones := newShare(n)
	p.constant(ones, 1)
	if where != nil {
		fields = append(fields, p.flagField(*where, true)) // rows that count come first among equals
		ones = *where
		if len(columns) > 0 {
			masks := make([]share, len(columns))
			for i := range masks {
				masks[i] = *where
			}
			columns = p.muls(columns, masks)
		}
	}
	s := p.sort(p.indexed(fields...))
	same := p.runs(s, by)
	first := p.first(same)
	all := p.bring(s, append([]share{ones}, columns...), numbers)
	if where != nil {
		first = p.mul(first, all[0])
	}
	// Totals belong to the first row of a run, so the scan runs backwards, where a row joins the one that followed it.
	follows := newShare(n)
	for i := 1; i < n; i++ {
		follows.a[n-i], follows.b[n-i] = same.a[i], same.b[i]
	}
	totals := p.scan(follows, reversed(all))
	masks := make([]share, len(totals))
	for i := range masks {
		masks[i] = first
	}
	out := append([]share{first}, p.muls(masks, reversed(totals))...)
	out = p.back(s, out, numbers)
	return out[0], out[1:]
}

// distinct is one of group alone.
func (p *party) distinct(by []field, where *share) share {
	fields := append([]field(nil), by...)
	if where != nil {
		fields = append(fields, p.flagField(*where, true))
	}
	s := p.sort(p.indexed(fields...))
	first := p.first(p.runs(s, by))
	if where != nil {
		first = p.mul(first, p.bring(s, []share{*where}, numbers)[0])
	}
	return p.back(s, []share{first}, numbers)[0]
}
