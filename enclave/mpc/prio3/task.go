// Package prio3 collects measurements from many reporters of whom none is trusted and none is seen: smart meters, village
// committees. It is the Prio3 family of verifiable distributed aggregation functions (draft-irtf-cfrg-vdaf-13, in
// circl) between two aggregators, each a custodian of another body.
//
// A report is two input shares, each encrypted to its aggregator, with a proof that what they add up to is within the
// collection's bounds. The aggregators exchange signed prep shares, verify the proof together without either learning the
// measurement, and add the shares of good reports. Each adds one full sample of discrete noise to its total before the
// totals meet, so that neither the reader of the result nor a corrupt aggregator sees less than ε-noise.
//
// Whether a batch may be released is not decided here: each aggregator asks the custodian beside it (Gate), which charges
// the batch in the dataset's ledger before either gives its total, and gives the key of its noise.
//
// What is refused, alone and with its rule counted: reports that are malformed, of another collection, from nobody
// enrolled, badly signed, seen before, second from one reporter in a batch, not decryptable, or with a proof that does
// not verify. An identifier is on disk before its prep share leaves, so no crash lets a report count twice.
//
// Privacy holds against one corrupt aggregator; that the totals are right needs both honest: like all of Prio, an
// aggregator can add what it likes to its own share. Bad reporters can lie within the bounds, once per batch each.
package prio3

import (
	"crypto/ed25519"
	"fmt"
	"math/big"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/internal/canon"
)

// Task is a collection that was parsed and found sound. Several goroutines may use it.
type Task struct {
	enclave.Collection
	Digest    enclave.Digest
	Reporters []enclave.Reporter
	vdaf      *vdaf     // its lengths and its field; to work with, take one from pool
	pool      sync.Pool // of *vdaf
	noise     dp.Scale
}

// NewTask checks a collection and who may report to it. signed is the analyst's artefact; verifying the signature is
// the caller's business, because it needs a roster.
func NewTask(signed canon.Signed, enrolment []byte) (*Task, error) {
	t := &Task{Digest: signed.Digest()}
	if err := signed.Open(enclave.KindCollection, &t.Collection); err != nil {
		return nil, fmt.Errorf("reading a collection: %w", err)
	}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	var e enclave.Enrolment
	if err := canon.Unmarshal(enrolment, &e); err != nil {
		return nil, fmt.Errorf("collection %q: %w", t.Name, err)
	}
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("collection %q: %w", t.Name, err)
	}
	if canon.Sum(enrolment) != t.Enrolment || int64(len(enrolment)) != t.EnrolmentBytes {
		return nil, fmt.Errorf("collection %q: the enrolment given is not the one that it names, %s", t.Name, t.Enrolment.Short())
	}
	t.Reporters = e.Reporters
	again := func() (*vdaf, error) {
		return compile(t.Measurement, append([]byte("yingzhou collection\x00"), t.Digest[:]...))
	}
	var err error
	if t.vdaf, err = again(); err != nil {
		return nil, fmt.Errorf("collection %q: %w", t.Name, err)
	}
	t.pool.New = func() any {
		v, err := again()
		if err != nil {
			panic("prio3: what compiled once compiles again: " + err.Error())
		}
		return v
	}
	t.noise = dp.LaplaceScale(1, t.Measurement.Delta(), t.EpsilonMicro)
	most := new(big.Int).Mul(big.NewInt(enclave.MaxReports), big.NewInt(max(1, t.Measurement.Max)))
	most.Add(most, dp.TailBound(t.noise, aggregators, 64))
	if most.BitLen() > 62 {
		return nil, fmt.Errorf("collection %q: totals and noise may reach 2^%d, beyond 2^62: ask for a smaller greatest value or a larger ε", t.Name, most.BitLen()-1)
	}
	return t, nil
}

const aggregators = 2

// with lends f a function that nobody else uses meanwhile.
func (t *Task) with(f func(*vdaf)) {
	v := t.pool.Get().(*vdaf)
	f(v)
	t.pool.Put(v)
}

// index finds an aggregator: 0 leads, 1 helps.
func (t *Task) index(name string) (int, error) {
	for i, a := range t.Aggregators {
		if a == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("collection %q: %q is not one of its aggregators %q", t.Name, name, t.Aggregators)
}

func (t *Task) reporter(i uint32) (ed25519.PublicKey, bool) {
	if int64(i) >= int64(len(t.Reporters)) {
		return nil, false
	}
	return t.Reporters[i].Verify, true
}
