package engine

import (
	"crypto/subtle"

	"yingzhou.dev/lab/enclave/mpc/internal/bitslice"
	"yingzhou.dev/lab/enclave/mpc/internal/ring"
)

// Bits, shared by XOR, 64 rows to a word: row i is bit i mod 64 of word i div 64. Bits beyond the last row are arbitrary.
// An AND is a product mod 2, so the protocol is that of numbers with XOR for the sum.

func wordsFor(rows int) int { return (rows + 63) / 64 }

// not flips every bit of x in place.
func (p *party) not(x share) {
	if p.id == 0 {
		flip(x.a)
	}
	if p.id == 2 {
		flip(x.b)
	}
}

func flip(x []uint64) {
	for i := range x {
		x[i] = ^x[i]
	}
}

func xor(x, y share) share {
	z := newShare(x.len())
	xorTo(z, x, y)
	return z
}

func xorTo(z, x, y share) {
	xorWords(z.a, x.a, y.a)
	xorWords(z.b, x.b, y.b)
}

// xorWords is z = x ⊕ y, where z may be x or y.
func xorWords(z, x, y []uint64) {
	subtle.XORBytes(ring.Bytes(z), ring.Bytes(x[:len(z)]), ring.Bytes(y[:len(z)]))
}

// and is x ∧ y. One round.
func (p *party) and(x, y share) share {
	z := newShare(x.len())
	p.ands(z, func(i, j int, and func(x, y share)) { and(x.slice(i, j), y.slice(i, j)) })
	return z
}

// or is ¬(¬x ∧ ¬y) = x ⊕ y ⊕ x∧y. One round.
func (p *party) or(x, y share) share {
	z := p.and(x, y)
	xorTo(z, z, x)
	xorTo(z, z, y)
	return z
}

// reshareBits is reshare for bits: local writes part [i, j) of z.a unmasked.
func (p *party) reshareBits(z share, local func(i, j int)) {
	p.begin()
	prev, next := p.stream(&p.prev, 0), p.stream(&p.next, 0)
	p.reshare(z, func(i, j int) {
		local(i, j)
		for ; i < j; i += chunk {
			e := min(i+chunk, j)
			r0, r1 := p.r0[:e-i], p.r1[:e-i]
			prev.Fill(r0)
			next.Fill(r1)
			xorWords(z.a[i:e], z.a[i:e], r0)
			xorWords(z.a[i:e], z.a[i:e], r1)
		}
	})
}

// ands writes products to z, one after the other: of passes on the factors of part [i, j) of z, frame by frame. One round.
func (p *party) ands(z share, of func(i, j int, and func(x, y share))) {
	at := 0
	and := func(x, y share) {
		bitslice.And(z.a[at:at+len(x.a)], x.a, x.b, y.a, y.b)
		at += len(x.a)
	}
	p.reshareBits(z, func(i, j int) { of(i, j, and) })
	if p.transcript != nil {
		at := 0
		of(0, z.len(), func(x, y share) {
			p.record(false, x, y, z.slice(at, at+x.len()))
			at += x.len()
		})
	}
}

// lowBits packs the lowest bit of every number: the sum of three components has the XOR of their lowest bits. No message.
func lowBits(x share) share {
	return share{packLow(x.a), packLow(x.b)}
}

func packLow(x []uint64) []uint64 {
	out := make([]uint64, wordsFor(len(x)))
	for i, v := range x {
		out[i/64] |= v & 1 << (i % 64)
	}
	return out
}

// numbers makes n bits numbers 0 or 1. Node 0 knows u = b₀⊕b₁ and the others v = b₂, and b = u + v − 2uv. With u shared as
// u₀ at node 2 and u₁ = u−u₀ at node 1, each of the two can compute its part of b, and they make component 2 of the
// result from the parts, each masked by a component that only the other of them lacks. Two rounds.
func (p *party) numbers(b share, n int) share {
	out := newShare(n)
	p.begin()
	part := make([]uint64, n) // node 0: u₀; nodes 1 and 2: u₁ and u₀
	switch p.id {
	case 0:
		r := p.stream(&p.next, 0)
		for i := 0; i < n; i += frame {
			j := min(i+frame, n)
			u := part[i:j]
			r.Fill(u)
			for k := range u {
				at := i + k
				u[k] = (b.a[at/64]^b.b[at/64])>>(at%64)&1 - u[k]
			}
			p.send(&p.prev, u)
		}
	case 1:
		p.stream(&p.prev, 0).Fill(part)
	case 2:
		for i := 0; i < n; i += frame {
			p.recv(&p.next, part[i:min(i+frame, n)])
		}
	}
	p.rounds++
	p.begin()
	switch p.id {
	case 0: // components 0 and 1, from the two streams
		p.stream(&p.prev, 0).Fill(out.a)
		p.stream(&p.next, 0).Fill(out.b)
	case 1: // part 1 is u₁·(1−2v) + v, masked by component 1
		p.stream(&p.prev, 0).Fill(out.a)
		p.exchange(&p.next, out.b, func(i int) uint64 {
			v := b.b[i/64] >> (i % 64) & 1
			return part[i] - 2*v*part[i] + v - out.a[i]
		})
	case 2: // part 2 is u₀·(1−2v), masked by component 0
		p.stream(&p.next, 0).Fill(out.b)
		p.exchange(&p.prev, out.a, func(i int) uint64 {
			v := b.a[i/64] >> (i % 64) & 1
			return part[i] - 2*v*part[i] - out.b[i]
		})
	}
	p.rounds++
	return out
}

// exchange sends one's part of every number to one peer and adds the peer's, into z.
func (p *party) exchange(d *direction, z []uint64, mine func(i int) uint64) {
	theirs := make([]uint64, frame)
	take := func(i, j int) {
		t := theirs[:j-i]
		p.recv(d, t)
		for k, v := range t {
			z[i+k] += v
		}
	}
	received := 0
	for i := 0; i < len(z); i += frame {
		j := min(i+frame, len(z))
		for k := i; k < j; k++ {
			z[k] = mine(k)
		}
		p.send(d, z[i:j])
		if k := i - ahead*frame; k >= 0 {
			take(k, k+frame)
			received = k + frame
		}
	}
	for ; received < len(z); received += frame {
		take(received, min(received+frame, len(z)))
	}
}
