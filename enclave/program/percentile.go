package program

import (
	"math/big"
	"slices"
)

// percentile interpolates linearly in the cumulative counts of the declared bins, as for grouped data. Noise makes single
// counts negative; the cumulative counts are therefore first replaced by the nearest non-decreasing ones, from 0 to the
// total (Hay, Rastogi, Miklau and Suciu, "Boosting the Accuracy of Differentially Private Histograms Through
// Consistency", VLDB 2010; Barlow et al., 1972, for isotonic regression). Setting negative counts to zero instead would
// add people to every sparse bin and pull percentiles towards the long tail.
//
// The standard error is the delta method's with the slope of the distribution function taken over the reach of the noise
// rather than at a point: half the distance between the percentiles at p·T ± s, where s is the standard error of
// p·T − F(x) and T the total (Woodruff, "Confidence Intervals for Medians and Other Position Measures", JASA 1952). In a
// wide bin that is s divided by the bin's density; where bins are finer than the noise, one bin's density would be noise
// itself. Where x lies within its bin is unknown and no part of it.
//
// A percentile is withheld if fewer people lie on either side of it than s or than the deviation of a single bin: an
// empty first or last bin may then hold it by noise alone.
func (c *cell) percentile(f formula) figure {
	x, me := f.x(), c.bins[f.x().Name]
	bins := c.opened.bins(c.index, me)
	h := newHistogram(bins, x.Bins)
	target := float().Mul(h.total(), integer(f.micro))
	target.Quo(target, integer(1_000_000))
	if h.total().Sign() <= 0 {
		c.fail("the total of the bins of %q is not above zero", x.Name)
		return figure{}
	}
	v, at, within := h.quantile(target)
	s2 := h.variance(f.micro, at, within)
	s2.Mul(s2, c.noise[me])
	s := root(s2)
	rest := float().Sub(h.total(), target)
	if least := larger(s, root(c.noise[me])); target.Cmp(least) < 0 || rest.Cmp(least) < 0 {
		c.fail("the noise does not tell this percentile of %q from its least or greatest value", x.Name)
		return figure{}
	}
	below, _, _ := h.quantile(float().Sub(target, s))
	high := float().Add(target, s)
	if high.Cmp(h.total()) > 0 { // by rounding
		high = h.total()
	}
	above, _, _ := h.quantile(high)
	half := float().Sub(above, below)
	half.Quo(half, float().Mul(integer(2), power(x.Scale)))
	return figure{v: v.Quo(v, power(x.Scale)), variance: half.Mul(half, half), decimals: x.Scale + 2}
}

func larger(a, b *big.Float) *big.Float {
	if a.Cmp(b) > 0 {
		return a
	}
	return b
}

// histogram is a distribution function over the bins that WHERE left in, in scaled units. A bin that is left out has
// neither people nor noise; the function jumps over it.
type histogram struct {
	from, to []int64      // edges of each bin
	cum      []*big.Float // cum[i] people below bin i, non-decreasing; cum[len(from)] is the total
}

func newHistogram(bins []bin, edges []int64) *histogram {
	h := &histogram{cum: []*big.Float{float()}}
	sum := float()
	for _, b := range bins {
		h.from, h.to = append(h.from, edges[b.index]), append(h.to, edges[b.index+1])
		sum = float().Add(sum, integer(b.value))
		h.cum = append(h.cum, sum)
	}
	copy(h.cum[1:], isotonic(h.cum[1:len(bins)], sum))
	return h
}

func (h *histogram) total() *big.Float { return h.cum[len(h.cum)-1] }

// quantile is the least x with F(x) = target, for 0 ≤ target ≤ total and total > 0; the bin where it lies and how far
// into it, from 0 to 1.
func (h *histogram) quantile(target *big.Float) (x *big.Float, at int, within *big.Float) {
	for at = range h.from {
		if h.cum[at+1].Cmp(target) >= 0 && h.cum[at+1].Cmp(h.cum[at]) > 0 {
			break
		}
	}
	within = float().Sub(target, h.cum[at])
	within.Quo(within, float().Sub(h.cum[at+1], h.cum[at]))
	x = float().Mul(within, integer(h.to[at]-h.from[at]))
	return x.Add(x, integer(h.from[at])), at, within
}

// variance of p·T − F(x) in units of one bin's: Σ (p − share of the bin below x)².
func (h *histogram) variance(micro int64, at int, within *big.Float) *big.Float {
	p := float().Quo(integer(micro), integer(1_000_000))
	sum := float()
	for i := range h.from {
		a := float().Set(p)
		switch {
		case i < at:
			a.Sub(a, integer(1))
		case i == at:
			a.Sub(a, within)
		}
		sum.Add(sum, a.Mul(a, a))
	}
	return sum
}

// isotonic is the non-decreasing sequence within [0, most] that is nearest to y in least squares: pool adjacent
// violators, then clip (clipping the unbounded solution solves the bounded problem).
func isotonic(y []*big.Float, most *big.Float) []*big.Float {
	type pool struct {
		sum *big.Float
		n   int64
	}
	mean := func(p pool) *big.Float { return float().Quo(p.sum, integer(p.n)) }
	var pools []pool
	for _, v := range y {
		p := pool{float().Set(v), 1}
		for len(pools) > 0 && mean(pools[len(pools)-1]).Cmp(mean(p)) >= 0 {
			last := pools[len(pools)-1]
			p = pool{float().Add(last.sum, p.sum), last.n + p.n}
			pools = pools[:len(pools)-1]
		}
		pools = append(pools, p)
	}
	var out []*big.Float
	for _, p := range pools {
		v := mean(p)
		if v.Sign() < 0 {
			v = float()
		} else if v.Cmp(most) > 0 {
			v = most
		}
		out = append(out, slices.Repeat([]*big.Float{v}, int(p.n))...)
	}
	return out
}
