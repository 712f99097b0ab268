// Package program is what is computed from opened numbers: which cells may be shown (Keep) and the table of SQL results
// with their standard errors (Tabulate). Its inputs are sums that already carry their noise, so all of it is
// post-processing: it can neither weaken nor strengthen the differential privacy of what was opened.
//
// Every custodian runs it and signs only a table that is, byte for byte, its own. Nothing here therefore depends on an
// architecture: decisions on suppression are made in integers, estimates in big.Float of fixed precision, whose
// operations are defined to the last bit, and digits are cut by one rule (decimal.go). A float64 leaves the package but
// never decides anything in it: compilers may fuse x*y+z on some machines and not on others.
//
// # Estimates
//
// Sums are of centred values X = x·10^scale − Centre (package enclave, Moment). A function of the query is evaluated at
// the noised sums as SQL would at exact ones; with n the row count, or the count of present values for a nullable column:
//
//	SUM        (S + Centre·n) / 10^scale
//	AVG        (S/n + Centre) / 10^scale
//	VAR_POP    Q/n − (S/n)²                 the centre cancels
//	COVAR_POP  P/n − (S_x/n)·(S_y/n)        the centres cancel
//
// and CORR, REGR_SLOPE, REGR_INTERCEPT and REGR_R2 by their textbook forms in these. Nothing is corrected for the bias
// of order 1/n² that noise gives to products, and nothing is clamped: a noised COUNT(x) may be negative, because
// clamping single cells would bias every total made of them.
//
// # Standard errors
//
// A standard error speaks of the noise alone, not of sampling. Every opened number has independent noise of exactly
// known variance; it is carried through each formula to first order (the delta method), by derivatives that the
// arithmetic in number.go computes along with the value. Two functions need more, and say so where they are computed:
// REGR_R2 and PERCENTILE.
//
// # What is withheld
//
// Keep refuses cells of too few people. In a cell that is shown, a figure that noise has made meaningless is replaced by
// the reason: a divisor that is less than four standard errors above zero, a variance below its standard error, a
// correlation beyond ±1, a percentile that the noise cannot tell from the least or greatest value.
package program

// Values holds the opened integers of one plan. The zero value is not usable; see NewValues.
type Values struct {
	measures int
	opened   [][]bin // by cell·measures + measure, ascending bins
}

type bin struct {
	index int
	value int64
}

// NewValues makes room for so many cells of so many measures, none of them opened.
func NewValues(cells, measures int) *Values {
	return &Values{measures: measures, opened: make([][]bin, cells*measures)}
}

// Set records the opened value of a term: the bin is 0 for a measure without By. It replaces an earlier value.
func (v *Values) Set(cell, measure, index int, value int64) {
	bins := &v.opened[cell*v.measures+measure]
	at := len(*bins)
	for at > 0 && (*bins)[at-1].index >= index {
		at--
	}
	if at < len(*bins) && (*bins)[at].index == index {
		(*bins)[at].value = value
		return
	}
	*bins = append(*bins, bin{})
	copy((*bins)[at+1:], (*bins)[at:])
	(*bins)[at] = bin{index: index, value: value}
}

// Get returns the opened value of a term, and whether there is one.
func (v *Values) Get(cell, measure, index int) (int64, bool) {
	for _, b := range v.bins(cell, measure) {
		if b.index == index {
			return b.value, true
		}
	}
	return 0, false
}

func (v *Values) bins(cell, measure int) []bin { return v.opened[cell*v.measures+measure] }
