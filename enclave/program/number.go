package program

import "math/big"

// number is a figure computed from opened values together with its partial derivative by each of them: forward-mode
// differentiation (Griewank and Walther, Evaluating Derivatives, 2008, chapter 3). Formulas are written once, for the
// value, and the delta method's gradient comes with it. Numbers are immutable.
type number struct {
	v *big.Float
	d []*big.Float // by measure; nil or short = zero
}

func constant(v *big.Float) number { return number{v: v} }

// variable is the opened value of one measure: its derivative by itself is 1.
func variable(v int64, measure int) number {
	d := make([]*big.Float, measure+1)
	d[measure] = integer(1)
	return number{v: integer(v), d: d}
}

func (a number) plus(b number) number {
	return number{float().Add(a.v, b.v), blend(a, integer(1), b, integer(1))}
}

func (a number) minus(b number) number {
	return number{float().Sub(a.v, b.v), blend(a, integer(1), b, integer(-1))}
}

func (a number) times(b number) number {
	return number{float().Mul(a.v, b.v), blend(a, b.v, b, a.v)}
}

// over divides; b is not zero.
func (a number) over(b number) number {
	q := float().Quo(a.v, b.v)
	byA := float().Quo(integer(1), b.v)
	byB := float().Mul(q, byA)
	return number{q, blend(a, byA, b, byB.Neg(byB))}
}

// root is the square root of a ≥ 0. At zero the derivative is infinite; callers let a zero through only if there is no
// noise to carry, and it is then left out.
func (a number) root() number {
	r := root(a.v)
	if r.Sign() == 0 {
		return constant(r)
	}
	half := float().Quo(integer(1), float().Mul(integer(2), r))
	return number{r, blend(a, half, constant(integer(0)), integer(0))}
}

// blend is fa·∂a + fb·∂b.
func blend(a number, fa *big.Float, b number, fb *big.Float) []*big.Float {
	d := make([]*big.Float, max(len(a.d), len(b.d)))
	add := func(from []*big.Float, f *big.Float) {
		for i, x := range from {
			switch {
			case x == nil:
			case d[i] == nil:
				d[i] = float().Mul(f, x)
			default:
				d[i].Add(d[i], float().Mul(f, x))
			}
		}
	}
	add(a.d, fa)
	add(b.d, fb)
	return d
}

// variance is Σ (∂a/∂v_i)²·Var(v_i): opened values have independent noise.
func (a number) variance(noise []*big.Float) *big.Float {
	sum := float()
	for i, x := range a.d {
		if x != nil {
			t := float().Mul(x, x)
			sum.Add(sum, t.Mul(t, noise[i]))
		}
	}
	return sum
}
