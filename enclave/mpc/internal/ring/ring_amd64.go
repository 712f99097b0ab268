package ring

import "golang.org/x/sys/cpu"

// dotAVX2 is Dot of blocks·8 words.
//
//go:noescape
func dotAVX2(x, y *uint64, blocks int) uint64

func dot(x, y []uint64) uint64 {
	n := 0
	var sum uint64
	if cpu.X86.HasAVX2 && len(x) >= 8 {
		n = len(x) / 8 * 8
		sum = dotAVX2(&x[0], &y[0], n/8)
	}
	return sum + dotGo(x[n:], y[n:])
}
