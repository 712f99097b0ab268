// Package modq is arithmetic modulo the primes of a ciphertext modulus, below 2^63.
package modq

import "math/bits"

// Shoup precomputes ⌊w·2^64/q⌋ for MulShoup.
func Shoup(w, q uint64) uint64 {
	s, _ := bits.Div64(w, 0, q)
	return s
}

// MulShoup is x·w mod q for any x and for w < q < 2^63 (Shoup; see Harvey, "Faster arithmetic for number-theoretic transforms").
func MulShoup(x, w, wShoup, q uint64) uint64 {
	h, _ := bits.Mul64(x, wShoup)
	r := x*w - h*q
	if r >= q {
		r -= q
	}
	return r
}

// Reduce is (hi·2^64 + lo) mod q.
func Reduce(hi, lo, q uint64) uint64 {
	_, r := bits.Div64(hi%q, lo, q)
	return r
}

// Add is a + b mod q for reduced a and b.
func Add(a, b, q uint64) uint64 {
	a += b
	if a >= q {
		a -= q
	}
	return a
}

// Sub is a − b mod q for reduced a and b.
func Sub(a, b, q uint64) uint64 {
	if a < b {
		a += q
	}
	return a - b
}

// Mul is a·b mod q.
func Mul(a, b, q uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return Reduce(hi, lo, q)
}
