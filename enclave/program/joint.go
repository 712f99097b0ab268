package program

import (
	"errors"
	"fmt"
	"math/big"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/internal/canon"
)

// FromResult reads what three nodes opened as the values of a joint plan: counts of every cell, and of the cells that
// were kept whatever else was asked. It checks that the nodes kept exactly the cells that Keep keeps.
func FromResult(p *enclave.Plan, prog *mpc.Program, cells []enclave.Cell, r *mpc.Result) (keep []bool, rules []string, values *Values, err error) {
	if len(prog.Releases) != 1 || len(r.Releases) != 1 {
		return nil, nil, nil, errors.New("reading the nodes' result: a plan has one release")
	}
	rel, asked := r.Releases[0], prog.Releases[0]
	if len(rel.Counts) != len(cells) || len(rel.Sums) != len(asked.Sums) || len(rel.Quantiles) != len(asked.Quantiles) {
		return nil, nil, nil, fmt.Errorf("reading the nodes' result: %d counts, %d sums, %d quantiles of %d cells, %d, %d", len(rel.Counts), len(rel.Sums), len(rel.Quantiles),
			len(cells), len(asked.Sums), len(asked.Quantiles))
	}
	keep, rules = Keep(p, JointPieces, cells, rel.Counts)
	for i := range keep {
		if keep[i] != rel.Kept[i] {
			return nil, nil, nil, fmt.Errorf("reading the nodes' result: cell %d is kept by one rule and not by the other", i)
		}
	}
	values = NewValues(len(cells), len(p.Measures))
	sum, quantile := 0, 0
	for m, me := range p.Measures {
		var of func(cell int) int64
		switch letter, _ := me.Moment.Split(); {
		case m == 0:
			of = func(cell int) int64 { return rel.Counts[cell] }
		case letter == "t":
			q, found := asked.Quantiles[quantile], rel.Quantiles[quantile][0]
			of = func(cell int) int64 { return found[cell] - q.Unit + (q.Unit-1)/2 } // the middle of the last unit below
			quantile++
		default:
			sums := rel.Sums[sum]
			of = func(cell int) int64 { return sums[cell] }
			sum++
		}
		for c := range cells {
			if m == 0 || keep[c] {
				values.Set(c, m, 0, of(c))
			}
		}
	}
	return keep, rules, values, nil
}

// bisections says how noisy each step of a joint plan's quantiles is, by moment; nil for other plans.
func bisections(p *enclave.Plan, pieces int) (map[enclave.Moment]*big.Float, error) {
	if p.Joint == nil {
		return nil, nil
	}
	var prog mpc.Program
	if err := canon.Unmarshal(p.Joint.Program, &prog); err != nil {
		return nil, fmt.Errorf("program of the plan: %w", err)
	}
	out := map[enclave.Moment]*big.Float{}
	if len(prog.Releases) != 1 {
		return nil, fmt.Errorf("program of the plan has %d releases, not one", len(prog.Releases))
	}
	quantiles := prog.Releases[0].Quantiles
	for _, me := range p.Measures {
		if letter, _ := me.Moment.Split(); letter != "t" {
			continue
		}
		if len(quantiles) == 0 {
			return nil, fmt.Errorf("program of the plan has no quantile for %q", me.Moment)
		}
		if out[me.Moment] = float(); pieces > 0 {
			out[me.Moment] = partVariance(quantiles[0].Each().Part())
		}
		quantiles = quantiles[1:]
	}
	return out, nil
}
