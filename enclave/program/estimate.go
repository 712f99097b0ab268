package program

import (
	"fmt"
	"math/big"

	"yingzhou.dev/lab/enclave"
)

// clearance is how many standard errors a divisor must be above zero. Below that the delta method is no guide to the
// quotient: its neglected second-order term exceeds a quarter of the first.
const clearance = 4

// Decimals of figures without a unit of their own: a correlation, and a slope, whose size depends on two units.
const (
	ratioDecimals = 6
	slopeDecimals = 12
)

// cell evaluates functions at the opened values of one cell. The first figure that noise has made meaningless sets null,
// and what is computed after that counts for nothing.
type cell struct {
	*frame
	opened *Values
	index  int
	null   string
}

// figure is one number of the result: in declared units, with the variance that noise gives it and the most decimals
// that make sense.
type figure struct {
	v, variance *big.Float
	decimals    int64
}

// value computes one output that is not a label.
func (c *cell) value(f formula) enclave.Value {
	c.null = ""
	var val figure
	switch f.name {
	case "COUNT":
		n := c.rows(f.x())
		return writeCount(n.v, n.variance(c.noise))
	case "PERCENTILE":
		val = c.percentile(f)
	case "COUNT_DISTINCT":
		n := c.moment(enclave.DistinctMoment(f.x().Name))
		return writeCount(n.v, n.variance(c.noise))
	case "QUANTILE":
		return c.quantile(f)
	case "REGR_R2":
		val = c.determination(f)
	default:
		n, decimals := c.compute(f)
		val = figure{n.v, n.variance(c.noise), decimals}
	}
	if c.null != "" {
		return enclave.Value{Null: c.null}
	}
	return write(val.v, val.variance, int(val.decimals))
}

// compute is every function whose standard error is the delta method's. In regressions the first column is y.
func (c *cell) compute(f formula) (n number, decimals int64) {
	x := f.x()
	switch f.name {
	case "SUM":
		return unit(c.sum(x).plus(c.centre(x).times(c.rows(x))), x.Scale), x.Scale
	case "AVG":
		return c.average(x), x.Scale + 2
	case "VAR_POP":
		return unit(c.spread(x), 2*x.Scale), 2*x.Scale + 2
	case "STDDEV_POP":
		return unit(c.root(c.spread(x)), x.Scale), x.Scale + 2
	case "COVAR_POP":
		y := f.cols[1]
		return unit(c.joint(x, y), x.Scale+y.Scale), x.Scale + y.Scale + 2
	case "CORR":
		return c.correlation(x, f.cols[1]), ratioDecimals
	case "REGR_SLOPE":
		return c.slope(x, f.cols[1]), slopeDecimals
	case "REGR_INTERCEPT":
		y, x := x, f.cols[1]
		return c.average(y).minus(c.slope(y, x).times(c.average(x))), y.Scale + 2
	}
	panic(fmt.Sprintf("program: function %q passed the check of the plan", f.name))
}

// quantile writes a value that the nodes found by bisection. How far off it may be depends on how dense the data is there,
// which nobody knows: the explanation of the plan states the deviation in rows. It is withheld where fewer rows lie on
// either side of it than so many deviations of one noised count: single steps of the bisection then go astray.
func (c *cell) quantile(f formula) enclave.Value {
	rows, each := c.rows(enclave.Column{}), c.steps[enclave.QuantileMoment(f.x().Name, f.micro)]
	side := float().Mul(rows.v, integer(min(f.micro, 1_000_000-f.micro)))
	side.Quo(side, integer(1_000_000))
	least := float().Mul(integer(clearance*clearance), each)
	if side.Sign() < 0 || float().Mul(side, side).Cmp(least) < 0 {
		return enclave.Value{Null: fmt.Sprintf("too few rows lie beyond this quantile of %q to tell it from the noise", f.x().Name)}
	}
	v, _ := c.opened.Get(c.index, c.moments[enclave.QuantileMoment(f.x().Name, f.micro)], 0)
	return enclave.Value{Text: fixed(float().Quo(integer(v), power(f.x().Scale)), int(f.x().Scale))}
}

func (c *cell) fail(reason string, args ...any) number {
	if c.null == "" {
		c.null = fmt.Sprintf(reason, args...)
	}
	return constant(integer(0))
}

// moment is an opened sum. The check of the plan has seen that it is there.
func (c *cell) moment(m enclave.Moment) number {
	i := c.moments[m]
	v, _ := c.opened.Get(c.index, i, 0)
	return variable(v, i)
}

// rows is the number of rows that a function of x ranges over.
func (c *cell) rows(x enclave.Column) number {
	if x.Nullable {
		return c.moment(enclave.PresentMoment(x.Name))
	}
	return c.moment(enclave.CountMoment)
}

func (c *cell) sum(x enclave.Column) number    { return c.moment(enclave.SumMoment(x.Name)) }
func (c *cell) centre(x enclave.Column) number { return constant(integer(x.Centre())) }

// mean is that of the centred scaled values.
func (c *cell) mean(x enclave.Column) number {
	return c.perRow(c.sum(x), x)
}

func (c *cell) average(x enclave.Column) number {
	return unit(c.mean(x).plus(c.centre(x)), x.Scale)
}

func (c *cell) perRow(sum number, x enclave.Column) number {
	return c.over(sum, c.rows(x), "the count of rows")
}

// scatter is the population variance as it comes out: noise can make it negative.
func (c *cell) scatter(x enclave.Column) number {
	mean := c.mean(x)
	return c.perRow(c.moment(enclave.SquareMoment(x.Name)), x).minus(mean.times(mean))
}

// spread is the population variance, of use only if it is not below its standard error.
func (c *cell) spread(x enclave.Column) number {
	v := c.scatter(x)
	if !c.clear(v, 1) {
		return c.fail("the variance of %q is lost in the noise", x.Name)
	}
	return v
}

func (c *cell) joint(x, y enclave.Column) number {
	product := c.moment(enclave.ProductMoment(x.Name, y.Name))
	return c.perRow(product, x).minus(c.mean(x).times(c.mean(y)))
}

func (c *cell) slope(y, x enclave.Column) number {
	slope := c.over(c.joint(x, y), c.scatter(x), fmt.Sprintf("the variance of %q", x.Name))
	return unit(slope, y.Scale-x.Scale)
}

func (c *cell) correlation(x, y enclave.Column) number {
	vx := c.divisor(c.scatter(x), fmt.Sprintf("the variance of %q", x.Name))
	vy := c.divisor(c.scatter(y), fmt.Sprintf("the variance of %q", y.Name))
	if c.null != "" {
		return vx
	}
	r := c.joint(x, y).over(vx.times(vy).root())
	// An exact ±1 may round up in the last bits of precision.
	if size := new(big.Float).SetPrec(precision / 2).Abs(r.v); size.Cmp(integer(1)) > 0 {
		return c.fail("the noise has carried the correlation beyond 1")
	}
	return r
}

// determination is r² with Var(r²) = 4r²s² + 2s⁴, where s is the standard error of r: what a square of a normal variable
// has. The first order alone would call an r² near zero exact.
func (c *cell) determination(f formula) figure {
	r := c.correlation(f.x(), f.cols[1])
	s2, r2 := r.variance(c.noise), float().Mul(r.v, r.v)
	v := float().Mul(integer(4), r2)
	v.Add(v, float().Mul(integer(2), s2))
	return figure{r2, v.Mul(v, s2), ratioDecimals}
}

// clear reports whether x is at least so many standard errors above zero.
func (c *cell) clear(x number, times int64) bool {
	if c.null != "" || x.v.Sign() < 0 {
		return false
	}
	limit := float().Mul(integer(times*times), x.variance(c.noise))
	return float().Mul(x.v, x.v).Cmp(limit) >= 0
}

// divisor passes a number that may be divided by: all divisors here are counts or variances, hence positive.
func (c *cell) divisor(x number, what string) number {
	if !c.clear(x, clearance) || x.v.Sign() == 0 {
		return c.fail("%s is zero or too small beside its noise to divide by", what)
	}
	return x
}

func (c *cell) over(a, b number, what string) number {
	if b = c.divisor(b, what); c.null != "" {
		return b
	}
	return a.over(b)
}

func (c *cell) root(x number) number {
	if c.null != "" {
		return x
	}
	return x.root()
}

// unit takes a figure from scaled units to declared ones, x·10^-scale.
func unit(x number, scale int64) number {
	if scale < 0 {
		return x.times(constant(power(-scale)))
	}
	return x.over(constant(power(scale)))
}
