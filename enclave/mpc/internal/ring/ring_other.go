//go:build !amd64

package ring

func dot(x, y []uint64) uint64 { return dotGo(x, y) }

func product(z, xa, xb, ya, yb, r0, r1 []uint64) { productGo(z, xa, xb, ya, yb, r0, r1) }
