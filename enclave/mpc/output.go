package mpc

// Output is what one node hands to the release gate: what was opened among the nodes, and its two components of each
// value that only the gate may see. Package engine makes it after every check has passed; Combine puts three together.
type Output struct {
	Party    int             `json:"party"`
	Program  Digest          `json:"program"`
	Releases []ReleaseOutput `json:"releases"`
	Keys     []KeysOutput    `json:"keys"`
}

// ReleaseOutput is one release at one node.
type ReleaseOutput struct {
	Name      string      `json:"name"`
	Counts    []int64     `json:"counts"`    // noised, by cell
	Kept      []bool      `json:"kept"`      // count ≥ MinCount
	Sums      [][]Pair    `json:"sums"`      // by sum, then cell; zero where not kept
	Quantiles [][][]int64 `json:"quantiles"` // by quantile, fraction, cell; 0 where not kept
}

// KeysOutput is one key release at one node: only keys that passed.
type KeysOutput struct {
	Name   string   `json:"name"`
	Counts []int64  `json:"counts"` // noised, descending
	Keys   [][]Pair `json:"keys"`   // by key column, then entry
	Sums   [][]Pair `json:"sums"`   // by sum, then entry
}

// Dealt is what one node holds of the tables of a program.
type Dealt struct {
	// Columns are the node's two components of each table column, by "table.column": its own number first, then the next.
	Columns map[string][2]Component
	// Commitments are published with the tables. The node checks its components against them before use.
	Commitments Commitments
}

// Pair is a node's two components of one value.
type Pair [2]uint64

// Result is what the gate reads. Fields are as in Output, with values in place of components.
type Result struct {
	Releases []ReleaseResult
	Keys     []KeysResult
}

// ReleaseResult is one release opened.
type ReleaseResult struct {
	Name      string
	Counts    []int64
	Kept      []bool
	Sums      [][]int64
	Quantiles [][][]int64
}

// KeysResult is one key release opened.
type KeysResult struct {
	Name   string
	Counts []int64
	Keys   [][]uint64
	Sums   [][]int64
}
