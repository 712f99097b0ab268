package release

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

func emptyLedger() *ledger {
	return &ledger{charges: map[enclave.Digest]*planCharge{}, opens: map[enclave.Digest]*opened{}, spends: map[account]int64{}, opening: map[enclave.Digest]int64{}, ends: map[enclave.Digest]enclave.Digest{}}
}

// Whatever order records come in, totals are the same, and they are what counting everything again gives.
func TestLedgerTotals(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		digest := func(n int) enclave.Digest { return enclave.Digest{1, byte(rng.IntN(n))} }
		var records []*Record
		for range 60 {
			c := &Charge{Keyset: digest(3), Epoch: 1 + int64(rng.IntN(2)), Scenario: digest(3), DatasetMicro: int64(rng.IntN(5)), ScenarioMicro: int64(rng.IntN(5))}
			for range rng.IntN(3) {
				c.Also = append(c.Also, AlsoCharged{digest(3), 1})
			}
			for range rng.IntN(4) {
				c.Opens = append(c.Opens, Opening{Key: digest(9), Ciphertext: enclave.Digest{7}})
			}
			records = append(records, &Record{By: fmt.Sprintf("cust-%d", rng.IntN(3)), Type: recordCharge, Plan: digest(10), Charge: c})
		}
		a, b := emptyLedger(), emptyLedger()
		for _, r := range records {
			a.apply(r)
		}
		for _, i := range rng.Perm(len(records)) {
			b.apply(records[i])
		}
		type onPlan struct {
			Plan enclave.Digest
			On   account
		}
		most, keys := map[onPlan]int64{}, map[Opening]bool{}
		want, opens := map[account]int64{}, map[enclave.Digest]int64{}
		for _, r := range records {
			for on, n := range r.Charge.amounts() {
				k := onPlan{r.Plan, on}
				most[k] = max(most[k], n)
			}
			for _, o := range r.Charge.Opens {
				if k := (Opening{Key: o.Key, Ciphertext: r.Charge.Keyset}); !keys[k] {
					keys[k] = true
					opens[r.Charge.Keyset]++
				}
			}
		}
		for k, n := range most {
			if n > 0 {
				want[k.On] += n
			}
		}
		for what, l := range map[string]*ledger{"as they came": a, "in another order": b} {
			if d := cmp.Diff(want, l.spends, cmp.AllowUnexported(account{})); d != "" {
				t.Errorf("seed %d, %s: %s", seed, what, d)
			}
			if d := cmp.Diff(opens, l.opening); d != "" {
				t.Errorf("seed %d, %s: openings: %s", seed, what, d)
			}
		}
	}
}

// Charges that sum to more than an integer holds stay charges.
func TestLedgerTotalsDoNotWrapAround(t *testing.T) {
	l := emptyLedger()
	for i := range 3000 {
		l.apply(&Record{By: "cust-c", Type: recordCharge, Plan: enclave.Digest{byte(i), byte(i >> 8)}, Charge: &Charge{Keyset: enclave.Digest{1}, Epoch: 1, DatasetMicro: canon.MaxInt, ScenarioMicro: canon.MaxInt}})
		if d, s, all := l.spent(enclave.Digest{1}, 1, enclave.Digest{}); d <= 0 || s <= 0 || all <= 0 {
			t.Fatalf("after %d charges %d, %d and %d are spent", i+1, d, s, all)
		}
	}
}
