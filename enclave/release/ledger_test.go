package release

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
)

func add(t *testing.T, to *totals, r *Record) {
	t.Helper()
	if err := to.add(r); err != nil {
		t.Fatal(err)
	}
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
		a, b := newTotals(), newTotals()
		for _, r := range records {
			add(t, &a, r)
		}
		for _, i := range rng.Perm(len(records)) {
			add(t, &b, records[i])
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
		for what, l := range map[string]*totals{"as they came": &a, "in another order": &b} {
			spent := map[account]int64{}
			for on, b := range l.accounts {
				if b.spent != 0 {
					spent[on] = b.spent
				}
			}
			if d := cmp.Diff(want, spent, cmp.AllowUnexported(account{})); d != "" {
				t.Errorf("seed %d, %s: %s", seed, what, d)
			}
			if d := cmp.Diff(opens, l.openings); d != "" {
				t.Errorf("seed %d, %s: openings: %s", seed, what, d)
			}
		}
	}
}

// Charges that sum to more than an integer holds stay charges.
func TestLedgerTotalsDoNotWrapAround(t *testing.T) {
	l := newTotals()
	for i := range 3000 {
		add(t, &l, &Record{By: "cust-c", Type: recordCharge, Plan: enclave.Digest{byte(i), byte(i >> 8)}, Charge: &Charge{Keyset: enclave.Digest{1}, Epoch: 1, DatasetMicro: canon.MaxInt, ScenarioMicro: canon.MaxInt}})
		for _, b := range l.accounts {
			if b.spent <= 0 {
				t.Fatalf("after %d charges %d are spent", i+1, b.spent)
			}
		}
	}
}

// A lab has few custodians; records of endless names would not fit.
func TestLedgerRefusesEndlessCustodians(t *testing.T) {
	l := newTotals()
	for i := range maxCustodians {
		add(t, &l, &Record{By: fmt.Sprint("cust-", i), Type: recordRefusal})
	}
	if err := l.add(&Record{By: "one more", Type: recordRefusal}); err == nil {
		t.Error("one more custodian is taken")
	}
	add(t, &l, &Record{By: "cust-7", Type: recordRefusal})
}

// What a job leaves in a custodian's memory for ever: three custodians charge it.
func BenchmarkTotals(b *testing.B) {
	l := newTotals()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range uint64(b.N) {
		plan := canon.Sum(binary.LittleEndian.AppendUint64(nil, i))
		c := &Charge{Keyset: enclave.Digest{1}, Epoch: 1, Scenario: enclave.Digest{2}, DatasetMicro: 1, ScenarioMicro: 1, Opens: []Opening{{Key: canon.Sum(plan[:]), Ciphertext: plan}}}
		for _, by := range []string{"cust-a", "cust-b", "cust-c"} {
			if err := l.add(&Record{By: by, Type: recordCharge, Plan: plan, Charge: c}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(heap()-before)/float64(b.N), "live-B/job")
	runtime.KeepAlive(l)
}

// Peers get a custodian's records from its file, after appends, merges and a restart; one that is no longer what was written
// is told by its number and never handed out.
func TestLedgerReadsItsFile(t *testing.T) {
	dirs := map[string]string{"cust-a": t.TempDir(), "cust-b": t.TempDir()}
	ids := map[string]*keys.Identity{}
	for name := range dirs {
		id, err := keys.NewIdentity(name)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	open := func(name string) *ledger {
		t.Helper()
		l, err := openLedger(dirs[name], ids[name], func(by string) (ed25519.PublicKey, error) { return ids[by].Verify(), nil })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.close() })
		return l
	}
	a, b := open("cust-a"), open("cust-b")
	var want []enclave.Digest
	for i := range byte(4) {
		s, err := a.append(Record{Type: recordRefusal, Plan: enclave.Digest{i}, Job: "job-1"})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, s.Digest())
		if _, err := b.append(Record{Type: recordRefusal, Plan: enclave.Digest{i}, Job: "job-2"}); err != nil {
			t.Fatal(err)
		}
		records, err := a.since(b.heights()) // b's file has both, by turns
		if err != nil || len(records) != 1 || b.commit(records...) != nil {
			t.Fatalf("%d new records: %v", len(records), err)
		}
	}
	b = open("cust-b")
	records, err := b.since(map[string]int64{"cust-a": 1, "cust-b": 4})
	if err != nil || len(records) != 3 {
		t.Fatalf("%d records after the first of cust-a: %v", len(records), err)
	}
	for i, s := range records {
		if s.Digest() != want[i+1] {
			t.Errorf("record %d is another one", i+2)
		}
	}
	data, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	at := b.chains["cust-a"].at // the third in place of the second: whole lines, of the same length
	second, third := data[at[1]:], data[at[2]:]
	n := bytes.IndexByte(third, '\n')
	if n != bytes.IndexByte(second, '\n') {
		t.Fatal("two records differ in length")
	}
	copy(second[:n], third[:n])
	if err := os.WriteFile(b.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if records, err := b.since(nil); err == nil || !strings.Contains(err.Error(), `record 2 of custodian "cust-a"`) {
		t.Errorf("%d records from a damaged file: %v", len(records), err)
	}
}
