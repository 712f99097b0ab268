package program

// Internals under test.
var (
	Fixed        = fixed
	Write        = write
	ParseDecimal = parseDecimal
	Isotonic     = isotonic
	Variable     = variable
)

type Number = number

func (a number) Plus(b number) number  { return a.plus(b) }
func (a number) Minus(b number) number { return a.minus(b) }
func (a number) Times(b number) number { return a.times(b) }
func (a number) Over(b number) number  { return a.over(b) }
func (a number) Root() number          { return a.root() }

// Float is the number's value and its derivatives by n measures.
func (a number) Float(n int) (v float64, d []float64) {
	v, _ = a.v.Float64()
	d = make([]float64, n)
	for i, x := range a.d {
		if x != nil {
			d[i], _ = x.Float64()
		}
	}
	return v, d
}
