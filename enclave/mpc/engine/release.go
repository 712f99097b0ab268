package engine

import (
	"context"
	"fmt"
	"math/big"
	"math/bits"

	"yingzhou.dev/lab/enclave/mpc"
)

// release opens noised counts, and computes the rest for the cells that reach the minimum alone: of the others nothing
// exists that could be opened.
func (j *job) release(ctx context.Context, r mpc.Release) (out mpc.ReleaseOutput, err error) {
	name := fmt.Sprintf("release %q", r.Name)
	if err := j.at(ctx, name+": counts"); err != nil {
		return out, err
	}
	c := cells{job: j, who: r.Who, frame: r.Frame}
	for i := range max(1, len(r.Cells)) {
		c.at = append(c.at, i)
	}
	c.names = r.Cells
	counts := c.counts()
	j.noised(counts, r.Count, c.questions("count", r.Count, nil, ""))
	out = mpc.ReleaseOutput{Name: r.Name, Sums: [][]mpc.Pair{}, Quantiles: [][][]int64{}}
	for _, v := range j.openNumbers(counts) {
		out.Counts = append(out.Counts, int64(v))
		out.Kept = append(out.Kept, int64(v) >= r.MinCount)
	}
	kept := c.only(out.Kept)
	for i, s := range r.Sums {
		if err := j.at(ctx, fmt.Sprintf("%s: sum %d", name, i)); err != nil {
			return out, err
		}
		sums := kept.sums(j.column(s.Column))
		j.noised(sums, s.Noise, kept.questions("sum", s.Noise, nil, s.Column))
		out.Sums = append(out.Sums, kept.pairs(sums, len(out.Kept)))
	}
	for i, q := range r.Quantiles {
		if err := j.at(ctx, fmt.Sprintf("%s: quantile %d", name, i)); err != nil {
			return out, err
		}
		out.Quantiles = append(out.Quantiles, kept.quantile(q, out.Counts))
	}
	return out, nil
}

// cells are the cells of a release, or those of them that are kept. Without names there is one, of all rows.
type cells struct {
	*job
	who, frame string
	names      []string
	at         []int // which of the release's cells
}

func (c *cells) only(kept []bool) *cells {
	out := &cells{job: c.job, who: c.who, frame: c.frame}
	for i, k := range kept {
		if k {
			out.at = append(out.at, i)
			if len(c.names) > 0 {
				out.names = append(out.names, c.names[i])
			}
		}
	}
	return out
}

// counts is the number of rows of who in each cell.
func (c *cells) counts() share {
	switch {
	case c.who != "":
		return c.sums(c.column(c.who))
	case len(c.names) > 0:
		return total(c.columns(c.names))
	}
	return c.public([]uint64{uint64(c.types[c.frame].Rows)})
}

// sums is Σ x in each cell.
func (c *cells) sums(x share) share {
	switch {
	case len(c.at) == 0:
		return newShare(0)
	case len(c.names) == 0:
		return total([]share{x})
	}
	return c.inner(c.columns(c.names), x)
}

// questions names what is asked of each cell: a column's sum there among the rows of who.
func (c *cells) questions(what string, n mpc.Noise, numbers []int64, column string) []mpc.Digest {
	out := make([]mpc.Digest, len(c.at))
	for i := range out {
		cell := c.frame
		if len(c.names) > 0 {
			cell = c.names[i]
		}
		var number []int64
		if numbers != nil {
			number = numbers[i : i+1]
		}
		out[i] = c.job.questions.Value(what, n, number, column, c.who, cell)
	}
	return out
}

// pairs puts the values of these cells in their places among so many.
func (c *cells) pairs(x share, all int) []mpc.Pair {
	out := make([]mpc.Pair, all)
	for i, at := range c.at {
		out[at] = mpc.Pair{x.a[i], x.b[i]}
	}
	return out
}

// quantile bisects the range for every cell and fraction at once. A step compares every row with the middle of what is
// left for its cell, a number that everybody knows, and opens how many rows of each cell are below, with noise.
func (c *cells) quantile(q mpc.Quantile, counts []int64) [][]int64 {
	steps := q.Steps()
	out := make([][]int64, len(q.Fractions))
	low := make([][]int64, len(q.Fractions)) // in units; the answer is above low and at most low + 2^(steps left)
	for f := range q.Fractions {
		out[f] = make([]int64, len(counts))
		low[f] = make([]int64, len(c.at))
	}
	if len(c.at) == 0 {
		return out
	}
	beyond := q.Min + q.Unit<<steps
	x, bound := c.column(q.Column), c.types[q.Column].Bound
	if c.who != "" { // rows that do not count are never below
		who := c.column(c.who)
		rest := c.linear(uint64(beyond), []int64{-beyond}, who)
		x = plus(c.mul(x, who), rest)
	}
	bound = max(bound, beyond, -q.Min)
	width := bits.Len64(uint64(bound)+uint64(max(beyond, -q.Min))) + 1
	for s := steps - 1; s >= 0; s-- {
		c.bisect(q, x, width, 1<<s, counts, low)
	}
	for f := range low {
		for i, at := range c.at {
			out[f][at] = min(q.Max, q.Min+q.Unit*(low[f][i]+1))
		}
	}
	return out
}

func (c *cells) bisect(q mpc.Quantile, x share, width int, half int64, counts []int64, low [][]int64) {
	each := q.Each()
	var below []share
	var questions []mpc.Digest
	for f := range q.Fractions {
		middle := make([]int64, len(c.at))
		for i := range middle {
			middle[i] = q.Min + q.Unit*(low[f][i]+half)
		}
		less := c.negative(sub(x, c.perCell(middle, x.len())), width)
		below = append(below, c.sums(c.numbers(less, x.len())))
		questions = append(questions, c.questions("below", each, middle, q.Column)...)
	}
	all := concat(below)
	c.noised(all, each, questions)
	opened := c.openNumbers(all)
	for f, fraction := range q.Fractions {
		for i, at := range c.at {
			rank, target := big.NewInt(int64(opened[f*len(c.at)+i])), big.NewInt(counts[at])
			if rank.Mul(rank, big.NewInt(1_000_000)).Cmp(target.Mul(target, big.NewInt(fraction))) < 0 {
				low[f][i] += half
			}
		}
	}
}

// perCell is, in every row, the number of the row's cell: no message.
func (c *cells) perCell(numbers []int64, rows int) share {
	if len(c.names) == 0 {
		x := newShare(rows)
		c.constant(x, uint64(numbers[0]))
		return x
	}
	return c.linear(0, numbers, c.columns(c.names)...)
}
