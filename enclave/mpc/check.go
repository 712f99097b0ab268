package mpc

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// Type is what Check finds out about a column.
type Type struct {
	Kind  Kind
	Bound int64  // the most |x| can be: of a number, or of the number that a word was made of; 0 for other words
	Frame string // columns with the same frame have the same rows in the same order
	Rows  int64
}

// Bits is how many bits of two's complement hold the number, or how many bits of a word vary.
func (t Type) Bits() int {
	if t.Bound == 0 {
		return 64
	}
	return bits.Len64(uint64(t.Bound)) + 1
}

// Check types every column of the program, in order, or says what is wrong with the first step that is. A program that
// passes cannot fail at a node but by a fault, and its numbers cannot overflow.
func (p *Program) Check() (map[string]Type, error) {
	c := checker{types: map[string]Type{}, rows: map[string]int64{}}
	for _, t := range p.Tables {
		if err := c.table(t); err != nil {
			return nil, fmt.Errorf("checking program: table %q: %w", t.Name, err)
		}
	}
	for i, s := range p.Steps {
		if err := c.step(s); err != nil {
			return nil, fmt.Errorf("checking program: step %d (%s): %w", i, s.Op, err)
		}
	}
	for _, r := range p.Releases {
		if err := c.release(r); err != nil {
			return nil, fmt.Errorf("checking program: release %q: %w", r.Name, err)
		}
	}
	for _, r := range p.Keys {
		if err := c.keys(r); err != nil {
			return nil, fmt.Errorf("checking program: key release %q: %w", r.Name, err)
		}
	}
	return c.types, nil
}

type checker struct {
	types map[string]Type
	rows  map[string]int64 // by frame
}

func (c *checker) table(t Table) error {
	if _, taken := c.rows[t.Name]; taken || t.Name == "" {
		return errors.New("needs a name of its own")
	}
	if t.Rows < 0 || t.Rows > MaxRows {
		return fmt.Errorf("%d rows are not between 0 and %d", t.Rows, MaxRows)
	}
	c.rows[t.Name] = t.Rows
	for _, col := range t.Columns {
		if col.Kind != Number && col.Kind != Word {
			return fmt.Errorf("column %q of kind %q: tables have numbers and words", col.Name, col.Kind)
		}
		if col.Kind == Number && (col.Bound < 1 || col.Bound > MaxInput) {
			return fmt.Errorf("column %q: bound %d is not between 1 and %d", col.Name, col.Bound, int64(MaxInput))
		}
		if err := c.define(t.Name+"."+col.Name, Type{col.Kind, col.Bound, t.Name, t.Rows}); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) define(name string, t Type) error {
	if _, taken := c.types[name]; taken || name == "" {
		return fmt.Errorf("column %q needs a name of its own", name)
	}
	c.types[name] = t
	return nil
}

func (c *checker) find(name string, kind Kind) (Type, error) {
	t, ok := c.types[name]
	switch {
	case !ok:
		return t, fmt.Errorf("no column %q so far", name)
	case kind != "" && t.Kind != kind:
		return t, fmt.Errorf("column %q is a %s where a %s is needed", name, t.Kind, kind)
	}
	return t, nil
}

// flag finds a number that is 0 or 1.
func (c *checker) flag(name string) (Type, error) {
	t, err := c.find(name, Number)
	if err == nil && t.Bound != 1 {
		err = fmt.Errorf("column %q may be up to %d where 0 or 1 is needed", name, t.Bound)
	}
	return t, err
}

// together finds columns of one kind ("" = any) in one frame, at least least of them.
func (c *checker) together(least int, kind Kind, names ...string) ([]Type, error) {
	if len(names) < least {
		return nil, fmt.Errorf("%d columns where %d are needed", len(names), least)
	}
	out := make([]Type, len(names))
	for i, n := range names {
		t, err := c.find(n, kind)
		if err != nil {
			return nil, err
		}
		if i > 0 && t.Frame != out[0].Frame {
			return nil, fmt.Errorf("columns %q and %q belong to different frames (%s and %s)", names[0], n, out[0].Frame, t.Frame)
		}
		out[i] = t
	}
	return out, nil
}

var arity = map[Op]int{OpMul: 2, OpLess: 2, OpEqual: 2, OpAnd: 2, OpOr: 2, OpXor: 2, OpNot: 1, OpBit: 1, OpNumber: 1, OpSelect: 3, OpWord: 1}

func (c *checker) step(s Step) error {
	var out []Type
	var err error
	switch s.Op {
	case OpConstant:
		out, err = c.constant(s)
	case OpLinear:
		out, err = c.linear(s)
	case OpJoin:
		out, err = c.join(s)
	case OpSort:
		out, err = c.sorted(s)
	case OpDistinct, OpGroup:
		out, err = c.group(s)
	default:
		if n, ok := arity[s.Op]; !ok {
			err = errors.New("no such operation")
		} else if len(s.In) != n {
			err = fmt.Errorf("%d columns where %d are needed", len(s.In), n)
		} else {
			out, err = c.rowwise(s)
		}
	}
	if err != nil {
		return err
	}
	if len(out) != len(s.Out) {
		return fmt.Errorf("makes %d columns and names %d", len(out), len(s.Out))
	}
	for i, t := range out {
		if err := c.define(s.Out[i], t); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) constant(s Step) ([]Type, error) {
	rows, ok := c.rows[s.Frame]
	if !ok {
		return nil, fmt.Errorf("no table %q", s.Frame)
	}
	if len(s.Const) != 1 || abs(s.Const[0]) > MaxInput {
		return nil, fmt.Errorf("needs one constant within ±%d", int64(MaxInput))
	}
	return []Type{{Number, max(1, abs(s.Const[0])), s.Frame, rows}}, nil
}

func (c *checker) linear(s Step) ([]Type, error) {
	in, err := c.together(1, Number, s.In...)
	if err != nil {
		return nil, err
	}
	if len(s.Const) != len(s.In)+1 {
		return nil, fmt.Errorf("%d constants for %d columns and the constant term", len(s.Const), len(s.In))
	}
	total := magnitude(s.Const[0])
	for i, t := range in {
		total = plus(total, times(magnitude(s.Const[i+1]), uint64(t.Bound)))
	}
	return one(in[0], total)
}

// one is a number in the frame of t, if it cannot overflow.
func one(t Type, bound uint64) ([]Type, error) {
	if bound > MaxBound {
		return nil, fmt.Errorf("the result may exceed ±%d", int64(MaxBound))
	}
	return []Type{{Number, max(1, int64(bound)), t.Frame, t.Rows}}, nil
}

func (c *checker) rowwise(s Step) ([]Type, error) {
	in, err := c.together(1, "", s.In...)
	if err != nil {
		return nil, err
	}
	bit := []Type{{Kind: Bit, Frame: in[0].Frame, Rows: in[0].Rows}}
	kind := Number
	switch s.Op {
	case OpAnd, OpOr, OpXor, OpNot, OpNumber:
		kind = Bit
	case OpLess, OpEqual:
		if kind = in[0].Kind; kind == Bit {
			return nil, fmt.Errorf("column %q is a bit: use and, or, xor, not", s.In[0])
		}
	}
	for _, name := range s.In {
		if _, err := c.find(name, kind); err != nil {
			return nil, err
		}
	}
	switch s.Op {
	case OpMul:
		return one(in[0], times(uint64(in[0].Bound), uint64(in[1].Bound)))
	case OpSelect:
		if _, err := c.flag(s.In[0]); err != nil {
			return nil, err
		}
		return one(in[0], uint64(max(in[1].Bound, in[2].Bound)))
	case OpNumber:
		return one(in[0], 1)
	case OpWord:
		return []Type{{Word, in[0].Bound, in[0].Frame, in[0].Rows}}, nil
	default:
		return bit, nil
	}
}

// where checks a filter beside columns of a frame.
func (c *checker) where(name, frame string) error {
	if name == "" {
		return nil
	}
	t, err := c.flag(name)
	if err == nil && t.Frame != frame {
		err = fmt.Errorf("filter %q belongs to frame %s, not %s", name, t.Frame, frame)
	}
	return err
}

func (c *checker) join(s Step) ([]Type, error) {
	on, err := c.together(1, Word, s.On...)
	if err != nil {
		return nil, err
	}
	by, err := c.together(1, Word, s.By...)
	if err != nil {
		return nil, err
	}
	if len(on) != len(by) {
		return nil, fmt.Errorf("%d key columns on one side and %d on the other", len(on), len(by))
	}
	if err := c.where(s.Where, on[0].Frame); err != nil {
		return nil, err
	}
	if on[0].Rows+by[0].Rows > MaxRows {
		return nil, fmt.Errorf("%d rows together are more than %d", on[0].Rows+by[0].Rows, MaxRows)
	}
	in, err := c.together(0, Number, s.In...)
	if err != nil {
		return nil, err
	}
	out := []Type{{Number, 1, by[0].Frame, by[0].Rows}}
	for i, t := range in {
		if t.Frame != on[0].Frame {
			return nil, fmt.Errorf("column %q is not beside the keys %q that are looked up", s.In[i], s.On)
		}
		out = append(out, Type{Number, t.Bound, by[0].Frame, by[0].Rows})
	}
	return out, nil
}

func (c *checker) sorted(s Step) ([]Type, error) {
	by, err := c.together(1, Word, s.By...)
	if err != nil {
		return nil, err
	}
	in, err := c.together(1, "", append(slices.Clone(s.By), s.In...)...)
	if err != nil {
		return nil, err
	}
	if len(s.Out) == 0 {
		return nil, errors.New("sorts no column")
	}
	frame := "sorted:" + s.Out[0]
	c.rows[frame] = by[0].Rows
	out := slices.Clone(in[len(by):])
	for i := range out {
		if out[i].Kind == Bit {
			return nil, fmt.Errorf("column %q is a bit: make it a number first", s.In[i])
		}
		out[i].Frame = frame
	}
	return out, nil
}

func (c *checker) group(s Step) ([]Type, error) {
	by, err := c.together(1, Word, s.By...)
	if err != nil {
		return nil, err
	}
	if err := c.where(s.Where, by[0].Frame); err != nil {
		return nil, err
	}
	out := []Type{{Number, 1, by[0].Frame, by[0].Rows}}
	if s.Op == OpDistinct {
		if len(s.In) > 0 {
			return nil, errors.New("takes no columns but the key")
		}
		return out, nil
	}
	out = append(out, Type{Number, max(1, by[0].Rows), by[0].Frame, by[0].Rows})
	for _, name := range s.In {
		t, err := c.find(name, Number)
		if err != nil {
			return nil, err
		}
		if t.Frame != by[0].Frame {
			return nil, fmt.Errorf("column %q is not beside the keys %q", name, s.By)
		}
		sum, err := one(t, times(uint64(t.Bound), uint64(t.Rows)))
		if err != nil {
			return nil, fmt.Errorf("sum of column %q: %w", name, err)
		}
		out = append(out, sum[0])
	}
	return out, nil
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

func abs(v int64) int64 { return max(v, -v) }

// plus and times saturate.
func plus(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

func times(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi != 0 {
		return math.MaxUint64
	}
	return lo
}
