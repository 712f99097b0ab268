package bitslice

import "golang.org/x/sys/cpu"

// planesAVX2 writes all 64 planes of groups·64 words; stride is in machine words.
//
//go:noescape
func planesAVX2(dst *uint64, stride int, words *uint64, groups int)

// andAVX2 is And for blocks·4 words.
//
//go:noescape
func andAVX2(z, xa, xb, ya, yb *uint64, blocks int)

// chooseAVX2 is Choose for blocks·4 words.
//
//go:noescape
func chooseAVX2(z, p, xa, xb, ua, ub, va, vb *uint64, blocks int)

func choose(z, p, xa, xb, ua, ub, va, vb []uint64) {
	n := 0
	if cpu.X86.HasAVX2 && len(z) >= 4 {
		n = len(z) / 4 * 4
		chooseAVX2(&z[0], &p[0], &xa[0], &xb[0], &ua[0], &ub[0], &va[0], &vb[0], n/4)
	}
	chooseGo(z[n:], p[n:], xa[n:], xb[n:], ua[n:], ub[n:], va[n:], vb[n:])
}

func and(z, xa, xb, ya, yb []uint64) {
	n := 0
	if cpu.X86.HasAVX2 && len(z) >= 4 {
		n = len(z) / 4 * 4
		andAVX2(&z[0], &xa[0], &xb[0], &ya[0], &yb[0], n/4)
	}
	andGo(z[n:], xa[n:], xb[n:], ya[n:], yb[n:])
}

// planes goes by eight groups, whose planes fill a cache line each: planes of a large block lie a power of two apart, and
// 64 of them would fight for the same few sets of the cache.
func planes(dst []uint64, stride, count int, words []uint64) {
	if !cpu.X86.HasAVX2 {
		planesGo(dst, stride, count, words)
		return
	}
	var line [64 * 8]uint64
	groups := len(words) / 64
	for g := 0; g < groups; g += 8 {
		n := min(8, groups-g)
		planesAVX2(&line[0], 8, &words[64*g], n)
		if n == 8 {
			for b := range count {
				*(*[8]uint64)(dst[b*stride+g:]) = [8]uint64(line[8*b:])
			}
			continue
		}
		for b := range count {
			copy(dst[b*stride+g:][:n], line[8*b:])
		}
	}
}
