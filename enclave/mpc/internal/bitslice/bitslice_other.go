//go:build !amd64

package bitslice

func planes(dst []uint64, stride, count int, words []uint64) { planesGo(dst, stride, count, words) }
