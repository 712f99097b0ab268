package engine

// scan adds up columns within runs of rows: same is the number 1 in a row that belongs to the run of the row before it,
// else 0, and row i of the result is the sum of the rows of i's run up to i. Pairs of rows are joined, the half as many
// pairs scanned, and the result carried back to the rows in between: 2·log₂ n rounds and, for c columns, n·(1+2c) products.
func (p *party) scan(same share, columns []share) []share {
	n := same.len()
	if n < 2 {
		return columns
	}
	half := n / 2
	// Joining rows 2i and 2i+1: a value v₂ᵢ₊₁ + s₂ᵢ₊₁·v₂ᵢ, in the run of the pair before if s₂ᵢ·s₂ᵢ₊₁. The last of the s is
	// needed by nobody, but the round is there anyway.
	odd := strided(same, 1, half)
	left, right := []share{strided(same, 0, half)}, []share{odd}
	for _, c := range columns {
		left, right = append(left, strided(c, 0, half)), append(right, odd)
	}
	products := p.muls(left, right)
	pairs := make([]share, len(columns))
	for i, c := range columns {
		pairs[i] = plus(products[i+1], strided(c, 1, half))
	}
	pairs = p.scan(products[0], pairs)

	// Row 2i+1 ends pair i; row 2i takes the pair before: v₂ᵢ + s₂ᵢ·pair i−1.
	rest := (n - 1) / 2
	even := strided(share{same.a[2:], same.b[2:]}, 0, rest)
	left, right = nil, nil
	for i := range columns {
		left, right = append(left, pairs[i].slice(0, rest)), append(right, even)
	}
	carried := p.muls(left, right)
	out := make([]share, len(columns))
	for i, c := range columns {
		out[i] = newShare(n)
		weave(out[i].a, c.a, pairs[i].a, carried[i].a)
		weave(out[i].b, c.b, pairs[i].b, carried[i].b)
	}
	return out
}

func weave(out, v, pairs, carried []uint64) {
	out[0] = v[0]
	for i := range pairs {
		out[2*i+1] = pairs[i]
	}
	for i := range carried {
		out[2*i+2] = v[2*i+2] + carried[i]
	}
}

// strided is rows first, first+2, first+4, …, n of them.
func strided(x share, first, n int) share {
	out := newShare(n)
	for i := range n {
		out.a[i] = x.a[2*i+first]
		out.b[i] = x.b[2*i+first]
	}
	return out
}

func plus(x, y share) share {
	z := newShare(x.len())
	for i := range z.a {
		z.a[i] = x.a[i] + y.a[i]
	}
	for i := range z.b {
		z.b[i] = x.b[i] + y.b[i]
	}
	return z
}

// muls is several products of one length in one round.
func (p *party) muls(xs, ys []share) []share {
	if len(xs) == 1 {
		return []share{p.mul(xs[0], ys[0])}
	}
	z := p.mul(concat(xs), concat(ys))
	out := make([]share, len(xs))
	at := 0
	for i, x := range xs {
		out[i] = z.slice(at, at+x.len())
		at += x.len()
	}
	return out
}

func concat(xs []share) share {
	n := 0
	for _, x := range xs {
		n += x.len()
	}
	out := share{make([]uint64, 0, n), make([]uint64, 0, n)}
	for _, x := range xs {
		out.a, out.b = append(out.a, x.a...), append(out.b, x.b...)
	}
	return out
}
