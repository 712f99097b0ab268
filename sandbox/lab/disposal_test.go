package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// fakeDestroyer is three custodians and a blob store that do as they are told, and can be made to fail.
type fakeDestroyer struct {
	w *world

	mu    sync.Mutex
	away  map[string]error
	lies  func(d *enclave.Destruction)
	blobs error
	keys  int64 // data keys that are there
	calls map[string]int
}

func (f *fakeDestroyer) Destroy(ctx context.Context, custodian string, order, _ enclave.Signed) (enclave.Signed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[custodian]++
	if err := f.away[custodian]; err != nil {
		return enclave.Signed{}, err
	}
	var o enclave.DisposalOrder
	f.w.check(order.Open(enclave.KindDisposalOrder, &o))
	word := enclave.Destruction{Order: order.Digest(), Keyset: o.Keyset, By: custodian, Made: f.w.at()}
	for p, without := range []string{"ca", "cb", "cc"} {
		if without != custodian {
			word.Destroyed = append(word.Destroyed, enclave.Destroyed{Keyset: o.Keyset, Piece: p, Attempt: "gone"})
		}
	}
	if f.lies != nil {
		f.lies(&word)
	}
	s := f.w.sign(custodian, enclave.KindDestruction, word)
	_, err := f.w.log.Append(ctx, enclave.Entry{Type: enclave.EntryDestruction, Subject: s.Digest(), By: custodian, At: f.w.at()})
	return s, err
}

func (f *fakeDestroyer) Discard(context.Context, enclave.Digest, []enclave.Digest) (int64, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blobs != nil {
		return 0, "", f.blobs
	}
	n := f.keys
	f.keys = 0
	return n, "not found", nil
}

// disposable is a world with a dataset "water" that can be destroyed.
func disposable(t *testing.T) (*world, *fakeDestroyer, enclave.Digest) {
	t.Helper()
	w := newWorld(t)
	f := &fakeDestroyer{w: w, away: map[string]error{}, calls: map[string]int{}, keys: 1}
	w.destroyer = f
	w.restart()
	keyset := w.dealt("water", "steward", "agency")
	w.check(w.lab.RegisterKeyset(t.Context(), keyset))
	return w, f, keyset.Digest()
}

// dealt is a keyset as seal.Deal makes it, with made-up commitments.
func (w *world) dealt(dataset, by, owner string) enclave.Signed {
	w.t.Helper()
	ks := enclave.Keyset{Dataset: dataset, Owner: owner, Params: "bgv13-t36", Custodians: []string{"ca", "cb", "cc"}, Quorum: 2, EntityRows: 1, BudgetMicro: 1_000_000, Epoch: 1, By: by, Made: w.at()}
	for i := range 3 {
		ks.Pieces = append(ks.Pieces, enclave.Piece{Without: []int{i}, Commitment: canon.Sum(fmt.Append(nil, dataset, i))})
	}
	return w.sign(by, enclave.KindKeyset, ks)
}

func (w *world) order(by, dataset, owner string, keyset enclave.Digest) enclave.Signed {
	w.t.Helper()
	return w.sign(by, enclave.KindDisposalOrder, enclave.DisposalOrder{Dataset: dataset, Owner: owner, Keyset: keyset, Cause: enclave.CauseExpired, Reason: "r", By: by, Made: w.at()})
}

func (w *world) receiptOf(d *lab.Disposal) *enclave.CheckedDisposal {
	w.t.Helper()
	c, err := d.Receipt.Check(w.rootKey(), func(r *operators.Roster) (enclave.LogKeys, error) { return audit.ParseKeys(r.Log, r.Witness) })
	w.check(err)
	return c
}

func TestDisposalWaitsForEverybodyAndResumes(t *testing.T) {
	w, f, keyset := disposable(t)
	if _, err := w.lab.Dispose(t.Context(), "water"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("a disposal that nobody ordered: %v", err)
	}
	f.away["cb"], f.blobs = errors.New(`custodian "cb" cannot be reached`), errors.New("/var/lib/secret: permission denied")
	w.now = w.now.Add(1e9)
	_, inForce, err := w.lab.OrderDisposal(t.Context(), w.order("steward", "water", "agency", keyset))
	if err != nil || !inForce {
		t.Fatalf("in force: %v, %v", inForce, err)
	}
	d, err := w.lab.Dispose(t.Context(), "water")
	w.check(err)
	if got := strings.Join(d.Waiting, "|"); d.Receipt != nil || len(d.Waiting) != 2 || !strings.Contains(got, `custodian "cb" cannot be reached`) || strings.Contains(got, "secret") {
		t.Errorf("waiting for %q", got)
	}
	// A restart forgets why, not who has given the word already.
	w.restart()
	if d, err = w.lab.Disposal(t.Context(), "water"); err != nil || len(d.Waiting) != 1 || !strings.Contains(d.Waiting[0], `"cb"`) {
		t.Errorf("after a restart %+v, %v", d, err)
	}
	f.blobs = nil
	if n, err := w.lab.EndDisposals(t.Context()); err != nil || n != 1 {
		t.Errorf("%d unfinished, %v", n, err)
	}
	delete(f.away, "cb")
	if n, err := w.lab.EndDisposals(t.Context()); err != nil || n != 0 {
		t.Errorf("%d unfinished, %v", n, err)
	}
	d, err = w.lab.Disposal(t.Context(), "water")
	w.check(err)
	c := w.receiptOf(d)
	if len(c.Certificate.Destructions) != 3 || c.Certificate.DataKeys != 1 || c.Order.Cause != enclave.CauseExpired {
		t.Errorf("certificate %+v", c.Certificate)
	}
	for _, name := range []string{"ca", "cc"} {
		if f.calls[name] != 1 {
			t.Errorf("%s was asked %d times", name, f.calls[name])
		}
	}
	// Nothing of the dataset goes on.
	if err := w.lab.RegisterKeyset(t.Context(), w.dealt("water", "steward", "agency")); err == nil {
		ds, err := w.lab.Dataset(t.Context(), "water")
		if err != nil || ds.Disposal == nil {
			t.Errorf("registering again brings it back: %+v, %v", ds, err)
		}
	}
}

// A crash after any step leaves one order, one certificate, and a disposal that goes on.
func TestDisposalCrashes(t *testing.T) {
	w, f, keyset := disposable(t)
	w.logDown = true // stored, and not in the log: the dataset is closed here already
	if _, _, err := w.lab.OrderDisposal(t.Context(), w.order("steward", "water", "agency", keyset)); !errors.Is(err, errLogDown) {
		t.Fatal(err)
	}
	if _, err := w.lab.Dispose(t.Context(), "water"); !errors.Is(err, errLogDown) || f.calls["ca"] != 0 {
		t.Errorf("without a log entry %d custodians were asked: %v", f.calls["ca"], err)
	}
	w.restart()
	ds, err := w.lab.Dataset(t.Context(), "water")
	if w.check(err); ds.Disposal == nil {
		t.Error("the dataset is open")
	}
	w.logDown = false
	f.away["ca"] = errors.New("away")
	if n, err := w.lab.EndDisposals(t.Context()); err != nil || n != 1 {
		t.Errorf("%d unfinished, %v", n, err)
	}
	delete(f.away, "ca")
	w.logDownFor = enclave.EntryCertificate // signed, kept as the candidate, and not in the log
	if _, err := w.lab.Dispose(t.Context(), "water"); !errors.Is(err, errLogDown) {
		t.Fatal(err)
	}
	w.restart()
	w.logDownFor = ""
	w.now = w.now.Add(1e12)
	d, err := w.lab.Dispose(t.Context(), "water")
	w.check(err)
	c := w.receiptOf(d)
	if !c.Certificate.Made.Before(w.now.Add(-1e11)) {
		t.Errorf("a second certificate was signed, at %v", c.Certificate.Made)
	}
	if c.Certificate.DataKeys != 1 {
		t.Errorf("%d data keys: what was destroyed before the crash is forgotten", c.Certificate.DataKeys)
	}
	for _, kind := range []string{enclave.EntryDisposal, enclave.EntryCertificate} {
		have, err := w.store.Entries(t.Context(), sandbox.EntryFilter{Type: kind})
		if w.check(err); len(have) != 1 {
			t.Errorf("%d entries of type %s", len(have), kind)
		}
	}
}

func TestDisposalOrders(t *testing.T) {
	w, _, keyset := disposable(t)
	two := func(a, b string) enclave.Signed {
		s := w.order(a, "water", "agency", keyset)
		s.Sigs = append(s.Sigs, canon.Sign(s.Kind, s.Body, b, w.keys[b]))
		return s
	}
	unsigned := w.order("steward", "water", "agency", keyset)
	unsigned.Sigs = []canon.Signature{}
	forged := w.order("steward", "water", "agency", keyset)
	forged.Sigs[0].By = "o1"
	for what, c := range map[string]struct {
		order enclave.Signed
		want  error
	}{
		"another agency's steward": {w.order("other", "water", "agency", keyset), operators.ErrRole},
		"another owner":            {w.order("other", "water", "other agency", keyset), sandbox.ErrConflict},
		"another keyset":           {w.order("steward", "water", "agency", canon.Sum([]byte("x"))), sandbox.ErrConflict},
		"an analyst":               {w.order("analyst", "water", "agency", keyset), operators.ErrRole},
		"the lab itself":           {w.order("lab", "water", "agency", keyset), operators.ErrRole},
		"no dataset":               {w.order("steward", "air", "agency", keyset), sandbox.ErrNotFound},
		"steward and official":     {two("steward", "o1"), operators.ErrRole},
		"one official twice":       {two("o1", "o1"), operators.ErrSignature},
		"nobody":                   {unsigned, operators.ErrSignature},
		"a forged signature":       {forged, operators.ErrSignature},
	} {
		if _, _, err := w.lab.OrderDisposal(t.Context(), c.order); !errors.Is(err, c.want) {
			t.Errorf("an order by %s gives %v, want %v", what, err, c.want)
		}
	}
	if ds, err := w.lab.Dataset(t.Context(), "water"); err != nil || ds.Disposal != nil {
		t.Fatalf("after all that: %+v, %v", ds, err)
	}
	// An official's request: repeated, replaced by its author, contradicted, and joined by another.
	ask := func(s enclave.Signed) (bool, error) {
		_, inForce, err := w.lab.OrderDisposal(t.Context(), s)
		return inForce, err
	}
	first := w.order("o1", "water", "agency", keyset)
	for range 2 {
		if inForce, err := ask(first); err != nil || inForce {
			t.Fatalf("a request: %v, %v", inForce, err)
		}
	}
	w.now = w.now.Add(1e10)
	if _, err := ask(w.order("o2", "water", "agency", keyset)); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("another official's own request: %v", err)
	}
	other := w.order("o1", "water", "agency", keyset) // made later: other bytes
	if inForce, err := ask(other); err != nil || inForce {
		t.Fatalf("the author's other request: %v, %v", inForce, err)
	}
	agrees := func(s enclave.Signed) enclave.Signed {
		return enclave.Signed{Kind: s.Kind, Body: s.Body, Sigs: []canon.Signature{canon.Sign(s.Kind, s.Body, "o2", w.keys["o2"])}}
	}
	if _, err := ask(agrees(first)); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("signing what was replaced: %v", err)
	}
	if inForce, err := ask(agrees(other)); err != nil || !inForce {
		t.Fatalf("two officials: %v, %v", inForce, err)
	}
	d, err := w.lab.Dispose(t.Context(), "water")
	if w.check(err); len(w.receiptOf(d).Certificate.Order.Sigs) != 2 {
		t.Error("the certificate has not both signatures")
	}
}

// A custodian that says too little, or speaks for another, is not believed; one that the roster marks absent need not
// speak, two have to.
func TestDisposalWords(t *testing.T) {
	w, f, keyset := disposable(t)
	_, _, err := w.lab.OrderDisposal(t.Context(), w.order("steward", "water", "agency", keyset))
	w.check(err)
	for what, lie := range map[string]func(d *enclave.Destruction){
		"a piece too few":   func(d *enclave.Destruction) { d.Destroyed = d.Destroyed[:1] },
		"another order":     func(d *enclave.Destruction) { d.Order = canon.Sum([]byte("x")) },
		"another keyset":    func(d *enclave.Destruction) { d.Keyset = canon.Sum([]byte("x")) },
		"in another's name": func(d *enclave.Destruction) { d.By = "ca" },
	} {
		w, f, keyset := disposable(t)
		_, _, err := w.lab.OrderDisposal(t.Context(), w.order("steward", "water", "agency", keyset))
		w.check(err)
		f.lies = func(d *enclave.Destruction) {
			if d.By == "cb" {
				lie(d)
			}
		}
		if d, err := w.lab.Dispose(t.Context(), "water"); err != nil || d.Receipt != nil || len(d.Waiting) != 1 || !strings.Contains(d.Waiting[0], "cb") {
			t.Errorf("with %s: %+v, %v", what, d, err)
		}
	}
	f.away["cb"] = errors.New(`custodian "cb" cannot be reached`)
	d, err := w.lab.Dispose(t.Context(), "water")
	if w.check(err); d.Receipt != nil {
		t.Fatal("it does not wait for cb")
	}
	w.leaves("cb")
	d, err = w.lab.Dispose(t.Context(), "water")
	if w.check(err); d.Receipt == nil || len(w.receiptOf(d).Certificate.Destructions) != 2 {
		t.Errorf("with cb marked absent it waits for %q", d.Waiting)
	}

	w, f, keyset = disposable(t)
	_, _, err = w.lab.OrderDisposal(t.Context(), w.order("steward", "water", "agency", keyset))
	w.check(err)
	f.away["cb"], f.away["cc"] = errors.New("away"), errors.New("away")
	w.leaves("cb", "cc")
	if d, err = w.lab.Dispose(t.Context(), "water"); err != nil || d.Receipt != nil {
		t.Errorf("two that left could still open it: %+v, %v", d, err)
	}
}

// leaves marks custodians absent in a new roster, with others in their place.
func (w *world) leaves(names ...string) {
	w.t.Helper()
	var r operators.Roster
	w.check(w.roster.Open(operators.KindRoster, &r))
	r.Serial++
	for i, p := range r.Parties {
		for _, n := range names {
			if p.Name == n {
				r.Parties[i].Absent = true
				r.Parties = append(r.Parties, operators.Party{Name: n + "2", Role: operators.RoleCustodian, Body: n + "2", Verify: w.newKey(n + "2")})
			}
		}
	}
	w.roster = w.sign("root", operators.KindRoster, r)
	w.check(w.lab.PutRoster(w.t.Context(), w.roster))
}
