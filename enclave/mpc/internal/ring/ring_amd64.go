package ring

import "golang.org/x/sys/cpu"

// dotAVX2 is Dot of blocks·8 words.
//
//go:noescape
func dotAVX2(x, y *uint64, blocks int) uint64

// productAVX2 is Product for blocks·4 words.
//
//go:noescape
func productAVX2(z, xa, xb, ya, yb, r0, r1 *uint64, blocks int)

func dot(x, y []uint64) uint64 {
	n := 0
	var sum uint64
	if cpu.X86.HasAVX2 && len(x) >= 8 {
		n = len(x) / 8 * 8
		sum = dotAVX2(&x[0], &y[0], n/8)
	}
	return sum + dotGo(x[n:], y[n:])
}

func product(z, xa, xb, ya, yb, r0, r1 []uint64) {
	n := 0
	if cpu.X86.HasAVX2 && len(z) >= 4 {
		n = len(z) / 4 * 4
		productAVX2(&z[0], &xa[0], &xb[0], &ya[0], &yb[0], &r0[0], &r1[0], n/4)
	}
	productGo(z[n:], xa[n:], xb[n:], ya[n:], yb[n:], r0[n:], r1[n:])
}
