package dp

import (
	"errors"
	"math"
	"testing"
)

func TestCharge(t *testing.T) {
	for _, c := range []struct {
		name         string
		limit, spent int64
		charge       []int64
		want         int64
		refused      bool
		budget       bool // refused for want of budget
	}{
		{"nothing", 10, 4, nil, 4, false, false},
		{"some", 10, 4, []int64{1, 2}, 7, false, false},
		{"the rest", 10, 4, []int64{6}, 10, false, false},
		{"one too many", 10, 4, []int64{6, 1}, 4, true, true},
		{"limit was lowered", 3, 4, []int64{1}, 4, true, true},
		{"nothing under a lowered limit", 3, 4, []int64{0}, 4, false, false},
		{"refund", 10, 4, []int64{-1}, 4, true, false},
		{"hidden refund", 10, 4, []int64{8, -3}, 4, true, false},
		{"overflow", math.MaxInt64, 4, []int64{math.MaxInt64, math.MaxInt64}, 4, true, false},
		{"all of the largest", math.MaxInt64, 0, []int64{math.MaxInt64}, math.MaxInt64, false, false},
		{"past the largest", math.MaxInt64, 1, []int64{math.MaxInt64}, 1, true, true},
		{"spent is corrupt", 10, -4, []int64{1}, -4, true, false},
		{"both corrupt", math.MinInt64, math.MinInt64, []int64{1}, math.MinInt64, true, false},
	} {
		before := Budget{LimitMicro: c.limit, SpentMicro: c.spent}
		after, err := before.Charge(c.charge...)
		if (err != nil) != c.refused || errors.Is(err, ErrBudget) != c.budget {
			t.Errorf("%s: error is %v", c.name, err)
		}
		if want := (Budget{LimitMicro: c.limit, SpentMicro: c.want}); after != want {
			t.Errorf("%s: budget is %+v, want %+v", c.name, after, want)
		}
	}
	_, err := Budget{LimitMicro: 1_500_000, SpentMicro: 1_000_000}.Charge(750_000)
	if want := "privacy budget does not suffice: charging ε 0.75 of the 0.5 that is left"; err == nil || err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}
