package client

import (
	"context"
	"fmt"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/lab"
)

// DefineCollection hands in a collection that the caller, an analyst, has signed alone.
func (c *Client) DefineCollection(ctx context.Context, s enclave.Signed) error {
	_, err := c.collection.DefineCollection(ctx, &labv1.DefineCollectionRequest{Collection: canon.MustMarshal(s)})
	return problem(err)
}

// ConfirmCollection hands in the caller's signature alone, a steward's, after the list of reporters was uploaded.
func (c *Client) ConfirmCollection(ctx context.Context, s enclave.Signed) error {
	_, err := c.collection.ConfirmCollection(ctx, &labv1.ConfirmCollectionRequest{Collection: canon.MustMarshal(s)})
	return problem(err)
}

// Collections lists the collections that the caller may see. Their signatures are verified: who signed as analyst and, of
// one that is called confirmed, as the owner's steward.
func (c *Client) Collections(ctx context.Context) ([]lab.Collection, error) {
	_, roster, err := c.Roster(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.collection.ListCollections(ctx, &labv1.ListCollectionsRequest{})
	if err != nil {
		return nil, problem(err)
	}
	var out []lab.Collection
	for _, m := range a.GetCollections() {
		signed, err := parse(m.GetCollection())
		if err != nil {
			return nil, fmt.Errorf("collection %q: %w", m.GetName(), err)
		}
		body, err := enclave.OpenCollection(signed, roster)
		if err != nil {
			return nil, err
		}
		if m.GetConfirmed() {
			d, err := c.Dataset(ctx, body.Dataset)
			if err != nil {
				return nil, err
			}
			if d.KeysetDigest != body.Keyset || !enclave.ConfirmedBy(signed, roster, d.Keyset.Owner) {
				return nil, fmt.Errorf("collection %q is called confirmed, and no steward of %q has signed it", body.Name, d.Keyset.Owner)
			}
		}
		out = append(out, lab.Collection{Collection: *body, Signed: signed, Digest: signed.Digest(), Confirmed: m.GetConfirmed()})
	}
	return out, nil
}

// Collection finds one by name.
func (c *Client) Collection(ctx context.Context, name string) (*lab.Collection, error) {
	all, err := c.Collections(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("collection %q: %w: `lab collect list` names them", name, sandbox.ErrNotFound)
}

// DeliverReports hands in the list of a batch's reports, which the caller has signed, after their blobs were uploaded.
func (c *Client) DeliverReports(ctx context.Context, s enclave.Signed) error {
	_, err := c.collection.DeliverReports(ctx, &labv1.DeliverReportsRequest{Delivery: canon.MustMarshal(s)})
	return problem(err)
}

// counting is how long the release of a batch may take.
const counting = time.Hour

// ReleaseBatch has a delivered batch counted and released. It may be called again after any failure.
func (c *Client) ReleaseBatch(ctx context.Context, name string, number int64) (*lab.Batch, error) {
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, counting)
		defer cancel()
	}
	a, err := c.collection.ReleaseBatch(ctx, &labv1.ReleaseBatchRequest{Collection: name, Batch: number})
	if err != nil {
		return nil, problem(err)
	}
	return batch(a.GetBatch())
}

// Batch fetches one that was released. Its signatures and table are for whoever opens it to check.
func (c *Client) Batch(ctx context.Context, name string, number int64) (*lab.Batch, error) {
	a, err := c.collection.GetBatch(ctx, &labv1.GetBatchRequest{Collection: name, Batch: number})
	if err != nil {
		return nil, problem(err)
	}
	return batch(a.GetBatch())
}

func batch(m *labv1.Batch) (*lab.Batch, error) {
	out := &lab.Batch{Table: m.GetTable()}
	var err error
	if out.Release, err = parse(m.GetRelease()); err != nil {
		return nil, fmt.Errorf("release of a batch: %w", err)
	}
	out.Delivery, err = enclave.ParseDigest(m.GetDelivery())
	return out, err
}

// CollectionBundle fetches everything behind a released batch. Nothing of it is verified here: release.CheckCollected does.
func (c *Client) CollectionBundle(ctx context.Context, name string, number int64) (*enclave.CollectionBundle, error) {
	a, err := c.collection.GetBatchReceipt(ctx, &labv1.GetBatchReceiptRequest{Collection: name, Batch: number})
	if err != nil {
		return nil, problem(err)
	}
	b := &enclave.CollectionBundle{}
	return b, canon.Unmarshal(a.GetReceipt(), b)
}
