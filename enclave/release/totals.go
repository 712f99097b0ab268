package release

import (
	"fmt"
	"math"
	"math/bits"
	"slices"

	"yingzhou.dev/lab/enclave"
)

// totals is what the records of a ledger add up to, whatever order they came in. Each job leaves some hundred bytes here
// for ever, so what many jobs share is kept once: names of custodians as bits, accounts and scenarios by pointer.
type totals struct {
	custodians map[string]parties // a bit each
	accounts   map[account]*balance
	plans      map[enclave.Digest]*planCharge
	keys       map[enclave.Digest]opened // by noise key
	openings   map[enclave.Digest]int64  // noise keys by the keyset that they were charged to
	ended      map[enclave.Digest]bool   // plans with a release
}

func newTotals() totals {
	return totals{custodians: map[string]parties{}, accounts: map[account]*balance{}, plans: map[enclave.Digest]*planCharge{},
		keys: map[enclave.Digest]opened{}, openings: map[enclave.Digest]int64{}, ended: map[enclave.Digest]bool{}}
}

// parties is a set of custodians.
type parties uint64

// account is what has a budget: a dataset in an epoch of its keys, a scenario on such a dataset, or a scenario.
type account struct {
	keyset   enclave.Digest // zero: of a scenario as a whole
	epoch    int64
	scenario enclave.Digest // zero: of a dataset as a whole
}

type balance struct {
	account
	spent int64
}

// amounts lists what a charge puts on which accounts.
func (c *Charge) amounts() map[account]int64 {
	out := map[account]int64{{scenario: c.Scenario}: c.ScenarioMicro}
	for _, d := range append([]AlsoCharged{{c.Keyset, c.Epoch}}, c.Also...) {
		out[account{keyset: d.Keyset, epoch: d.Epoch}] = c.DatasetMicro
		out[account{keyset: d.Keyset, epoch: d.Epoch, scenario: c.Scenario}] = c.ScenarioMicro
	}
	return out
}

// planCharge merges what custodians charged for one plan. Where they differ, the most that any of them charged to an
// account counts: a corrupt custodian that charges less, or elsewhere, takes nothing off what the others charge.
type planCharge struct {
	datasetMicro int64
	by           parties
	on           []amount
	job          string // the first job that asked; a later one repeats the question and pays nothing
	last         enclave.Time
}

type amount struct {
	to    *balance
	micro int64
}

// opened is what was charged for a noise key: the first ciphertext that a record ties to it, and who charged it to what.
type opened struct {
	ciphertext enclave.Digest
	to         []chargedTo
}

type chargedTo struct {
	on *balance // the scenario's on the dataset
	by parties
}

// mostMicro is where totals stop growing: one custodian's absurd charges must not make them wrap around to nothing.
const mostMicro = math.MaxInt64 / 4

// maxCustodians bounds those that a lab has in all its years.
const maxCustodians = 64

func (t *totals) party(name string) (parties, error) {
	if p := t.custodians[name]; p != 0 {
		return p, nil
	}
	if len(t.custodians) == maxCustodians {
		return 0, fmt.Errorf("records of more than %d custodians", maxCustodians)
	}
	p := parties(1) << len(t.custodians)
	t.custodians[name] = p
	return p, nil
}

func (t *totals) balance(a account) *balance {
	b := t.accounts[a]
	if b == nil {
		b = &balance{account: a}
		t.accounts[a] = b
	}
	return b
}

func (t *totals) spent(a account) int64 {
	if b := t.accounts[a]; b != nil {
		return b.spent
	}
	return 0
}

// add takes a record into account.
func (t *totals) add(r *Record) error {
	by, err := t.party(r.By)
	if err != nil {
		return err
	}
	switch {
	case r.Type == recordRelease:
		t.ended[r.Plan] = true
	case r.Type == recordCharge && r.Charge != nil:
		t.charge(r, by)
		on := t.balance(account{keyset: r.Charge.Keyset, epoch: r.Charge.Epoch, scenario: r.Charge.Scenario})
		for _, o := range r.Charge.Opens {
			t.open(o, on, by)
		}
	}
	return nil
}

func (t *totals) charge(r *Record, by parties) {
	c := t.plans[r.Plan]
	if c == nil {
		c = &planCharge{job: r.Job, last: r.At}
		t.plans[r.Plan] = c
	}
	c.datasetMicro = max(c.datasetMicro, r.Charge.DatasetMicro)
	c.by |= by
	c.job = min(c.job, r.Job) // the same on every custodian, whatever order records came in; IDs sort by age
	if r.At.After(c.last.Time) {
		c.last = r.At
	}
	for a, n := range r.Charge.amounts() {
		to := t.balance(a)
		i := slices.IndexFunc(c.on, func(x amount) bool { return x.to == to })
		if i < 0 {
			i = len(c.on)
			c.on = append(c.on, amount{to: to})
		}
		if more := min(n, mostMicro) - c.on[i].micro; more > 0 {
			c.on[i].micro += more
			to.spent = min(to.spent+more, mostMicro)
		}
	}
}

func (t *totals) open(o Opening, on *balance, by parties) {
	have, ok := t.keys[o.Key]
	if !ok {
		have.ciphertext = o.Ciphertext
	}
	if !have.on(on.keyset) {
		t.openings[on.keyset]++
	}
	i := slices.IndexFunc(have.to, func(c chargedTo) bool { return c.on == on })
	if i < 0 {
		have.to = append(have.to, chargedTo{on: on, by: by})
		t.keys[o.Key] = have
		return
	}
	have.to[i].by |= by
}

// on reports whether the key was charged to a keyset.
func (o opened) on(keyset enclave.Digest) bool {
	return slices.ContainsFunc(o.to, func(c chargedTo) bool { return c.on.keyset == keyset })
}

// payment is what is known of a noise key.
type payment struct {
	ciphertext            enclave.Digest // the only one that may be opened under it; zero if none was charged
	byDataset, byScenario bool           // it was paid for, and again by a scenario: asking once more is free
	counted               bool           // it is among the openings of the keyset
}

// paid says whether what was charged for a noise key counts as payment, to one custodian. A charge that less than a quorum
// of custodians have on record does not, unless this one is among them: all of its authors may be corrupt, and a charge
// of nothing, written by one custodian before anybody has asked, would make the question free.
func (t *totals) paid(key, keyset enclave.Digest, me string, quorum int, scenario enclave.Digest) payment {
	o := t.keys[key]
	p := payment{ciphertext: o.ciphertext, counted: o.on(keyset)}
	enough := func(by parties) bool { return by&t.custodians[me] != 0 || bits.OnesCount64(uint64(by)) >= quorum }
	var all, ofScenario parties
	for _, c := range o.to {
		all |= c.by
		if c.on.scenario == scenario {
			ofScenario |= c.by
		}
	}
	p.byDataset, p.byScenario = enough(all), enough(ofScenario)
	return p
}

// charged is what was charged for a plan, and by whom.
type charged struct {
	datasetMicro int64
	job          string
	last         enclave.Time
	by           map[string]bool
	on           map[account]int64
}

func (t *totals) charged(plan enclave.Digest) (out charged, ok bool) {
	c := t.plans[plan]
	if c == nil {
		return out, false
	}
	out = charged{datasetMicro: c.datasetMicro, job: c.job, last: c.last, by: map[string]bool{}, on: map[account]int64{}}
	for name, p := range t.custodians {
		if c.by&p != 0 {
			out.by[name] = true
		}
	}
	for _, a := range c.on {
		out.on[a.to.account] = a.micro
	}
	return out, true
}
