package program

import (
	"fmt"
	"math/big"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
)

// precision of every estimate, in bits. Opened integers stay below 2^63, so products of two of them and their differences,
// where variances lose their leading digits, are exact.
const precision = 192

func float() *big.Float          { return new(big.Float).SetPrec(precision) }
func integer(v int64) *big.Float { return float().SetInt64(v) }
func power(exp int64) *big.Float {
	return float().SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(exp), nil))
}
func root(x *big.Float) *big.Float { return float().Sqrt(x) }

func scale(p *enclave.Plan, measure int) dp.Scale {
	me := p.Measures[measure]
	return dp.LaplaceScale(p.EntityRows, me.Delta, me.EpsilonMicro)
}

// JointPieces is what Keep and Tabulate take for pieces in a joint plan, whose noise is that of three nodes' parts. Any
// number but 0, which is no noise, means the same.
const JointPieces = 3

// StdDev is the standard deviation of the noise on each opened value of a measure, in encoded units: the sum of one
// discrete Laplace sample per piece. With no pieces there is no noise, as in package reference.
func StdDev(p *enclave.Plan, measure, pieces int) float64 {
	f, _ := root(variance(p, measure, pieces)).Float64()
	return f
}

// variance is pieces / (2·sinh²(1/2b)), the variance of a sum of discrete Laplace variables of scale b. Package dp has
// the same figure in float64 for people; hyperbolic functions there differ in the last bit between architectures.
func variance(p *enclave.Plan, measure, pieces int) *big.Float {
	if pieces == 0 {
		return float()
	}
	if p.Joint != nil {
		return jointVariance(p, measure)
	}
	return laplace(scale(p, measure), integer(int64(pieces)))
}

// jointVariance is that of three nodes' parts, dp.LaplacePart.Variance in fixed precision.
func jointVariance(p *enclave.Plan, measure int) *big.Float {
	return partVariance(jointPart(p, measure))
}

func jointPart(p *enclave.Plan, measure int) dp.LaplacePart {
	me := p.Measures[measure]
	return dp.NewLaplacePart(p.EntityRows, me.Delta, me.EpsilonMicro)
}

func partVariance(part dp.LaplacePart) *big.Float {
	grain := float().Mul(integer(part.Grain), integer(part.Grain))
	polya := float().Mul(grain, laplace(part.Scale, float().Quo(integer(3), integer(2))))
	uniform := float().Quo(float().Sub(grain, integer(1)), integer(4))
	return polya.Add(polya, uniform)
}

// laplace is times the variance of a discrete Laplace variable.
func laplace(b dp.Scale, times *big.Float) *big.Float {
	x := float().Quo(float().SetInt(b.Den), float().SetInt(new(big.Int).Lsh(b.Num, 1)))
	if x.Cmp(integer(precision)) > 0 { // less than 2^-precision
		return float()
	}
	s := sinh(x)
	s.Mul(s, s)
	s.Mul(s, integer(2))
	return s.Quo(times, s)
}

// sinh sums the Taylor series, of positive terms only, until they no longer count.
func sinh(x *big.Float) *big.Float {
	square := float().Mul(x, x)
	sum, term := float().Set(x), float().Set(x)
	for k := int64(2); term.MantExp(nil) >= sum.MantExp(nil)-precision; k += 2 {
		term.Mul(term, square)
		term.Quo(term, integer(k*(k+1)))
		sum.Add(sum, term)
	}
	return sum
}

// checkNoise refuses measures for which no noise is defined.
func checkNoise(p *enclave.Plan) error {
	for i, me := range p.Measures {
		if p.EntityRows <= 0 || me.Delta <= 0 || me.EpsilonMicro <= 0 {
			return fmt.Errorf("measure %d (%q) has entity rows %d, sensitivity %d and ε %d·10⁻⁶: all must be positive",
				i, me.Moment, p.EntityRows, me.Delta, me.EpsilonMicro)
		}
	}
	return nil
}
