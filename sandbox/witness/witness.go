// Package witness puts the log's witness on the network: the server of WitnessService over an audit.Witness, and a Client
// that is one for the log. What the witness signs, and what it refuses, package audit decides.
package witness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox/audit"
)

// Methods is the witness's table: the log's operator asks, and nobody else.
func Methods() rpc.Table {
	row := rpc.Method{Roles: []string{"lab"}, Deadline: 10 * time.Second}
	return rpc.Table{enclavev1.WitnessService_GetSize_FullMethodName: row, enclavev1.WitnessService_Cosign_FullMethodName: row}
}

type server struct {
	enclavev1.UnimplementedWitnessServiceServer
	witness audit.Witness
}

// Register adds WitnessService to a server whose table has Methods and whose errors are mapped by Status.
func Register(s grpc.ServiceRegistrar, w audit.Witness) {
	enclavev1.RegisterWitnessServiceServer(s, &server{witness: w})
}

// Status maps a witness's errors for rpc.Config: a conflict, and the two checkpoints of a split view.
func Status(err error) (*status.Status, bool) {
	var split *audit.SplitViewError
	if errors.As(err, &split) {
		st, derr := status.New(codes.FailedPrecondition, split.Error()).WithDetails(&enclavev1.Failure{Kind: &enclavev1.Failure_SplitView{
			SplitView: &enclavev1.SplitViewFailure{Seen: split.Seen, Offered: split.Offered, Text: split.Cause.Error()}}})
		return st, derr == nil
	}
	switch {
	case errors.Is(err, audit.ErrConflict):
		return status.New(codes.Aborted, err.Error()), true
	case errors.Is(err, enclave.ErrLogProof), errors.Is(err, errNote):
		return status.New(codes.InvalidArgument, err.Error()), true
	}
	return nil, false
}

var errNote = errors.New("not a checkpoint that the log has signed")

func (s *server) GetSize(ctx context.Context, _ *enclavev1.GetSizeRequest) (*enclavev1.GetSizeResponse, error) {
	n, err := s.witness.Size(ctx)
	if err != nil {
		return nil, err
	}
	return &enclavev1.GetSizeResponse{Size: n}, nil
}

func (s *server) Cosign(ctx context.Context, req *enclavev1.CosignRequest) (*enclavev1.CosignResponse, error) {
	proof := make([]enclave.Digest, len(req.GetProof()))
	for i, h := range req.GetProof() {
		if len(h) != len(enclave.Digest{}) {
			return nil, rpc.Errorf(codes.InvalidArgument, "hash %d of the proof has %d bytes", i, len(h))
		}
		proof[i] = enclave.Digest(h)
	}
	sigs, err := s.witness.Cosign(ctx, req.GetOldSize(), proof, req.GetCheckpoint())
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		err = fmt.Errorf("%w: %w", errNote, err)
	}
	if err != nil {
		return nil, err
	}
	return &enclavev1.CosignResponse{Signatures: sigs}, nil
}

// Client implements audit.Witness over a connection that pins the witness.
type Client struct {
	rpc      enclavev1.WitnessServiceClient
	verifier note.Verifier
}

var _ audit.Witness = (*Client)(nil)

// NewClient makes a client of the witness with that public key. The log verifies every cosignature.
func NewClient(conn grpc.ClientConnInterface, verifier note.Verifier) *Client {
	return &Client{rpc: enclavev1.NewWitnessServiceClient(conn), verifier: verifier}
}

// Verifier implements audit.Witness.
func (c *Client) Verifier() note.Verifier { return c.verifier }

// Size implements audit.Witness.
func (c *Client) Size(ctx context.Context) (int64, error) {
	resp, err := c.rpc.GetSize(ctx, &enclavev1.GetSizeRequest{})
	if err != nil {
		return 0, fault(err)
	}
	return resp.GetSize(), nil
}

// Cosign implements audit.Witness.
func (c *Client) Cosign(ctx context.Context, oldSize int64, proof []enclave.Digest, checkpoint []byte) ([]byte, error) {
	req := &enclavev1.CosignRequest{OldSize: oldSize, Checkpoint: checkpoint}
	for _, h := range proof {
		req.Proof = append(req.Proof, h[:])
	}
	resp, err := c.rpc.Cosign(ctx, req)
	if err != nil {
		return nil, fault(err)
	}
	return resp.GetSignatures(), nil
}

// fault gives an error the type that it had at the witness.
func fault(err error) error {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if f, ok := d.(*enclavev1.Failure); ok && f.GetSplitView() != nil {
			s := f.GetSplitView()
			return &audit.SplitViewError{Seen: s.GetSeen(), Offered: s.GetOffered(), Cause: errors.New(s.GetText())}
		}
	}
	switch st.Code() {
	case codes.Aborted:
		return fmt.Errorf("%w: witness says: %s", audit.ErrConflict, st.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("asking the witness: %w", context.DeadlineExceeded)
	case codes.Canceled:
		return fmt.Errorf("asking the witness: %w", context.Canceled)
	}
	return fmt.Errorf("asking the witness: %w", err)
}
