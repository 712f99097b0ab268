package mpc

import (
	"fmt"
	"slices"
	"strconv"

	"yingzhou.dev/lab/internal/canon"
)

// Nodes is how many nodes evaluate a program.
const Nodes = 3

// Kind is how a column is shared.
type Kind string

const (
	// Number is an integer x with |x| ≤ Bound, shared additively mod 2^64 in two's complement.
	Number Kind = "number"
	// Word is 64 bits shared by XOR: a pseudonym, or a number made a sort key. Words compare as unsigned integers.
	Word Kind = "word"
	// Bit is 0 or 1, shared by XOR, 64 rows to a machine word. Steps make bits; tables have none.
	Bit Kind = "bit"
)

const (
	// MaxInput is the largest Bound of a dealt column, and the largest constant: what canonical JSON holds.
	MaxInput = canon.MaxInt
	// MaxBound is the largest Bound of any number, so that the difference of two has a sign bit.
	MaxBound = 1<<62 - 1
)

// Program is what the nodes evaluate, all three the same. The zero value is the program without tables. Methods named
// after an operation append a step and return the name of the column it makes; they check nothing. Check does.
type Program struct {
	Tables   []Table      `json:"tables"`
	Steps    []Step       `json:"steps,omitempty"`
	Releases []Release    `json:"releases,omitempty"`
	Keys     []KeyRelease `json:"keys,omitempty"`
}

// Table is one dealt table. Its columns are called "table.column" in steps and releases.
type Table struct {
	Name    string   `json:"name"`
	Rows    int64    `json:"rows"` // exact and public; 0 to MaxRows
	Columns []Column `json:"columns"`
}

// Column is one dealt column. A one-hot column of a small domain is a number with Bound 1.
type Column struct {
	Name  string `json:"name"`
	Kind  Kind   `json:"kind"`            // Number or Word
	Bound int64  `json:"bound,omitempty"` // Number: the most |x| can be, 1 to MaxInput; comparisons cost its logarithm
}

// Op names an operation on columns.
type Op string

// Operations. Step says which fields each takes.
const (
	OpConstant Op = "constant" // number: Const[0] in every row of the frame of In[0], or of table Frame
	OpLinear   Op = "linear"   // number: Const[0] + Σ Const[k+1]·In[k]
	OpMul      Op = "mul"      // number: In[0]·In[1]
	OpLess     Op = "less"     // bit: In[0] < In[1], both numbers or both words
	OpEqual    Op = "equal"    // bit: In[0] = In[1], both numbers or both words
	OpAnd      Op = "and"      // bit: In[0] ∧ In[1]
	OpOr       Op = "or"       // bit: In[0] ∨ In[1]
	OpXor      Op = "xor"      // bit: In[0] ⊕ In[1]
	OpNot      Op = "not"      // bit: ¬In[0]
	OpBit      Op = "bit"      // bit: the lowest bit of number In[0], which is the number itself if it is 0 or 1; free
	OpNumber   Op = "number"   // number 0 or 1: bit In[0]
	OpSelect   Op = "select"   // number: In[1] where number In[0] is 1, In[2] where it is 0
	OpWord     Op = "word"     // word: number In[0] + 2^63, so that words sort as the numbers do
	OpJoin     Op = "join"     // see Join
	OpSort     Op = "sort"     // see Sort
	OpDistinct Op = "distinct" // see Distinct
	OpGroup    Op = "group"    // see Group
)

// Step makes one or more columns.
type Step struct {
	Op    Op       `json:"op"`
	In    []string `json:"in,omitempty"`
	By    []string `json:"by,omitempty"`    // key columns, most significant first
	On    []string `json:"on,omitempty"`    // join: key columns of the side that is looked up
	Where string   `json:"where,omitempty"` // number 0 or 1; empty = all rows
	Frame string   `json:"frame,omitempty"` // constant: a table
	Const []int64  `json:"const,omitempty"`
	Out   []string `json:"out"`
}

func (p *Program) add(s Step, out int) []string {
	at := "t" + strconv.Itoa(len(p.Steps))
	s.Out = []string{at}
	if out != 1 {
		s.Out = make([]string, out)
		for i := range s.Out {
			s.Out[i] = fmt.Sprint(at, "_", i)
		}
	}
	p.Steps = append(p.Steps, s)
	return slices.Clone(s.Out)
}

func (p *Program) one(op Op, in ...string) string { return p.add(Step{Op: op, In: in}, 1)[0] }

// Constant is a number that is v in every row of a table.
func (p *Program) Constant(table string, v int64) string {
	return p.add(Step{Op: OpConstant, Frame: table, Const: []int64{v}}, 1)[0]
}

// Linear is constant + Σ factors[k]·columns[k]: no message.
func (p *Program) Linear(constant int64, factors []int64, columns ...string) string {
	return p.add(Step{Op: OpLinear, In: columns, Const: append([]int64{constant}, factors...)}, 1)[0]
}

// Sum is the sum of number columns.
func (p *Program) Sum(columns ...string) string {
	ones := make([]int64, len(columns))
	for i := range ones {
		ones[i] = 1
	}
	return p.Linear(0, ones, columns...)
}

func (p *Program) Mul(a, b string) string             { return p.one(OpMul, a, b) }
func (p *Program) Less(a, b string) string            { return p.one(OpLess, a, b) }
func (p *Program) Equal(a, b string) string           { return p.one(OpEqual, a, b) }
func (p *Program) And(a, b string) string             { return p.one(OpAnd, a, b) }
func (p *Program) Or(a, b string) string              { return p.one(OpOr, a, b) }
func (p *Program) Xor(a, b string) string             { return p.one(OpXor, a, b) }
func (p *Program) Not(a string) string                { return p.one(OpNot, a) }
func (p *Program) Bit(number string) string           { return p.one(OpBit, number) }
func (p *Program) Number(bit string) string           { return p.one(OpNumber, bit) }
func (p *Program) Select(cond, yes, no string) string { return p.one(OpSelect, cond, yes, no) }
func (p *Program) Word(number string) string          { return p.one(OpWord, number) }

// OneHot is a number 0 or 1 for each of the values, 1 where the column has it. To group by a column of another table, join
// the column and make it one-hot afterwards: a joined column costs some seven words a row, a one-hot one little over one.
func (p *Program) OneHot(table, column string, values ...int64) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = p.Number(p.Equal(column, p.Constant(table, v)))
	}
	return out
}

// Join looks every row with key by up among the rows of another frame with key on, which is unique there. The result is
// in the frame of by, its rows in their order: matched is the number 1 where a row with that key exists and satisfies
// where (a column beside on; empty = all), else 0; columns are the values of the columns beside on, 0 where no key
// matches. Any number of rows may have one key of by. If on is not unique, the values of its rows are added up; sealing
// enforces that it is. Keys are words, and there is one of by for each of on.
func (p *Program) Join(on []string, where string, columns []string, by []string) (matched string, values []string) {
	out := p.add(Step{Op: OpJoin, On: on, Where: where, In: columns, By: by}, 1+len(columns))
	return out[0], out[1:]
}

// Sort puts the columns in ascending order of the words by, rows with equal keys in their old order. The result is a new
// frame.
func (p *Program) Sort(by []string, columns ...string) []string {
	return p.add(Step{Op: OpSort, By: by, In: columns}, len(columns))
}

// Distinct is the number 1 in one row of each key among the rows that satisfy where, else 0; in the frame of by. Its sum
// is COUNT(DISTINCT by).
func (p *Program) Distinct(by []string, where string) string {
	return p.add(Step{Op: OpDistinct, By: by, Where: where}, 1)[0]
}

// Group adds the number columns up over all rows with the same key that satisfy where. The result is in the frame of by:
// last is the number 1 in one row of each key, else 0; that row has the number of rows and the sums of the columns, and
// all other rows have zeros.
func (p *Program) Group(by []string, where string, columns ...string) (last, count string, sums []string) {
	out := p.add(Step{Op: OpGroup, By: by, Where: where, In: columns}, 2+len(columns))
	return out[0], out[1], out[2:]
}
