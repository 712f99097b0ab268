package mpc

import (
	"errors"
	"fmt"
)

// MaxCells bounds the cells of a release.
const MaxCells = 1 << 16

func (n Noise) check() error {
	if n.Sensitivity < 1 || n.EpsilonMicro < 1 {
		return fmt.Errorf("sensitivity %d and ε %d·10⁻⁶ must be positive", n.Sensitivity, n.EpsilonMicro)
	}
	return nil
}

// Rows is the frame of a release: that of Who, of its cells or of Frame.
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
	if err := r.Count.check(); err != nil {
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
			_, err = one(t, times(uint64(t.Bound), uint64(max(1, t.Rows))))
		}
		if err == nil {
			err = s.Noise.check()
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
	if q.Unit < 1 || q.Min >= q.Max || abs(q.Min) > MaxBound/4 || abs(q.Max) > MaxBound/4 || q.Unit > MaxBound/4 {
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
	if err := q.Noise.check(); err != nil {
		return err
	}
	if err := q.Each().check(); err != nil {
		return fmt.Errorf("ε for each of %d steps: %w", len(q.Fractions)*q.Steps(), err)
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
	if r.MinCount < 1 || r.MinCount > MaxBound/4 || r.Limit < 0 {
		return fmt.Errorf("min count %d and limit %d: the one must be positive and within ±2^60, the other not negative", r.MinCount, r.Limit)
	}
	if err := r.Noise.check(); err != nil {
		return err
	}
	for _, s := range r.Sums { // already summed: a row's value is opened, not a sum over rows
		t, err := c.find(s.Column, Number)
		if err == nil && t.Frame != keys[0].Frame {
			err = fmt.Errorf("frame is %s, not %s", t.Frame, keys[0].Frame)
		}
		if err == nil {
			err = s.Noise.check()
		}
		if err != nil {
			return fmt.Errorf("sum of %q: %w", s.Column, err)
		}
	}
	return nil
}
