package server

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/lab"
)

type catalogService struct {
	labv1.UnimplementedCatalogServiceServer
	s *Server
}

func (c catalogService) dataset(ctx context.Context, d *lab.Dataset) (*labv1.Dataset, error) {
	keyset, manifest, err := c.s.cfg.Lab.SignedDataset(ctx, d.Name)
	if err != nil {
		return nil, err
	}
	out := &labv1.Dataset{Name: d.Name, Owner: d.Keyset.Owner, BudgetMicro: d.Keyset.BudgetMicro, KeysetDigest: text(d.KeysetDigest),
		ManifestDigest: text(d.ManifestDigest), Keyset: canon.MustMarshal(keyset)}
	lineage, order, err := c.s.cfg.Lab.SignedLineage(ctx, d.Name)
	if err != nil {
		return nil, err
	}
	for _, s := range lineage {
		if s.Digest() != d.KeysetDigest {
			out.Refreshes = append(out.Refreshes, canon.MustMarshal(s))
		}
	}
	if order.Body != nil {
		out.Disposal = canon.MustMarshal(order)
	}
	if d.Manifest != nil {
		out.Title, out.Version, out.Manifest = d.Manifest.Catalog.Title, d.Manifest.Version, canon.MustMarshal(manifest)
	}
	return out, nil
}

func (c catalogService) ListDatasets(ctx context.Context, _ *labv1.ListDatasetsRequest) (*labv1.ListDatasetsResponse, error) {
	all, err := c.s.cfg.Lab.Datasets(ctx)
	if err != nil {
		return nil, err
	}
	out := &labv1.ListDatasetsResponse{}
	for _, d := range all {
		m, err := c.dataset(ctx, &d)
		if err != nil {
			return nil, err
		}
		out.Datasets = append(out.Datasets, m)
	}
	return out, nil
}

func (c catalogService) GetDataset(ctx context.Context, r *labv1.GetDatasetRequest) (*labv1.GetDatasetResponse, error) {
	d, err := c.s.cfg.Lab.Dataset(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	m, err := c.dataset(ctx, d)
	return &labv1.GetDatasetResponse{Dataset: m}, err
}

func (c catalogService) RegisterKeyset(ctx context.Context, r *labv1.RegisterKeysetRequest) (*labv1.RegisterKeysetResponse, error) {
	signed, err := c.s.own(ctx, r.GetKeyset())
	if err != nil {
		return nil, err
	}
	if err := c.s.cfg.Lab.RegisterKeyset(ctx, signed); err != nil {
		return nil, err
	}
	return &labv1.RegisterKeysetResponse{Digest: text(signed.Digest())}, nil
}

func (c catalogService) PublishManifest(ctx context.Context, r *labv1.PublishManifestRequest) (*labv1.PublishManifestResponse, error) {
	signed, err := c.s.own(ctx, r.GetManifest())
	if err != nil {
		return nil, err
	}
	if err := c.s.cfg.Lab.Publish(ctx, signed); err != nil {
		return nil, err
	}
	return &labv1.PublishManifestResponse{Digest: text(signed.Digest())}, nil
}

func (c catalogService) OrderDisposal(ctx context.Context, r *labv1.OrderDisposalRequest) (*labv1.OrderDisposalResponse, error) {
	signed, err := c.s.own(ctx, r.GetOrder())
	if err != nil {
		return nil, err
	}
	var o enclave.DisposalOrder
	if err := signed.Open(enclave.KindDisposalOrder, &o); err != nil {
		return nil, invalid("the order cannot be read: %v", err)
	}
	if _, _, err := c.s.cfg.Lab.OrderDisposal(ctx, signed); err != nil {
		return nil, err
	}
	// From here on it stands. Who hangs up does not keep it from being carried out.
	d, err := c.s.cfg.Lab.Dispose(ctx, o.Dataset)
	if err != nil {
		return nil, err
	}
	return &labv1.OrderDisposalResponse{Disposal: disposal(d)}, nil
}

func (c catalogService) GetDisposal(ctx context.Context, r *labv1.GetDisposalRequest) (*labv1.GetDisposalResponse, error) {
	d, err := c.s.cfg.Lab.Disposal(ctx, r.GetDataset())
	if err != nil {
		return nil, err
	}
	return &labv1.GetDisposalResponse{Disposal: disposal(d)}, nil
}

func disposal(d *lab.Disposal) *labv1.Disposal {
	out := &labv1.Disposal{Order: canon.MustMarshal(d.Order), InForce: d.InForce, Waiting: d.Waiting}
	if d.Receipt != nil {
		out.Receipt = canon.MustMarshal(d.Receipt)
	}
	return out
}

func (c catalogService) MissingBlobs(_ context.Context, r *labv1.MissingBlobsRequest) (*labv1.MissingBlobsResponse, error) {
	out := &labv1.MissingBlobsResponse{}
	for _, s := range r.GetDigests() {
		d, err := digest("blob", s)
		if err != nil {
			return nil, err
		}
		if !c.s.cfg.Blobs.Has(d) {
			out.Digests = append(out.Digests, s)
		}
	}
	return out, nil
}

// UploadBlob stores a blob under the digest that its header announces. A stream that breaks off, or brings other bytes,
// leaves nothing. Blobs that no manifest names within a day are swept away.
func (c catalogService) UploadBlob(up grpc.ClientStreamingServer[labv1.UploadBlobRequest, labv1.UploadBlobResponse]) error {
	first, err := up.Recv()
	if err != nil {
		return broken(err)
	}
	h := first.GetHeader()
	if h == nil {
		return invalid("the first message of an upload must be its header")
	}
	d, err := digest("blob", h.GetDigest())
	if err != nil {
		return err
	}
	if h.GetSize() <= 0 || h.GetSize() > c.s.cfg.MaxBlob {
		return invalid("blob of %d bytes: want 1 to %d", h.GetSize(), c.s.cfg.MaxBlob)
	}
	body := &chunks{recv: up.Recv, left: h.GetSize()}
	if _, _, err := c.s.cfg.Blobs.Put(up.Context(), body, d); err != nil {
		if errors.Is(err, enclave.ErrBlob) { // the sender's fault, not that of what is stored here
			return fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
		}
		return err
	}
	return up.SendAndClose(&labv1.UploadBlobResponse{Digest: text(d)})
}

// chunks reads the bytes of an upload.
type chunks struct {
	recv func() (*labv1.UploadBlobRequest, error)
	left int64
	rest []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.recv()
		if errors.Is(err, io.EOF) {
			if c.left > 0 {
				return 0, invalid("the upload ends %d bytes early", c.left)
			}
			return 0, io.EOF
		}
		if err != nil {
			return 0, broken(err)
		}
		if m.GetHeader() != nil {
			return 0, invalid("a second header in an upload")
		}
		c.rest = m.GetData()
		if c.left -= int64(len(c.rest)); c.left < 0 {
			return 0, invalid("the upload is longer than its header says")
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// broken is a stream that ended in the middle. What the transport says of it is for the log.
func broken(err error) error {
	if gone(err) {
		return err
	}
	var limit *rpc.Error
	if errors.As(err, &limit) {
		return err
	}
	return fmt.Errorf("%w: %w", rpc.Errorf(codes.Canceled, "the upload broke off"), err)
}
