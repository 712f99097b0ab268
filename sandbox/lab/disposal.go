package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// How a dataset ends (art. 19), in this order, each step repeatable:
//
//  1. Its owner's steward signs an order, or two officials do. It is stored, then logged. From the log entry on nothing of
//     the dataset is planned, sealed or opened, whatever becomes of the rest.
//  2. The control plane destroys the data keys of its blobs and the blobs, and tries to read one.
//  3. Every custodian of the keyset in force destroys its pieces and their wrapping keys, tries to use them, logs that and
//     gives its signed word. Words are kept as they come: one that was given need not be asked for again.
//  4. The certificate is made once, of the words that are enough, kept as a candidate, logged, stored.
//
// Whoever cannot be reached is asked again in the next round. A round may be run by several processes at once.

var errDisposed = fmt.Errorf("the dataset was disposed of, for good: %w", sandbox.ErrConflict)

// Destroyer does what a disposal needs beyond records.
type Destroyer interface {
	// Destroy has a custodian destroy what it holds of the order's lineage, and returns its word. Its errors are for people:
	// they name the custodian, and no address.
	Destroy(ctx context.Context, custodian string, order, roster enclave.Signed) (enclave.Signed, error)
	// Discard destroys the data keys of a lineage's blobs and the blobs themselves, tries to read one, and returns how many
	// keys there were and what reading gave.
	Discard(ctx context.Context, lineage enclave.Digest, blobs []enclave.Digest) (dataKeys int64, attempt string, err error)
}

// order is the word that ended a lineage.
type order struct {
	enclave.DisposalOrder
	signed enclave.Signed
	digest enclave.Digest
}

// disposals finds the orders by lineage.
func disposals(ctx context.Context, records sandbox.Records) (map[enclave.Digest]*order, error) {
	all, err := records.Artefacts(ctx, enclave.KindDisposalOrder)
	if err != nil {
		return nil, err
	}
	out := map[enclave.Digest]*order{}
	for _, s := range all {
		o := &order{signed: s, digest: s.Digest()}
		if err := s.Open(enclave.KindDisposalOrder, &o.DisposalOrder); err != nil {
			return nil, err
		}
		if out[o.Keyset] == nil {
			out[o.Keyset] = o
		}
	}
	return out, nil
}

// requestSetting is where an order waits for its second official.
func requestSetting(lineage enclave.Digest) string { return "disposal-request " + lineage.String() }

// request finds the order for a lineage that waits for a second official. There may be none.
func request(ctx context.Context, records sandbox.Records, lineage enclave.Digest) (s enclave.Signed, ok bool, _ error) {
	data, err := records.Setting(ctx, requestSetting(lineage))
	if errors.Is(err, sandbox.ErrNotFound) {
		return s, false, nil
	}
	if err == nil {
		err = canon.Unmarshal(data, &s)
	}
	return s, err == nil, err
}

// OrderDisposal records an order that ends a dataset. One by the owner's steward, or by two officials, is in force from its
// log entry on; one by an official waits for a second one. A further order finds the first and changes nothing: the
// returned one is in force, or waits.
func (l *Lab) OrderDisposal(ctx context.Context, s enclave.Signed) (_ enclave.Signed, inForce bool, _ error) {
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return s, false, err
	}
	o, err := enclave.OpenOrder(s, roster)
	asked := false
	if errors.Is(err, operators.ErrRole) { // perhaps it is an official's, the first one's
		var only error
		if o, only = enclave.OpenRequest(s, roster); only == nil {
			asked, err = true, nil
		}
	}
	if err != nil {
		return s, false, err
	}
	for _, sig := range s.Sigs {
		if p, _ := roster.Find(sig.By); p.Absent {
			return s, false, fmt.Errorf("disposing of dataset %q: %w: %q", o.Dataset, operators.ErrAbsent, p.Name)
		}
	}
	leave, err := l.ends.enter(ctx, o.Keyset)
	if err != nil {
		return s, false, err
	}
	defer leave()
	d, err := l.Dataset(ctx, o.Dataset)
	if err != nil {
		return s, false, fmt.Errorf("disposing: %w", err)
	}
	if d.KeysetDigest != o.Keyset || d.Keyset.Owner != o.Owner {
		return s, false, fmt.Errorf("disposing of dataset %q: %w: its keyset is %s of %q, the order names %s of %q",
			o.Dataset, sandbox.ErrConflict, d.KeysetDigest.Short(), d.Keyset.Owner, o.Keyset.Short(), o.Owner)
	}
	if d.Disposal == nil {
		if asked {
			if s, inForce, err = l.second(ctx, s, o); err != nil || !inForce {
				return s, false, err
			}
		}
		// The order is stored first: an entry that ends a dataset must not stand there without the words that explain it.
		// A crash in between leaves a dataset that is closed here, and a round that ends what is left to do.
		if _, err := l.cfg.Store.PutArtefact(ctx, s, l.cfg.Clock()); err != nil {
			return s, false, err
		}
		failpoint.Hit(failpoint.OrderStored)
	}
	all, err := disposals(ctx, l.cfg.Store)
	if err != nil {
		return s, false, err
	}
	first := all[o.Keyset]
	err = l.announceDisposal(ctx, first)
	failpoint.Hit(failpoint.OrderLogged)
	return first.signed, true, err
}

// second joins an official's order with the one that waits. It is in force when two different people have signed the same
// bytes; the author of a request may replace it by another.
func (l *Lab) second(ctx context.Context, s enclave.Signed, o *enclave.DisposalOrder) (joined enclave.Signed, inForce bool, err error) {
	by := s.Sigs[0].By
	before, found, err := request(ctx, l.cfg.Store, o.Keyset)
	if err != nil {
		return s, false, err
	}
	if !found || before.Digest() != s.Digest() && before.Sigs[0].By == by {
		if o.By != by {
			return s, false, fmt.Errorf("disposing of dataset %q: %w: %q signs what %q wrote, and no such request waits", o.Dataset, sandbox.ErrConflict, by, o.By)
		}
		if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryDisposalRequest, Subject: s.Digest(), By: by, Reason: o.Cause, At: l.now()}); err != nil {
			return s, false, err
		}
		failpoint.Hit(failpoint.RequestLogged)
		err := l.cfg.Store.SetSetting(ctx, requestSetting(o.Keyset), canon.MustMarshal(s))
		failpoint.Hit(failpoint.RequestStored)
		return s, false, err
	}
	if before.Digest() != s.Digest() {
		var was enclave.DisposalOrder
		if err := before.Open(enclave.KindDisposalOrder, &was); err != nil {
			return s, false, err
		}
		return s, false, fmt.Errorf("disposing of dataset %q: %w: %q has asked for it already, cause %s, %s: sign that, or let it be", o.Dataset, sandbox.ErrConflict, was.By, was.Cause, was.Reason)
	}
	if before.Sigs[0].By == by {
		return before, false, nil // a repeated call
	}
	joined = enclave.Signed{Kind: s.Kind, Body: s.Body, Sigs: append(slices.Clone(before.Sigs), s.Sigs...)}
	_, roster, err := l.Roster(ctx)
	if err == nil {
		_, err = enclave.OpenOrder(joined, roster)
	}
	return joined, err == nil, err
}

func (l *Lab) announceDisposal(ctx context.Context, o *order) error {
	return l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryDisposal, Subject: o.Keyset, By: o.By, Reason: o.Cause, At: l.now()})
}

// Disposal is how far the end of a dataset is.
type Disposal struct {
	Order   enclave.Signed
	InForce bool                     // else it waits for a second official
	Waiting []string                 // what is still to be done, and why it is not
	Receipt *enclave.DisposalReceipt // once all is destroyed
}

// Dispose runs a round of a dataset's disposal: whatever is left to do is tried once. There must be an order.
func (l *Lab) Dispose(ctx context.Context, dataset string) (*Disposal, error) {
	o, err := l.orderOf(ctx, dataset)
	if err != nil {
		return nil, err
	}
	if o.signed.Body == nil {
		return l.Disposal(ctx, dataset) // only asked for
	}
	if err := l.round(ctx, o); err != nil {
		return nil, fmt.Errorf("disposing of dataset %q: %w", dataset, err)
	}
	return l.Disposal(ctx, dataset)
}

// orderOf finds a dataset's order. Where there is only a request, it has no signed bytes.
func (l *Lab) orderOf(ctx context.Context, dataset string) (*order, error) {
	d, err := l.cfg.Store.Dataset(ctx, dataset)
	if err != nil {
		return nil, err
	}
	all, err := disposals(ctx, l.cfg.Store)
	if err != nil {
		return nil, err
	}
	if o := all[d.Keyset]; o != nil {
		return o, nil
	}
	return &order{DisposalOrder: enclave.DisposalOrder{Dataset: dataset, Keyset: d.Keyset}}, nil
}

// Disposal says how far the end of a dataset is, and does nothing. A dataset in use that nobody wants to end has none:
// ErrNotFound.
func (l *Lab) Disposal(ctx context.Context, dataset string) (*Disposal, error) {
	o, err := l.orderOf(ctx, dataset)
	if err != nil {
		return nil, err
	}
	if o.signed.Body == nil {
		s, asked, err := request(ctx, l.cfg.Store, o.Keyset)
		if err == nil && !asked {
			err = fmt.Errorf("disposal of dataset %q: %w: it is in use", dataset, sandbox.ErrNotFound)
		}
		return &Disposal{Order: s, Waiting: []string{"a second official"}}, err
	}
	out := &Disposal{Order: o.signed, InForce: true}
	cert, err := l.certificate(ctx, o.digest)
	if errors.Is(err, sandbox.ErrNotFound) {
		out.Waiting, err = l.waiting(ctx, o)
		return out, err
	}
	if err == nil {
		out.Receipt, err = l.disposalReceipt(ctx, o, cert)
	}
	return out, err
}

// ends is what a process remembers of disposals: for people, why something is not done; and what it has done again.
type ends struct {
	mu        sync.Mutex
	why       map[string]string       // by order and what is waited for
	discarded map[enclave.Digest]bool // lineages that are at their end, and whose blobs were removed once more
	busy      map[enclave.Digest]chan struct{}
}

// enter waits until nobody else in this process orders or carries out the end of a lineage. Between processes every step
// is repeatable, at the cost of an entry that stands in the log twice.
func (p *ends) enter(ctx context.Context, lineage enclave.Digest) (leave func(), _ error) {
	p.mu.Lock()
	turn := p.busy[lineage]
	if turn == nil {
		turn = make(chan struct{}, 1)
		p.busy[lineage] = turn
	}
	p.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *ends) note(o *order, what string, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if delete(p.why, o.digest.String()+what); why != "" {
		p.why[o.digest.String()+what] = why
	}
}

func (p *ends) of(o *order, what string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why[o.digest.String()+what]
}

// theBlobs is what the control plane itself has to destroy.
const theBlobs = "blobs"

// waiting lists what a disposal still waits for.
func (l *Lab) waiting(ctx context.Context, o *order) (out []string, _ error) {
	ks, latest, _, roster, err := l.ending(ctx, o)
	if err != nil {
		return nil, err
	}
	words, err := l.words(ctx, o)
	if err != nil {
		return nil, err
	}
	if why := l.ends.of(o, theBlobs); why != "" {
		out = append(out, why)
	}
	for _, name := range enclave.Gone(ks, latest, opened(words), roster) {
		out = append(out, cmp.Or(l.ends.of(o, name), fmt.Sprintf("custodian %q has not answered yet", name)))
	}
	if len(out) == 0 {
		out = append(out, "the certificate is not made yet")
	}
	return out, nil
}

// ending is whom a disposal has to hear: the keyset in force, its lineage, and the roster.
func (l *Lab) ending(ctx context.Context, o *order) (ks *enclave.Keyset, latest enclave.Digest, all []enclave.Signed, roster *operators.Roster, err error) {
	if all, err = l.lineage(ctx, o.Keyset); err != nil {
		return
	}
	if ks, latest, err = enclave.Lineage(o.Keyset, all, 0); err != nil {
		return
	}
	_, roster, err = l.Roster(ctx)
	return
}

// SignedLineage returns the keysets of a dataset as its owner signed them, the oldest first, and the order that ended it or
// an envelope without kind.
func (l *Lab) SignedLineage(ctx context.Context, dataset string) (keysets []enclave.Signed, order enclave.Signed, _ error) {
	keysets, err := l.Lineage(ctx, dataset)
	if err != nil {
		return nil, order, err
	}
	o, err := l.orderOf(ctx, dataset)
	if err != nil {
		return nil, order, err
	}
	return keysets, o.signed, nil
}
