// Package bitslice turns words into bit planes and back: plane b holds bit b of every word, 64 words to a machine word,
// word i in bit i. Comparisons on bit-packed shares work on planes, so every share passes through here twice.
//
// One transposition of 64×64 bits, and the kernels of products, are routines in assembly on amd64 with AVX2 and plain Go
// elsewhere; tests hold the one to the other.
package bitslice

// Planes writes the low planes of words, count of them (1 to 64), to dst: plane b begins at dst[b·stride]. The number of
// words is a multiple of 64, and a plane of them takes len(words)/64 machine words.
func Planes(dst []uint64, stride, count int, words []uint64) {
	if len(words) == 0 {
		return
	}
	groups := len(words) / 64
	if len(words)%64 != 0 || count < 1 || count > 64 || len(dst) < (count-1)*stride+groups {
		panic("bitslice: planes do not fit")
	}
	planes(dst, stride, count, words)
}

// Words writes words whose low planes are count planes at src, the others zero: the inverse of Planes.
func Words(words, src []uint64, stride, count int) {
	if len(words)%64 != 0 || count < 0 || count > 64 || len(words) > 0 && count > 0 && len(src) < (count-1)*stride+len(words)/64 {
		panic("bitslice: planes do not fit")
	}
	var in [64]uint64
	for g := range len(words) / 64 {
		for b := range count {
			in[b] = src[b*stride+g]
		}
		planes(words[64*g:64*g+64], 1, 64, in[:])
	}
}

// And writes xa∧(ya⊕yb) ⊕ xb∧ya: a node's part of the product of bits that are shared by XOR. All have the length of z,
// which may be one of the others.
func And(z, xa, xb, ya, yb []uint64) {
	n := len(z)
	and(z, xa[:n], xb[:n], ya[:n], yb[:n])
}

// Choose writes p ⊕ And(x, u⊕v): a node's part of a bit that is v instead of u where x is 1, if its part of u is p. All have
// the length of z, which may be p.
func Choose(z, p, xa, xb, ua, ub, va, vb []uint64) {
	n := len(z)
	choose(z, p[:n], xa[:n], xb[:n], ua[:n], ub[:n], va[:n], vb[:n])
}

func chooseGo(z, p, xa, xb, ua, ub, va, vb []uint64) {
	n := len(z)
	p, xa, xb, ua, ub, va, vb = p[:n], xa[:n], xb[:n], ua[:n], ub[:n], va[:n], vb[:n]
	for i := range z {
		e := ua[i] ^ va[i]
		z[i] = p[i] ^ xa[i]&(e^ub[i]^vb[i]) ^ xb[i]&e
	}
}

func andGo(z, xa, xb, ya, yb []uint64) {
	n := len(z)
	xa, xb, ya, yb = xa[:n], xb[:n], ya[:n], yb[:n]
	for i := range z {
		z[i] = xa[i]&(ya[i]^yb[i]) ^ xb[i]&ya[i]
	}
}

func planesGo(dst []uint64, stride, count int, words []uint64) {
	for g := range len(words) / 64 {
		t := [64]uint64(words[64*g:])
		transpose(&t)
		for b := range count {
			dst[b*stride+g] = t[b]
		}
	}
}

// transpose swaps bit i of word j with bit j of word i, by exchanging ever smaller quadrants (Warren, "Hacker's Delight",
// section 7-3).
func transpose(a *[64]uint64) {
	mask := uint64(1<<32 - 1)
	for j := 32; j != 0; j, mask = j>>1, mask^(mask<<(j>>1)) {
		for k := 0; k < 64; k = (k + j + 1) &^ j {
			t := (a[k]>>j ^ a[k+j]) & mask
			a[k+j] ^= t
			a[k] ^= t << j
		}
	}
}
