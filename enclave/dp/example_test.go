package dp_test

import (
	"fmt"

	"yingzhou.dev/lab/enclave/dp"
)

// A count of people who have at most two rows each, at ε = 0.5, opened by three pieces.
func Example() {
	const pieces, minCohort = 3, 10
	b := dp.LaplaceScale(2, 1, 500_000)
	margin := dp.SuppressionMargin(b, pieces, 2000)
	fmt.Println("scale", b)
	fmt.Printf("σ of the result %.2f\n", dp.LaplaceSumStdDev(b, pieces))
	fmt.Println("shown from", minCohort+margin.Int64())
	fmt.Printf("a cell of nine is shown with probability %.4f\n", dp.MissProbability(b, pieces, margin))
	fmt.Println("|noise| above", dp.TailBound(b, pieces, 64), "has a probability of at most 2^-64")
	fmt.Printf("ε 0.5 against a custodian; %.3f against the operator at δ = 10^-9\n", dp.OperatorEpsilon(0.5, pieces, 1e-9))

	count := int64(1200)
	for piece := range pieces {
		key := []byte{byte(piece + 1)} // in truth 32 secret bytes, held by the custodians of the piece
		count += dp.Laplace(dp.NewStream(key, []byte("noise"), []byte("the question")), b).Int64()
	}
	fmt.Println("released", count)
	// Output:
	// scale 4/1
	// σ of the result 9.77
	// shown from 30
	// a cell of nine is shown with probability 0.0220
	// |noise| above 224 has a probability of at most 2^-64
	// ε 0.5 against a custodian; 0.450 against the operator at δ = 10^-9
	// released 1195
}
