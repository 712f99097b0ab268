//go:build !amd64

package bitslice

func planes(dst []uint64, stride, count int, words []uint64) { planesGo(dst, stride, count, words) }

func and(z, xa, xb, ya, yb []uint64) { andGo(z, xa, xb, ya, yb) }

func choose(z, p, xa, xb, ua, ub, va, vb []uint64) { chooseGo(z, p, xa, xb, ua, ub, va, vb) }
