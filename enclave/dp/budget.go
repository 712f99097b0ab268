package dp

import (
	"errors"
	"fmt"
	"math"

	"yingzhou.dev/lab/enclave"
)

// ErrBudget means that a charge would spend more ε than there is.
var ErrBudget = errors.New("privacy budget does not suffice")

// Budget is an allowance of ε and how much of it is gone, in millionths. Charges add up (basic composition: Dwork and
// Roth, "The Algorithmic Foundations of Differential Privacy", Theorem 3.16), so integers suffice and every custodian
// finds the same remainder. It is a value: the ledger that keeps it decides what is charged and when.
type Budget struct {
	LimitMicro int64
	SpentMicro int64
}

// Left is what may still be spent; 0 if more was spent than a lowered limit allows.
func (b Budget) Left() int64 { return max(0, b.LimitMicro-max(0, b.SpentMicro)) }

// Charge is the budget after spending the sum of epsilonMicro, or the same budget and an error that wraps ErrBudget and
// says how much is left. A negative charge is refused: nothing is ever refunded.
func (b Budget) Charge(epsilonMicro ...int64) (Budget, error) {
	total, err := Compose(epsilonMicro...)
	if err != nil {
		return b, err
	}
	if b.SpentMicro < 0 {
		return b, fmt.Errorf("charging a budget: %d millionths of ε spent so far is negative", b.SpentMicro)
	}
	if left := b.Left(); total > left {
		return b, fmt.Errorf("%w: charging ε %s of the %s that is left", ErrBudget,
			enclave.FormatScaled(total, 6), enclave.FormatScaled(left, 6))
	}
	b.SpentMicro += total
	return b, nil
}

// Compose is the ε of several releases of the same rows together, in millionths: their sum. It refuses a negative part and
// a sum beyond int64.
func Compose(epsilonMicro ...int64) (int64, error) {
	var total int64
	for _, e := range epsilonMicro {
		if e < 0 {
			return 0, fmt.Errorf("adding up ε: %d millionths is negative", e)
		}
		if e > math.MaxInt64-total {
			return 0, errors.New("adding up ε: the sum does not fit 64 bits")
		}
		total += e
	}
	return total, nil
}
