package lab

import (
	"context"
	"errors"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

var errDisposed = fmt.Errorf("the dataset was disposed of, for good: %w", sandbox.ErrConflict)

// order is the owner's word that ended a lineage.
type order struct {
	enclave.DisposalOrder
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
		o := &order{digest: s.Digest()}
		if err := s.Open(enclave.KindDisposalOrder, &o.DisposalOrder); err != nil {
			return nil, err
		}
		if out[o.Keyset] == nil {
			out[o.Keyset] = o
		}
	}
	return out, nil
}

// OrderDisposal records the owner's order that ends a dataset (art. 19). From its log entry on nothing of the dataset is
// planned, sealed or opened. A second order finds the first and changes nothing: the returned one is in force.
func (l *Lab) OrderDisposal(ctx context.Context, s enclave.Signed) (enclave.Signed, error) {
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return s, err
	}
	by, err := roster.Verify(s, enclave.KindDisposalOrder, operators.RoleSteward)
	if err != nil {
		return s, err
	}
	var o enclave.DisposalOrder
	if err := s.Open(enclave.KindDisposalOrder, &o); err != nil {
		return s, err
	}
	if err := o.Validate(); err != nil {
		return s, err
	}
	d, err := l.Dataset(ctx, o.Dataset)
	if err != nil {
		return s, fmt.Errorf("disposing: %w", err)
	}
	if d.KeysetDigest != o.Keyset || d.Keyset.Owner != o.Owner || by.Body != o.Owner {
		return s, fmt.Errorf("disposing of dataset %q: steward %q of %q cannot end keyset %s of %q", o.Dataset, by.Name, by.Body, d.KeysetDigest.Short(), d.Keyset.Owner)
	}
	if d.Disposal == nil {
		// The order is stored first: an entry that ends a dataset must not stand there without the words that explain it.
		// A crash in between leaves a dataset that is closed here, and an order that is given again.
		if _, err := l.cfg.Store.PutArtefact(ctx, s, l.cfg.Clock()); err != nil {
			return s, err
		}
		failpoint.Hit(failpoint.OrderStored)
		d.DisposalDigest = s.Digest()
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryDisposal, Subject: o.Keyset, By: by.Name, Reason: o.Cause, At: l.now()}); err != nil {
		return s, err
	}
	failpoint.Hit(failpoint.OrderLogged)
	return l.cfg.Store.Artefact(ctx, enclave.KindDisposalOrder, d.DisposalDigest)
}

// Certify signs and records a disposal's certificate; there is one for an order. Whoever hands it over has checked it.
func (l *Lab) Certify(ctx context.Context, c enclave.Disposal) (enclave.Signed, error) {
	if s, err := l.Certificate(ctx, c.Order.Digest()); err == nil || !errors.Is(err, sandbox.ErrNotFound) {
		return s, err
	}
	c.By, c.Made = l.cfg.Lab.Name(), l.now()
	s, err := l.sign(enclave.KindDisposal, c)
	if err != nil {
		return s, err
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryCertificate, Subject: s.Digest(), By: c.By, At: c.Made}); err != nil {
		return s, err
	}
	failpoint.Hit(failpoint.CertLogged)
	_, err = l.cfg.Store.PutArtefact(ctx, s, l.cfg.Clock())
	failpoint.Hit(failpoint.CertStored)
	return s, err
}

// Certificate finds the certificate of a dataset's disposal.
func (l *Lab) Certificate(ctx context.Context, order enclave.Digest) (enclave.Signed, error) {
	all, err := l.cfg.Store.Artefacts(ctx, enclave.KindDisposal)
	if err != nil {
		return enclave.Signed{}, err
	}
	for _, s := range all {
		var c enclave.Disposal
		if err := s.Open(enclave.KindDisposal, &c); err != nil {
			return s, err
		}
		if c.Order.Digest() == order {
			return s, nil
		}
	}
	return enclave.Signed{}, fmt.Errorf("certificate of disposal %s: %w", order.Short(), sandbox.ErrNotFound)
}
