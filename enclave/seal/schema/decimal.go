package schema

import "errors"

// Why a text is not a number that can be sealed. The texts are shown to people behind row and column.
var (
	errNotNumber = errors.New("is not a plain decimal number")
	errExponent  = errors.New("is written with an exponent, as spreadsheets do after dropping digits: export plain decimals")
	errTooLarge  = errors.New("has too many digits")
)

// maxScaled bounds |v·10^scale|: every JSON reader keeps such integers exactly.
const maxScaled = 1<<53 - 1

// parseScaled reads a plain decimal ("-12.5", ".5", "7.") as an integer in units of 10^-scale. Decimals beyond the
// scale are rounded half to even, and reported if they were not zero. No floating-point number is involved.
func parseScaled(s string, scale int64) (v int64, rounded bool, err error) {
	i, negative := 0, false
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		negative, i = s[0] == '-', 1
	}
	var n uint64
	digits := 0
	for ; i < len(s) && s[i]-'0' <= 9; i++ {
		n = n*10 + uint64(s[i]-'0')
		if n > maxScaled {
			return 0, false, tooLarge(s)
		}
		digits++
	}
	left := scale // decimals still to come
	var rest byte // first decimal dropped
	more := false // anything but zeros behind it
	if i < len(s) && s[i] == '.' {
		dropped := 0
		for i++; i < len(s) && s[i]-'0' <= 9; i++ {
			digits++
			switch {
			case left > 0:
				left--
				n = n*10 + uint64(s[i]-'0')
				if n > maxScaled {
					return 0, false, tooLarge(s)
				}
			case dropped == 0:
				rest = s[i] - '0'
				dropped++
			default:
				more = more || s[i] != '0'
			}
		}
	}
	if i < len(s) || digits == 0 {
		return 0, false, malformed(s)
	}
	for ; left > 0; left-- {
		n *= 10
		if n > maxScaled {
			return 0, false, errTooLarge
		}
	}
	if rest > 5 || rest == 5 && (more || n&1 == 1) {
		n++
	}
	v = int64(n)
	if negative {
		v = -v
	}
	return v, rest != 0 || more, nil
}

// tooLarge tells a number with too many digits from a text that merely begins with digits.
func tooLarge(s string) error {
	if err := malformed(s); err == errExponent {
		return err
	}
	for i, c := range []byte(s) {
		if (c < '0' || c > '9') && c != '.' && (i > 0 || c != '-' && c != '+') {
			return errNotNumber
		}
	}
	return errTooLarge
}

// malformed explains a text that parseScaled cannot read.
func malformed(s string) error {
	exponent := false
	for i, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9', c == '.', c == '-', c == '+':
		case (c == 'e' || c == 'E') && i > 0 && !exponent:
			exponent = true
		default:
			return errNotNumber
		}
	}
	if exponent {
		return errExponent
	}
	return errNotNumber
}

// parseExact is parseScaled for numbers of the schema itself, which must fit the scale.
func parseExact(s string, scale int64) (int64, error) {
	v, rounded, err := parseScaled(s, scale)
	if err == nil && rounded {
		err = errors.New("has more decimals than the scale keeps")
	}
	return v, err
}
