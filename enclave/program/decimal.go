package program

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"yingzhou.dev/lab/enclave"
)

// write puts a figure into digits. Both it and its standard error are cut where the standard error has two significant
// digits (JCGM 100:2008, section 7.2.6), the figure after at most so many decimals: more would be noise or rounding error
// posing as information. Without noise the figure has exactly that many decimals.
func write(v, variance *big.Float, most int) enclave.Value {
	if variance.Sign() == 0 {
		return enclave.Value{Text: fixed(v, most), StdErr: "0"}
	}
	se := root(variance)
	last := lastDigit(se)
	return enclave.Value{Text: fixed(v, min(last, most)), StdErr: fixed(se, last)}
}

// writeCount puts a count into digits: a whole number is not cut.
func writeCount(v, variance *big.Float) enclave.Value {
	val := write(v, variance, 0)
	val.Text = fixed(v, 0)
	return val
}

// lastDigit is the number of decimals that leave x > 0 two significant digits; negative left of the point.
func lastDigit(x *big.Float) int {
	_, exp, _ := strings.Cut(x.Text('e', 1), "e")
	e, err := strconv.Atoi(exp)
	if err != nil {
		panic("program: big.Float writes " + exp + " as an exponent")
	}
	return 1 - e
}

// fixed writes x with so many decimals, rounding half away from zero; a negative number rounds to tens, hundreds, …
func fixed(x *big.Float, decimals int) string {
	r, _ := x.Rat(nil)
	zeros := max(0, -decimals)
	r.Quo(r, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(zeros)), nil)))
	s := r.FloatString(max(0, decimals))
	if strings.Trim(s, "-0.") == "" { // no minus zero, no row of zeros
		return strings.TrimPrefix(s, "-")
	}
	return s + strings.Repeat("0", zeros)
}

// parseDecimal reads a plain decimal exactly: an optional sign, digits, and optionally a point and digits.
func parseDecimal(s string) (*big.Rat, error) {
	whole, frac, point := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	if !digits(whole) || point && !digits(frac) || len(s) > maxDecimal {
		return nil, fmt.Errorf("%q is not a plain decimal of at most %d characters", s, maxDecimal)
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, fmt.Errorf("%q is not a plain decimal", s)
	}
	return r, nil
}

const maxDecimal = 400

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
