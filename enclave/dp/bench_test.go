package dp

import (
	"fmt"
	"math/big"
	"testing"
)

func BenchmarkNewStream(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewStream([]byte("test key"), []byte("context")).Uint64()
	}
}

func BenchmarkLaplace(b *testing.B) {
	for _, bits := range []uint{0, 20, 40, 70, 120} {
		b.Run(fmt.Sprintf("b=2^%d", bits), func(b *testing.B) {
			s, scale := testStream("bench", 0), Scale{new(big.Int).Lsh(one, bits), big.NewInt(7)}
			b.ReportAllocs()
			for b.Loop() {
				Laplace(s, scale)
			}
		})
	}
}

func BenchmarkGaussian(b *testing.B) {
	for _, bits := range []uint{0, 20, 40, 100} {
		b.Run(fmt.Sprintf("variance=2^%d", bits), func(b *testing.B) {
			s, variance := testStream("bench", 0), new(big.Int).Lsh(one, bits)
			b.ReportAllocs()
			for b.Loop() {
				Gaussian(s, variance, one)
			}
		})
	}
}

func BenchmarkOperatorEpsilon(b *testing.B) {
	for b.Loop() {
		OperatorEpsilon(0.1, 3, 1e-9)
	}
}
