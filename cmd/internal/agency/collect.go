package agency

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

// ConfirmCollection confirms, for the owner of the data, a collection with the list of those who may report. The list is
// the steward's own copy: it must be the one that the collection names.
func (a *Agency) ConfirmCollection(ctx context.Context, name string, enrolment []byte) error {
	c, err := a.cfg.Lab.Collection(ctx, name)
	if err != nil {
		return err
	}
	d, err := a.cfg.Lab.Dataset(ctx, c.Dataset)
	if err != nil {
		return err
	}
	if d.Keyset.Owner != a.party.Body {
		return fmt.Errorf("collection %q: dataset %q %w: it is of %s", name, c.Dataset, ErrNotYours, d.Keyset.Owner)
	}
	var list enclave.Enrolment
	if err := canon.Unmarshal(enrolment, &list); err != nil {
		return fmt.Errorf("confirming collection %q: %w: the list of reporters: %w", name, sandbox.ErrInvalid, err)
	}
	if err := list.Validate(); err != nil {
		return fmt.Errorf("confirming collection %q: %w: %w", name, sandbox.ErrInvalid, err)
	}
	if canon.Sum(enrolment) != c.Enrolment || int64(len(enrolment)) != c.EnrolmentBytes {
		return fmt.Errorf("confirming collection %q: %w: its list of reporters is another one, %s", name, sandbox.ErrConflict, c.Enrolment.Short())
	}
	if _, err := a.send(ctx, bytes.NewReader(enrolment), c.Enrolment); err != nil {
		return err
	}
	sig, err := a.steward.Sign(enclave.KindCollection, c.Signed.Body)
	if err != nil {
		return err
	}
	return a.cfg.Lab.ConfirmCollection(ctx, enclave.Signed{Kind: enclave.KindCollection, Body: c.Signed.Body, Sigs: []canon.Signature{sig}})
}

// send brings one blob to the lab. want is its name, zero if that is not known.
func (a *Agency) send(ctx context.Context, r io.Reader, want enclave.Digest) (b enclave.DeliveryBlob, err error) {
	if b.Blob, b.Bytes, err = a.cfg.Blobs.Put(ctx, r, want); err == nil && a.cfg.Send != nil {
		err = a.cfg.Send(ctx, []enclave.Digest{b.Blob})
	}
	return b, err
}

// DeliverReports hands in files of reports, as the owner's gateway took them, as one batch of a collection. Nothing in them
// is judged here: whose reports count the aggregators decide.
func (a *Agency) DeliverReports(ctx context.Context, name string, batch int64, files []string) (*enclave.Delivery, error) {
	c, err := a.cfg.Lab.Collection(ctx, name)
	if err != nil {
		return nil, err
	}
	d := &enclave.Delivery{Collection: c.Digest, Batch: batch, Blobs: []enclave.DeliveryBlob{}, By: a.party.Name, Made: canon.At(a.cfg.Clock())}
	for _, name := range files {
		b, err := a.take(ctx, name)
		if err != nil {
			return nil, err
		}
		d.Blobs = append(d.Blobs, b)
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	}
	signed, err := keys.SealWith(a.steward, enclave.KindDelivery, d)
	if err != nil {
		return nil, err
	}
	return d, a.cfg.Lab.DeliverReports(ctx, signed)
}

func (a *Agency) take(ctx context.Context, name string) (b enclave.DeliveryBlob, err error) {
	f, err := os.Open(name)
	if err != nil {
		return b, err
	}
	defer f.Close()
	return a.send(ctx, f, enclave.Digest{})
}
