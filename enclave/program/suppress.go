package program

import (
	"fmt"
	"math/big"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
)

// Keep applies the cohort rule to the noised row counts of stage 1, measure 0 of the plan, one per cell. A cell is kept
// if its count is at least MinCohort·m + ⌈z·σ⌉ rows: an entity has at most m rows, so that many rows without noise belong
// to at least MinCohort people, and the margin of z = MarginMilli/1000 standard deviations of the noise makes it unlikely
// that noise lifted a smaller cell over the line (dp.MissProbability states how unlikely).
//
// For each cell that is not kept, rules says which rule held it back; for the others it is empty. The text depends on the
// plan alone: it must not tell how far below the line a count was. Keep panics unless there is one count per cell.
func Keep(p *enclave.Plan, pieces int, cells []enclave.Cell, counts []int64) (keep []bool, rules []string) {
	if len(cells) != len(counts) {
		panic(fmt.Sprintf("program: %d counts for %d cells", len(counts), len(cells)))
	}
	people, margin := cohort(p, pieces)
	least := new(big.Int).Add(people, margin)
	rule := smallCell(p, people, margin)
	keep, rules = make([]bool, len(cells)), make([]string, len(cells))
	for i, n := range counts {
		if keep[i] = big.NewInt(n).Cmp(least) >= 0; !keep[i] {
			rules[i] = rule
		}
	}
	return keep, rules
}

// cohort is the smallest cohort in rows and the margin for noise on top of it.
func cohort(p *enclave.Plan, pieces int) (rows, margin *big.Int) {
	rows = new(big.Int).Mul(big.NewInt(p.MinCohort), big.NewInt(p.EntityRows))
	if p.Joint != nil {
		return rows, jointPart(p, 0).Margin(p.MarginMilli)
	}
	return rows, dp.SuppressionMargin(scale(p, 0), pieces, p.MarginMilli)
}

func smallCell(p *enclave.Plan, rows, margin *big.Int) string {
	if p.EntityRows == 1 {
		return fmt.Sprintf("fewer than %d (+ margin %s) people: small-cell rule", p.MinCohort, margin)
	}
	return fmt.Sprintf("fewer than %s (+ margin %s) rows, as %d people may have at up to %d rows each: small-cell rule",
		rows, margin, p.MinCohort, p.EntityRows)
}
