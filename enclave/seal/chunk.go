package seal

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/seal/schema"
)

// chunk holds N encoded rows, column by column: all of the table that is in memory.
type chunk struct {
	rows    int
	index   [][]int32
	value   [][]int64
	present [][]bool
	entity  []uint64 // pseudonyms, where shares are sealed
}

func newChunk(cols []enclave.Column, n int) *chunk {
	c := &chunk{entity: make([]uint64, n)}
	for range cols {
		c.index = append(c.index, make([]int32, n))
		c.value = append(c.value, make([]int64, n))
		c.present = append(c.present, make([]bool, n))
	}
	return c
}

func (c *chunk) add(r schema.Record, entity uint64) {
	c.entity[c.rows] = entity
	for i := range c.index {
		c.index[i][c.rows], c.value[i][c.rows], c.present[i][c.rows] = r.Index[i], r.Value[i], r.Present[i]
	}
	c.rows++
}

// valueOf computes a vector's values of a chunk's rows into out, which has N elements; padding rows get 0.
type valueOf func(c *chunk, out []int64)

// valueOf compiles a vector's name: a moment of the columns, or an indicator of an axis.
func (s *sealing) valueOf(st *layoutState, name string) (valueOf, error) {
	if st.Kind == enclave.Shares {
		if value, ok := s.shareOf(name); ok {
			return value, nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "i:"); ok {
		cut := strings.LastIndexByte(rest, ':')
		k, err := strconv.ParseInt(rest[cut+1:], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("sealing: vector %q is not an indicator", name)
		}
		for i, axis := range st.Axes {
			if strings.Join(axis, ",") == rest[:cut] {
				return indicator(st.axes[i], k), nil
			}
		}
		return nil, fmt.Errorf("sealing: vector %q is an indicator of no axis", name)
	}
	letter, names := enclave.Moment(name).Split()
	var at []int
	most := big.NewInt(1) // largest |value| of one row
	for _, n := range names {
		i, c := s.column(n)
		at = append(at, i)
		switch reach := big.NewInt(c.Reach()); letter {
		case "s", "p":
			most.Mul(most, reach)
		case "q":
			most.Mul(reach, reach)
		}
	}
	// By the declared bounds, not by the rows: what a table holds shows neither in a refusal nor in its absence.
	if most.Cmp(big.NewInt(s.limit())) > 0 {
		return nil, fmt.Errorf("sealing vector %q: %w: one row may reach 2^%d; declare fewer decimals or narrower bounds, or choose a wider set", name, s.tooWide(), most.BitLen()-1)
	}
	return moment(letter, at), nil
}

// limit is the largest |value| of a plaintext slot or coefficient.
func (s *sealing) limit() int64 { return int64(s.cfg.Params.Set.T / 2) }

func (s *sealing) tooWide() error {
	return fmt.Errorf("%w ±%d of parameter set %s", ErrTooWide, s.limit(), s.cfg.Params.Set.Name)
}

func indicator(a axis, k int64) valueOf {
	want := make([]int32, len(a.cols))
	for i := len(a.cols) - 1; i >= 0; i-- {
		want[i], k = int32(k%a.size[i]), k/a.size[i]
	}
	return func(c *chunk, out []int64) {
		clear(out)
		for r := range c.rows {
			hit := int64(1)
			for i, col := range a.cols {
				if c.index[col][r] != want[i] {
					hit = 0
				}
			}
			out[r] = hit
		}
	}
}

func moment(letter string, at []int) valueOf {
	return func(c *chunk, out []int64) {
		clear(out)
		switch {
		case letter == "n" && len(at) == 0:
			for r := range c.rows {
				out[r] = 1
			}
		case letter == "n":
			for r, here := range c.present[at[0]][:c.rows] {
				if here {
					out[r] = 1
				}
			}
		case letter == "s":
			copy(out, c.value[at[0]][:c.rows])
		case letter == "q":
			for r, x := range c.value[at[0]][:c.rows] {
				out[r] = x * x
			}
		case letter == "p":
			y := c.value[at[1]]
			for r, x := range c.value[at[0]][:c.rows] {
				out[r] = x * y[r]
			}
		default:
			panic("seal: unknown moment " + letter)
		}
	}
}

// sealChunk seals the chunk's part of every rows vector and adds it to the cubes. Vectors are independent, so they are
// dealt to the sealers one by one.
func (s *sealing) sealChunk(c *chunk) error {
	type job struct {
		st *layoutState
		v  int
	}
	var jobs []job
	for _, st := range s.layouts {
		for v := range st.vectors {
			jobs = append(jobs, job{st, v})
		}
	}
	cells := map[*layoutState][]int64{}
	for _, st := range s.layouts {
		if st.Kind == enclave.Cube {
			cells[st] = st.cells(c)
		}
	}
	for _, st := range s.layouts {
		st.rows += int64(c.rows)
	}
	var next atomic.Int64
	var g errgroup.Group
	for _, sealer := range s.sealers {
		g.Go(func() error {
			values, out := make([]int64, s.cfg.Params.N()), make([]uint64, s.cfg.Params.Words())
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return nil
				}
				st, v := jobs[i].st, jobs[i].st.vectors[jobs[i].v]
				v.value(c, values)
				if st.Kind == enclave.Shares {
					if err := v.share.Add(values[:c.rows]); err != nil {
						return err
					}
					continue
				}
				if st.Kind == enclave.Cube {
					if err := addTo(st.totals[jobs[i].v], cells[st], values); err != nil {
						return fmt.Errorf("sealing vector %q: %w", v.name, err)
					}
					continue
				}
				if err := v.seal(sealer, values, out, sealer.Slots); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// farOut is well beyond every plaintext range and yet one row's value (valueOf) away from overflow of int64.
const farOut = 1 << 62

// addTo adds the rows of a chunk to the totals of their cells.
func addTo(totals, cells, values []int64) error {
	for r, k := range cells {
		if totals[k] += values[r]; totals[k] > farOut || totals[k] < -farOut {
			return fmt.Errorf("%w of 62 bits: the total of a cell is beyond it; divide the cube by more columns, or declare fewer decimals or narrower bounds", ErrTooWide)
		}
	}
	return nil
}

// cells finds every row's cell of a cube.
func (st *layoutState) cells(c *chunk) []int64 {
	out := make([]int64, c.rows)
	a := st.axes[0]
	for i, col := range a.cols {
		idx := c.index[col]
		for r := range out {
			out[r] = out[r]*a.size[i] + int64(idx[r])
		}
	}
	return out
}

func (v *vectorState) seal(sealer *he.Sealer, values []int64, out []uint64, how func(int64, []int64, []uint64) error) error {
	sealer.Reset(v.seed)
	if err := how(v.chunks, values, out); err != nil {
		return fmt.Errorf("vector %q: %w", v.name, err)
	}
	v.chunks++
	if err := evaluator.WriteChunk(v.w, out); err != nil {
		return fmt.Errorf("sealing vector %q: %w", v.name, err)
	}
	return nil
}

// sealCubes encrypts the totals once the table has been read.
func (s *sealing) sealCubes() error {
	type job struct {
		v      *vectorState
		totals []int64
	}
	var jobs []job
	for _, st := range s.layouts {
		for i, totals := range st.totals {
			if slices.Max(totals) > s.limit() || slices.Min(totals) < -s.limit() {
				return fmt.Errorf("sealing vector %q: %w: the total of a cell is beyond it; divide the cube by more columns, declare fewer decimals or narrower bounds, or choose a wider set", st.vectors[i].name, s.tooWide())
			}
			jobs = append(jobs, job{st.vectors[i], totals})
		}
	}
	var next atomic.Int64
	var g errgroup.Group
	for _, sealer := range s.sealers {
		g.Go(func() error {
			out := make([]uint64, s.cfg.Params.Words())
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return nil
				}
				j := jobs[i]
				n := s.cfg.Params.N()
				for at := 0; at < len(j.totals); at += n {
					if err := j.v.seal(sealer, j.totals[at:min(at+n, len(j.totals))], out, sealer.Cells); err != nil {
						return err
					}
				}
			}
		})
	}
	return g.Wait()
}
