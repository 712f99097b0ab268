package plan

import (
	"errors"
	"math/big"
	"strings"
)

var (
	errDecimal = errors.New("not a plain decimal within range")
	errFiner   = errors.New("has more decimals than are kept")
)

// parseDecimal reads an optionally signed plain decimal in units of 10^-scale, exactly.
func parseDecimal(s string, scale int64) (int64, error) {
	body := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if len(body) == 0 || len(body) > 40 || strings.Trim(body, "0123456789.") != "" || strings.Count(body, ".") > 1 || body == "." {
		return 0, errDecimal
	}
	whole, part, _ := strings.Cut(body, ".")
	part = strings.TrimRight(part, "0")
	if int64(len(part)) > scale {
		return 0, errFiner
	}
	v, ok := new(big.Int).SetString("0"+whole+part+strings.Repeat("0", int(scale)-len(part)), 10)
	if !ok || !v.IsInt64() || v.BitLen() > 53 {
		return 0, errDecimal
	}
	if strings.HasPrefix(s, "-") {
		v.Neg(v)
	}
	return v.Int64(), nil
}

// canonicalDecimal is the one spelling of a plain decimal: no sign on zero, no leading or trailing zeros.
func canonicalDecimal(s string) (string, error) {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign = "-"
	}
	body := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if len(body) == 0 || len(body) > 40 || strings.Trim(body, "0123456789.") != "" || strings.Count(body, ".") > 1 || body == "." {
		return "", errDecimal
	}
	whole, part, _ := strings.Cut(body, ".")
	whole, part = strings.TrimLeft(whole, "0"), strings.TrimRight(part, "0")
	if whole == "" {
		whole = "0"
	}
	if whole == "0" && part == "" {
		return "0", nil
	}
	if part != "" {
		part = "." + part
	}
	return sign + whole + part, nil
}
