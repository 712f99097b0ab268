// Package ring has the inner loops over vectors of Z_2^64 that a million rows pass through: pseudo-random streams, products
// masked by them, sums of products and the digest of what crosses a connection. On amd64 with AVX2, and VAES for streams,
// they are routines in assembly, elsewhere plain Go; tests hold the one to the other.
//
// AVX2 has no product of 64-bit words. Modulo 2^64 that of x and y is lo·lo + ((lo·hi + hi·lo) mod 2^32)·2^32, which takes
// one product of 32 by 32 to 64 bits and two of 32 to 32 bits.
package ring

import "math/bits"

// Dot is Σ x[i]·y[i]. y is at least as long as x.
func Dot(x, y []uint64) uint64 { return dot(x, y[:len(x)]) }

// Product writes xa·(ya+yb) + xb·ya + r0 − r1, a node's part of a product with its share of zero, r0 and r1 being the next
// words of two streams. The factors have at least the length of z, which may be one of them.
func Product(z, xa, xb, ya, yb []uint64, r0, r1 *Stream) {
	n := len(z)
	xa, xb, ya, yb = xa[:n], xb[:n], ya[:n], yb[:n]
	if i := product(z, xa, xb, ya, yb, r0, r1); i < n {
		productGo(z[i:], xa[i:], xb[i:], ya[i:], yb[i:], r0, r1)
	}
}

// NH is Σ (m₂ᵢ+k₂ᵢ)·(m₂ᵢ₊₁+k₂ᵢ₊₁) mod 2^128 over words m under a key k that is at least as long (Black, Halevi, Krawczyk,
// Krovetz and Rogaway, "UMAC", CRYPTO 1999). A last odd word is paired with one that the key gives. Assembly is no faster.
func NH(key, words []uint64) (hi, lo uint64) {
	key = key[:len(words)]
	var carry uint64
	for i := 0; i+1 < len(words); i += 2 {
		h, l := bits.Mul64(words[i]+key[i], words[i+1]+key[i+1])
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	if last := len(words) - 1; last&1 == 0 {
		h, l := bits.Mul64(words[last]+key[last], key[0]^oddWord)
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	return hi, lo
}

// oddWord makes of the first word of the key what a last odd word is paired with.
const oddWord = 0x9E3779B97F4A7C15

func dotGo(x, y []uint64) uint64 {
	y = y[:len(x)]
	var s0, s1, s2, s3 uint64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s0 += x[i] * y[i]
		s1 += x[i+1] * y[i+1]
		s2 += x[i+2] * y[i+2]
		s3 += x[i+3] * y[i+3]
	}
	for ; i < len(x); i++ {
		s0 += x[i] * y[i]
	}
	return s0 + s1 + s2 + s3
}

func productGo(z, xa, xb, ya, yb []uint64, r0, r1 *Stream) {
	mask0, mask1 := make([]uint64, min(len(z), 1024)), make([]uint64, min(len(z), 1024))
	for len(z) > 0 {
		n := min(len(z), len(mask0))
		r0.Fill(mask0[:n])
		r1.Fill(mask1[:n])
		for i := range n {
			z[i] = xa[i]*(ya[i]+yb[i]) + xb[i]*ya[i] + mask0[i] - mask1[i]
		}
		z, xa, xb, ya, yb = z[n:], xa[n:], xb[n:], ya[n:], yb[n:]
	}
}
