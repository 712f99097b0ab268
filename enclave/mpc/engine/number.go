package engine

import (
	"runtime"
	"slices"
	"sync"

	"yingzhou.dev/lab/enclave/mpc/internal/ring"
)

// Numbers, shared additively mod 2^64. Sums and products with public constants need no message. A product is
// x·y = Σ over nodes of (x.a·y.a + x.a·y.b + x.b·y.a), to which the nodes add a sharing of zero that they draw from their
// pairwise streams, so that what they send each other is uniform.

// constant adds v to every number: component 0, which node 0 has as a and node 2 as b, takes it.
func (p *party) constant(x share, v uint64) {
	switch p.id {
	case 0:
		addTo(x.a, v)
	case 2:
		addTo(x.b, v)
	}
}

func addTo(x []uint64, v uint64) {
	for i := range x {
		x[i] += v
	}
}

// public is a vector that everybody knows.
func (p *party) public(values []uint64) share {
	x := newShare(len(values))
	switch p.id {
	case 0:
		copy(x.a, values)
	case 2:
		copy(x.b, values)
	}
	return x
}

// linear is c + Σ factors[k]·xs[k].
func (p *party) linear(c uint64, factors []int64, xs ...share) share {
	n := xs[0].len()
	out := newShare(n)
	for i := 0; i < n; i += chunk {
		j := min(i+chunk, n)
		for k, x := range xs {
			madd(out.a[i:j], x.a[i:j], uint64(factors[k]))
			madd(out.b[i:j], x.b[i:j], uint64(factors[k]))
		}
	}
	p.constant(out, c)
	return out
}

func madd(z, x []uint64, f uint64) {
	x = x[:len(z)]
	switch f {
	case 1:
		for i := range z {
			z[i] += x[i]
		}
	default:
		for i := range z {
			z[i] += x[i] * f
		}
	}
}

func sub(x, y share) share {
	z := newShare(x.len())
	for i := range z.a {
		z.a[i] = x.a[i] - y.a[i]
	}
	for i := range z.b {
		z.b[i] = x.b[i] - y.b[i]
	}
	return z
}

// mul is x·y row by row. One round.
func (p *party) mul(x, y share) share {
	z := newShare(x.len())
	p.mulTo(z, x, y)
	return z
}

// mulTo writes x·y to z, which may be x or y: what arrives overwrites rows whose product is already made.
func (p *party) mulTo(z, x, y share) {
	p.begin()
	if p.transcript != nil { // z may overwrite a factor
		x, y = kept(x), kept(y)
	}
	prev, next := p.stream(&p.prev, 0), p.stream(&p.next, 0)
	p.reshare(z, func(i, j int) {
		ring.Product(z.a[i:j], x.a[i:j], x.b[i:j], y.a[i:j], y.b[i:j], prev, next)
	})
	p.record(true, x, y, z)
}

func kept(x share) share { return share{slices.Clone(x.a), slices.Clone(x.b)} }

// zeros masks parts of sums: z[i] += a sharing of zero.
func (p *party) zeros(z []uint64) {
	prev, next := p.stream(&p.prev, 0), p.stream(&p.next, 0)
	for i := 0; i < len(z); i += chunk {
		j := min(i+chunk, len(z))
		prev.Fill(p.r0[:j-i])
		next.Fill(p.r1[:j-i])
		for k := range z[i:j] {
			z[i+k] += p.r0[k] - p.r1[k]
		}
	}
}

// streamed is how many words of a column a sum of products reads at a time: so many that memory keeps up, as it is read
// ahead of use, and so few that the factor that all columns have in common stays in the second-level cache.
const streamed = 1 << 15

// inner is Σ over rows of xs[k]·y for each k: the products are local, for as many processors as there are, and only the sums
// are sent. One round.
func (p *party) inner(xs []share, y share) share {
	p.begin()
	out := newShare(len(xs))
	parts := make([][]uint64, max(1, min(runtime.GOMAXPROCS(0), y.len()/streamed)))
	var workers sync.WaitGroup
	for w := range parts {
		workers.Go(func() { parts[w] = innerPart(xs, y, w, len(parts)) })
	}
	workers.Wait()
	for _, part := range parts {
		for k, v := range part {
			out.a[k] += v
		}
	}
	p.zeros(out.a)
	p.reshare(out, func(int, int) {})
	p.recordSums(xs, y, out)
	return out
}

// innerPart is what one of several workers makes of this node's part of inner: each takes its turn of the rows.
func innerPart(xs []share, y share, worker, workers int) []uint64 {
	sums := make([]uint64, len(xs))
	n := y.len()
	both := make([]uint64, min(n, streamed))
	for i := worker * streamed; i < n; i += workers * streamed {
		j := min(i+streamed, n)
		ya, yb, s := y.a[i:j], y.b[i:j], both[:j-i]
		for k := range s {
			s[k] = ya[k] + yb[k]
		}
		for k, x := range xs {
			sums[k] += ring.Dot(x.a[i:j], s) + ring.Dot(x.b[i:j], ya)
		}
	}
	return sums
}

// total is Σ over rows of each x: no message.
func total(xs []share) share {
	out := newShare(len(xs))
	for k, x := range xs {
		for _, v := range x.a {
			out.a[k] += v
		}
		for _, v := range x.b {
			out.b[k] += v
		}
	}
	return out
}

// selectNumber is yes where c is 1 and no where it is 0. One round.
func (p *party) selectNumber(c, yes, no share) share {
	z := p.mul(c, sub(yes, no))
	for i := range z.a {
		z.a[i] += no.a[i]
	}
	for i := range z.b {
		z.b[i] += no.b[i]
	}
	return z
}

// inputAll shares three vectors of one length, each known to one node alone: out[i] is that of node i. One round.
func (p *party) inputAll(mine []uint64) [3]share {
	p.begin()
	n := len(mine)
	var out [3]share
	for i := range out {
		out[i] = newShare(n)
	}
	// Node j's vector has component j+1 from the stream that it shares with node j+1, component j the rest and j+2 zero.
	own := out[p.id]
	p.stream(&p.next, 1).Fill(own.b)
	for i, v := range mine {
		own.a[i] = v - own.b[i]
	}
	p.stream(&p.prev, 1).Fill(out[p.prev.number].a)
	for i := 0; i < n; i += frame {
		j := min(i+frame, n)
		p.send(&p.prev, own.a[i:j])
		p.recv(&p.next, out[p.next.number].b[i:j])
	}
	p.rounds++
	return out
}
