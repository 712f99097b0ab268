package enclave

import (
	"fmt"
	"slices"
)

// Validate checks what a keyset promises by itself: a majority quorum of at least two, exactly the pieces of replicated
// sharing for it, and bounds that noise can be sized by. Custodians refuse a keyset that fails; its owner made it.
func (k *Keyset) Validate() error {
	n := len(k.Custodians)
	switch {
	case k.Dataset == "" || k.Owner == "":
		return fmt.Errorf("keyset names no dataset or no owner")
	case k.Quorum < 2 || k.Quorum > n || 2*k.Quorum <= n:
		return fmt.Errorf("keyset of dataset %q: quorum %d of %d custodians is not a majority of at least two", k.Dataset, k.Quorum, n)
	case k.EntityRows < 1 || k.EntityRows > MaxRows:
		return fmt.Errorf("keyset of dataset %q: %d rows per entity is not between 1 and %d", k.Dataset, k.EntityRows, MaxRows)
	case k.BudgetMicro < 1 || k.Epoch < 1:
		return fmt.Errorf("keyset of dataset %q: budget and epoch must be positive", k.Dataset)
	}
	if _, err := LookupParams(k.Params); err != nil {
		return fmt.Errorf("keyset of dataset %q: %w", k.Dataset, err)
	}
	sorted := slices.Clone(k.Custodians)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != n {
		return fmt.Errorf("keyset of dataset %q: a custodian is named twice", k.Dataset)
	}
	want := Subsets(n, k.Quorum-1)
	if len(want) != len(k.Pieces) {
		return fmt.Errorf("keyset of dataset %q: %d pieces, want one for each of %d sets of custodians", k.Dataset, len(k.Pieces), len(want))
	}
	for i, p := range k.Pieces {
		if !slices.Equal(p.Without, want[i]) {
			return fmt.Errorf("keyset of dataset %q: piece %d is without custodians %v, want %v", k.Dataset, i, p.Without, want[i])
		}
	}
	return nil
}

// Subsets lists the k-element subsets of 0..n−1 in lexicographic order.
func Subsets(n, k int) [][]int {
	if k == 0 {
		return [][]int{{}}
	}
	var out [][]int
	for _, s := range Subsets(n, k-1) {
		from := 0
		if len(s) > 0 {
			from = s[len(s)-1] + 1
		}
		for i := from; i < n; i++ {
			out = append(out, append(slices.Clone(s), i))
		}
	}
	slices.SortFunc(out, slices.Compare)
	return out
}
