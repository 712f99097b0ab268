package enclave

import (
	"slices"
	"strconv"
	"strings"
)

// Layout kinds (docs/FORMATS.md, "Sealed blobs").
const (
	// Cube packs per-cell totals in coefficients: cell k of the axis stands in coefficient k mod N of chunk k div N.
	Cube = "cube"
	// Rows packs one row per slot: row r stands in slot r mod N of chunk r div N.
	Rows = "rows"
	// Shares splits every column among three nodes (package mpc), for joins and comparisons.
	Shares = "shares"
)

// Layout is one way in which the table was sealed.
type Layout struct {
	Name    string     `json:"name"`
	Kind    string     `json:"kind"`
	Axes    [][]string `json:"axes"` // cube: exactly one axis; rows: one per set of one-hot indicators
	Vectors []Vector   `json:"vectors"`
	Shares  *ShareSet  `json:"shares,omitempty"` // of a shares layout
}

// Vector is one sealed vector.
type Vector struct {
	Name   string `json:"name"`   // a Moment, or IndicatorName for rows
	Blob   Digest `json:"blob"`   // of the sealed file
	Bytes  int64  `json:"bytes"`  // its size
	Chunks int64  `json:"chunks"` // ciphertexts
	// Commitments are those to the three components of a shared column.
	Commitments []Digest `json:"commitments,omitempty"`
}

// IndicatorName names the 0/1 vector of rows whose values on axis are cell index.
func IndicatorName(axis []string, index int64) string {
	return "i:" + strings.Join(axis, ",") + ":" + strconv.FormatInt(index, 10)
}

// Find returns the index of a vector, or -1.
func (l *Layout) Find(name string) int {
	return slices.IndexFunc(l.Vectors, func(v Vector) bool { return v.Name == name })
}

// index maps every vector's name to what Find returns for it.
func (l *Layout) index() map[string]int {
	out := make(map[string]int, len(l.Vectors))
	for i := len(l.Vectors) - 1; i >= 0; i-- {
		out[l.Vectors[i].Name] = i
	}
	return out
}

// Moment names a per-row quantity that is summed. With X the value of column x minus its Centre, in scaled units, and
// 0 where x is missing:
//
//	"n"      1
//	"n:x"    1 where x is present (nullable columns only)
//	"s:x"    X
//	"q:x"    X²
//	"p:x,y"  X·Y, with x before y in byte order; both columns never missing
type Moment string

// Names of moments.
const CountMoment Moment = "n"

func PresentMoment(x string) Moment { return Moment("n:" + x) }
func SumMoment(x string) Moment     { return Moment("s:" + x) }
func SquareMoment(x string) Moment  { return Moment("q:" + x) }
func ProductMoment(x, y string) Moment {
	if y < x {
		x, y = y, x
	}
	return Moment("p:" + x + "," + y)
}

// Split takes a moment apart: its letter and the columns it involves.
func (m Moment) Split() (letter string, cols []string) {
	letter, rest, ok := strings.Cut(string(m), ":")
	if !ok {
		return letter, nil
	}
	return letter, strings.Split(rest, ",")
}
