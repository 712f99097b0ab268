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
	case k.Origin.IsZero() != (k.Epoch == 1) || k.Previous.IsZero() != (k.Epoch == 1):
		return fmt.Errorf("keyset of dataset %q: epoch 1 is the first and every later one names its origin and the one before it", k.Dataset)
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

// Refreshes checks that k may replace the keyset before it, whose digest is previous, in a lineage whose first keyset is
// origin: what was promised for the lineage stays, and only custodians, pieces and budget are new.
func (k *Keyset) Refreshes(before *Keyset, previous, origin Digest) error {
	switch {
	case k.Dataset != before.Dataset || k.Owner != before.Owner || k.Params != before.Params || k.EntityRows != before.EntityRows || k.Quorum != before.Quorum:
		return fmt.Errorf("refresh of dataset %q: owner, parameter set, rows per entity and quorum belong to the key and cannot change", before.Dataset)
	case k.Origin != origin || k.Previous != previous || k.Epoch != before.Epoch+1:
		return fmt.Errorf("refresh of dataset %q: epoch %d after %s does not follow epoch %d, %s", before.Dataset, k.Epoch, k.Previous.Short(), before.Epoch, previous.Short())
	}
	return nil
}

// Lineage follows the refreshes of a keyset through a list that may hold others' keysets too, and returns the one of an
// epoch, or of the latest if epoch is 0, with its digest. Signatures are the caller's to check.
func Lineage(origin Digest, all []Signed, epoch int64) (*Keyset, Digest, error) {
	var ks *Keyset
	at := Digest{}
	for {
		next, sum, err := following(origin, at, ks, all)
		if err != nil {
			return nil, Digest{}, err
		}
		if next == nil {
			break
		}
		ks, at = next, sum
		if ks.Epoch == epoch {
			return ks, at, nil
		}
	}
	if ks == nil || epoch != 0 {
		return nil, Digest{}, fmt.Errorf("keyset %s, epoch %d: %w", origin.Short(), epoch, ErrNotFound)
	}
	return ks, at, nil
}

// following finds the keyset that comes after the one called at; the first if that is zero. What does not follow by the
// rules is another's and is passed over; two that do are a fork.
func following(origin, at Digest, before *Keyset, all []Signed) (next *Keyset, sum Digest, _ error) {
	for _, s := range all {
		d := s.Digest()
		if before == nil && d != origin || next != nil && d == sum {
			continue
		}
		var ks Keyset
		if err := s.Open(KindKeyset, &ks); err != nil {
			return nil, d, err
		}
		if err := ks.Validate(); err != nil {
			if before == nil {
				return nil, d, err
			}
			continue
		}
		if before != nil && ks.Refreshes(before, at, origin) != nil {
			continue
		}
		if next != nil {
			return nil, d, fmt.Errorf("keysets %s and %s both replace %s", sum.Short(), d.Short(), at.Short())
		}
		next, sum = &ks, d
	}
	return next, sum, nil
}
