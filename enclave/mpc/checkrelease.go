package mpc

import (
	"errors"
	"fmt"
	"math/big"
)

// MaxCells bounds the cells of a release.
const MaxCells = 1 << 16

// tailBits is how unlikely noise leaves the range of a number: 2^−64.
const tailBits = 64

// maxScale is the largest scale of a Polya sample, which takes about as many steps.
const maxScale = 1 << 21

// check makes sure that a value within ±bound and its noise are a number.
func (n Noise) check(bound uint64) error {
	if n.Rows < 1 || n.Delta < 1 || n.EpsilonMicro < 1 {
		return fmt.Errorf("rows %d, sensitivity %d and ε %d·10⁻⁶ must be positive", n.Rows, n.Delta, n.EpsilonMicro)
	}
	// b = m·Δ/ε and a tail of some fifty b: far from what NewLaplacePart refuses.
	if scale := times(times(uint64(n.Rows), uint64(n.Delta)), 1_000_000) / uint64(n.EpsilonMicro); scale > MaxBound>>8 {
		return fmt.Errorf("noise of scale %d is too wide", scale)
	}
	part := n.Part()
	if b := new(big.Int).Quo(part.Scale.Num, part.Scale.Den); b.Cmp(big.NewInt(maxScale)) > 0 {
		return fmt.Errorf("noise of scale %d takes too long to draw: ε %d·10⁻⁶ is too small, or %d rows of one entity are too many", b, n.EpsilonMicro, n.Rows)
	}
	if tail := part.TailBound(tailBits); !tail.IsUint64() || plus(bound, tail.Uint64()) > MaxBound {
		return fmt.Errorf("values up to %d and their noise may exceed ±%d", bound, int64(MaxBound))
	}
	return nil
}

// rows names a column of the frame of a release.
func (r *Release) rows() string {
	switch {
	case r.Who != "":
		return r.Who
	case len(r.Cells) > 0:
		return r.Cells[0]
	}
	return r.Frame
}

func (c *checker) release(r Release) error {
	at, err := c.find(r.rows(), "")
	if err != nil {
		return err
	}
	if len(r.Cells) > MaxCells {
		return fmt.Errorf("%d cells are more than %d", len(r.Cells), MaxCells)
	}
	for _, name := range r.Cells {
		if err := c.where(name, at.Frame); err != nil {
			return fmt.Errorf("cell: %w", err)
		}
		if name == "" {
			return errors.New("a cell has no column")
		}
	}
	if err := c.where(r.Who, at.Frame); err != nil {
		return err
	}
	if err := r.Count.check(uint64(at.Rows)); err != nil {
		return fmt.Errorf("count: %w", err)
	}
	if err := c.sums(r.Sums, at); err != nil {
		return err
	}
	for i, q := range r.Quantiles {
		if err := c.quantile(q, at); err != nil {
			return fmt.Errorf("quantile %d: %w", i, err)
		}
	}
	return nil
}

func (c *checker) sums(sums []Sum, at Type) error {
	for _, s := range sums {
		t, err := c.find(s.Column, Number)
		if err == nil && t.Frame != at.Frame {
			err = fmt.Errorf("frame is %s, not %s", t.Frame, at.Frame)
		}
		if err == nil {
			err = s.Noise.check(times(uint64(t.Bound), uint64(max(1, t.Rows))))
		}
		if err != nil {
			return fmt.Errorf("sum of %q: %w", s.Column, err)
		}
	}
	return nil
}

func (c *checker) quantile(q Quantile, at Type) error {
	t, err := c.find(q.Column, Number)
	if err != nil {
		return err
	}
	if t.Frame != at.Frame {
		return fmt.Errorf("column %q belongs to frame %s, not %s", q.Column, t.Frame, at.Frame)
	}
	if q.Unit < 1 || q.Min >= q.Max || abs(q.Min) > MaxInput || abs(q.Max) > MaxInput || q.Unit > MaxInput {
		return fmt.Errorf("range from %d to %d in units of %d is empty or too wide", q.Min, q.Max, q.Unit)
	}
	if len(q.Fractions) == 0 {
		return errors.New("no fraction")
	}
	for _, f := range q.Fractions {
		if f < 1 || f > 999_999 {
			return fmt.Errorf("fraction %d·10⁻⁶ is not between 0 and 1", f)
		}
	}
	if err := q.Each().check(uint64(at.Rows)); err != nil {
		return fmt.Errorf("each of %d steps: %w", len(q.Fractions)*q.Steps(), err)
	}
	return nil
}

func (c *checker) keys(r KeyRelease) error {
	keys, err := c.together(1, Word, r.Keys...)
	if err != nil {
		return err
	}
	if r.Last == "" {
		return errors.New("no column says which rows are last of their key")
	}
	if err := c.where(r.Last, keys[0].Frame); err != nil {
		return err
	}
	count, err := c.find(r.Count, Number)
	if err != nil {
		return err
	}
	if count.Frame != keys[0].Frame {
		return fmt.Errorf("count %q belongs to frame %s, not %s", r.Count, count.Frame, keys[0].Frame)
	}
	if r.MinCount < 1 || r.MinCount > MaxInput || r.Limit < 0 {
		return fmt.Errorf("min count %d and limit %d: the one must be positive and at most %d, the other not negative", r.MinCount, r.Limit, int64(MaxInput))
	}
	if err := r.Noise.check(plus(uint64(count.Bound), uint64(r.MinCount))); err != nil {
		return err
	}
	for _, s := range r.Sums { // already summed: a row's value is opened, not a sum over rows
		t, err := c.find(s.Column, Number)
		if err == nil && t.Frame != keys[0].Frame {
			err = fmt.Errorf("frame is %s, not %s", t.Frame, keys[0].Frame)
		}
		if err == nil {
			err = s.Noise.check(uint64(t.Bound))
		}
		if err != nil {
			return fmt.Errorf("sum of %q: %w", s.Column, err)
		}
	}
	return nil
}
