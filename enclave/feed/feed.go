// Package feed is how a custodian reaches the log and the blobs that the control plane keeps. It carries bytes and
// believes none: proofs and entries are checked by package release, which follows the whole log, and blobs by package
// store, which hashes them on their way in.
package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
)

// Times that a custodian waits for the control plane, which may be malicious: without them it could hold a custodian's
// every call.
const (
	appendTime = 30 * time.Second // an append waits for the witness
	readTime   = time.Minute      // one page of entries
	askTime    = 10 * time.Second
	idleTime   = 20 * time.Second // between two parts of a blob
)

// MaxEntries is the most entries that one call of Leaves may ask for.
const MaxEntries = 1 << 14

// Client implements release.Log and store.Source over a connection to the control plane.
type Client struct {
	log   enclavev1.LogServiceClient
	blobs enclavev1.BlobServiceClient
	idle  time.Duration
}

// New makes a client. The connection's TLS must pin the control plane.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{log: enclavev1.NewLogServiceClient(conn), blobs: enclavev1.NewBlobServiceClient(conn), idle: idleTime}
}

const theLog = "the log"

// Append implements release.Log.
func (c *Client) Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTime)
	defer cancel()
	req := &enclavev1.AppendRequest{}
	for _, e := range entries {
		raw, err := canon.Marshal(e)
		if err != nil {
			return nil, err
		}
		req.Entries = append(req.Entries, raw)
	}
	resp, err := c.log.Append(ctx, req)
	if err != nil {
		return nil, refusal.FromStatus(theLog, err)
	}
	if len(resp.GetProofs()) != len(entries) {
		return nil, fmt.Errorf("%w: the log answers with %d proofs for %d entries", enclave.ErrLogProof, len(resp.GetProofs()), len(entries))
	}
	proofs := make([]enclave.LogProof, len(entries))
	for i, data := range resp.GetProofs() {
		if err := canon.Unmarshal(data, &proofs[i]); err != nil {
			return nil, fmt.Errorf("%w: %w", enclave.ErrLogProof, err)
		}
	}
	return proofs, nil
}

// Checkpoint implements release.Log.
func (c *Client) Checkpoint(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resp, err := c.log.GetCheckpoint(ctx, &enclavev1.GetCheckpointRequest{})
	if err != nil {
		return "", refusal.FromStatus(theLog, err)
	}
	return resp.GetCheckpoint(), nil
}

// Leaves implements release.Log. It stops reading when more come than were asked for.
func (c *Client) Leaves(ctx context.Context, from, to int64) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	stream, err := c.log.ReadEntries(ctx, &enclavev1.ReadEntriesRequest{From: from, To: to})
	if err != nil {
		return nil, refusal.FromStatus(theLog, err)
	}
	var out [][]byte
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, refusal.FromStatus(theLog, err)
		}
		out = append(out, resp.GetEntries()...)
		if int64(len(out)) > to-from {
			return out, nil // the follower compares the number
		}
	}
}

// ReadBlob implements store.Source. The reader gives up when nothing has come for a while.
func (c *Client) ReadBlob(ctx context.Context, d enclave.Digest, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &blobReader{digest: d, cancel: cancel, idle: c.idle}
	r.timer = time.AfterFunc(c.idle, func() { cancel(errIdle) })
	r.ctx = ctx
	stream, err := c.blobs.ReadBlob(ctx, &enclavev1.ReadBlobRequest{Digest: d[:], Offset: offset})
	if err != nil {
		return nil, errors.Join(r.fault(err), r.Close())
	}
	r.stream = stream
	return r, nil
}

var errIdle = errors.New("nothing came for a while")

type blobReader struct {
	digest enclave.Digest
	ctx    context.Context // of the stream, for its cause
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
	stream grpc.ServerStreamingClient[enclavev1.ReadBlobResponse]
	rest   []byte
}

func (r *blobReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		r.timer.Reset(r.idle)
		resp, err := r.stream.Recv()
		r.timer.Stop()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, r.fault(err)
		}
		r.rest = resp.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *blobReader) fault(err error) error {
	what := "blob " + r.digest.String()
	switch {
	case errors.Is(context.Cause(r.ctx), errIdle):
		return &refusal.UnavailableError{What: what, Cause: errIdle}
	case status.Code(err) == codes.NotFound:
		return &refusal.UnavailableError{What: what, Cause: enclave.ErrNotFound}
	}
	return refusal.FromStatus(what, err)
}

func (r *blobReader) Close() error {
	r.timer.Stop()
	r.cancel(nil)
	return nil
}
