package mpc

import "yingzhou.dev/lab/enclave/dp"

// Noise says how much noise a value gets (package dp, LaplacePart). One entity has at most Rows rows, after the joins, each
// of which moves one cell by at most Delta units of the column. EpsilonMicro is ε in millionths for the whole vector of
// cells, which are disjoint.
type Noise struct {
	Rows         int64 `json:"rows"`
	Delta        int64 `json:"delta"`
	EpsilonMicro int64 `json:"epsilon_micro"`
}

// Part is what each node adds.
func (n Noise) Part() dp.LaplacePart { return dp.NewLaplacePart(n.Rows, n.Delta, n.EpsilonMicro) }

// Release is one table of results: a noised count per cell, opened among the nodes, and for every cell whose noised count
// is at least MinCount noised sums (opened at the gate alone) and quantiles. Of the other cells nothing more is computed
// than is opened: nothing.
type Release struct {
	Name string `json:"name"`
	// Cells are one-hot columns: numbers 0 or 1, at most one of them 1 in a row. Empty = one cell of all rows.
	Cells []string `json:"cells,omitempty"`
	// Who is the number 1 in the rows that count, else 0; empty = all rows of Frame.
	Who string `json:"who,omitempty"`
	// Frame is a column of the rows' frame, needed only if Who and Cells are empty.
	Frame     string     `json:"frame,omitempty"`
	Count     Noise      `json:"count"`
	MinCount  int64      `json:"min_count"`
	Sums      []Sum      `json:"sums,omitempty"`
	Quantiles []Quantile `json:"quantiles,omitempty"`
}

// Sum is Σ Column over the rows of a cell, whatever Who says: multiply a column by Who first.
type Sum struct {
	Column string `json:"column"`
	Noise  Noise  `json:"noise"`
}

// Quantile finds, for each fraction p and each cell, the least multiple x of Unit above Min for which the noised number of
// rows of Who with Column < x reaches p times the noised count, by bisection of [Min, Max]: one noised count per cell and
// bit of (Max−Min)/Unit. MIN and MAX are quantiles near 0 and 1, where the noise drowns single rows, as it must.
type Quantile struct {
	Column    string  `json:"column"`
	Fractions []int64 `json:"fractions"` // in millionths, 1 to 999999
	Min       int64   `json:"min"`
	Max       int64   `json:"max"`
	Unit      int64   `json:"unit"`
	// Noise is for all fractions and steps together, which share ε evenly. Its Delta is that of a count, 1.
	Noise Noise `json:"noise"`
}

// Steps is the number of bisections for one fraction: the least s with Unit·2^s ≥ Max−Min.
func (q Quantile) Steps() int {
	if q.Unit <= 0 {
		return 0
	}
	cells := uint64(q.Max-q.Min) / uint64(q.Unit)
	if cells*uint64(q.Unit) < uint64(q.Max-q.Min) {
		cells++
	}
	s := 0
	for uint64(1)<<s < cells {
		s++
	}
	return s
}

// Each is the noise of one noised count of the bisection, with ε rounded down.
func (q Quantile) Each() Noise {
	n := q.Noise
	n.EpsilonMicro /= max(1, int64(len(q.Fractions)*q.Steps()))
	return n
}

// KeyRelease opens the keys of a GROUP BY over a domain that nobody declared: those whose noised count reaches MinCount,
// and of them at most Limit with the greatest noised counts (0 = all). A key of a single entity must practically never
// appear, so MinCount sets the δ of the release: the probability that noise lifts the count of one entity to it.
type KeyRelease struct {
	Name string `json:"name"`
	// Keys are words to open. They must be meant for the operator: pseudonyms of people are not.
	Keys []string `json:"keys"`
	// Last and Count are as Group made them, in one frame with Keys and Sums.
	Last     string `json:"last"`
	Count    string `json:"count"`
	Noise    Noise  `json:"noise"`
	MinCount int64  `json:"min_count"`
	Limit    int64  `json:"limit,omitempty"`
	Sums     []Sum  `json:"sums,omitempty"`
}
