// Package feed offers custodians what they need of the control plane: the log and the blobs. It decides nothing but that
// a custodian announces its own acts only. They check everything that it says.
package feed

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox/audit"
)

// Log is the audit log, as *audit.Log implements it.
type Log interface {
	Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error)
	Checkpoint(ctx context.Context) (text string, cp enclave.Checkpoint, err error)
	Entries(ctx context.Context, from, to int64) iter.Seq2[audit.Record, error]
}

// Methods is the feed's part of the control plane's table.
func Methods() rpc.Table {
	custodians := []string{"custodian"}
	return rpc.Table{
		enclavev1.LogService_Append_FullMethodName:        {Roles: custodians, Deadline: time.Minute, Max: 1 << 20},
		enclavev1.LogService_GetCheckpoint_FullMethodName: {Roles: custodians, Deadline: 10 * time.Second},
		enclavev1.LogService_ReadEntries_FullMethodName:   {Roles: custodians, Deadline: 2 * time.Minute},
		enclavev1.BlobService_ReadBlob_FullMethodName:     {Roles: custodians, Deadline: 15 * time.Minute},
	}
}

// Register adds LogService and BlobService to a server whose table has Methods.
func Register(s grpc.ServiceRegistrar, log Log, blobs store.Source) {
	enclavev1.RegisterLogServiceServer(s, &logServer{log: log})
	enclavev1.RegisterBlobServiceServer(s, &blobServer{blobs: blobs})
}

type logServer struct {
	enclavev1.UnimplementedLogServiceServer
	log Log
}

// acts are what custodians announce.
var acts = []string{enclave.EntryCharge, enclave.EntryShare, enclave.EntryRelease, enclave.EntryRefusal,
	enclave.EntryRotation, enclave.EntryRetirement, enclave.EntryDestruction}

func (s *logServer) Append(ctx context.Context, req *enclavev1.AppendRequest) (*enclavev1.AppendResponse, error) {
	peer, ok := rpc.PeerFrom(ctx)
	if !ok {
		return nil, rpc.Errorf(codes.Unauthenticated, "nobody called")
	}
	entries := make([]enclave.Entry, len(req.GetEntries()))
	for i, raw := range req.GetEntries() {
		if err := canon.Unmarshal(raw, &entries[i]); err != nil {
			return nil, rpc.Errorf(codes.InvalidArgument, "entry %d: %v", i, err)
		}
		if e := entries[i]; e.By != peer.Name || !slices.Contains(acts, e.Type) {
			return nil, rpc.Errorf(codes.PermissionDenied, "%q may announce its own %q, not a %s by %q", peer.Name, acts, e.Type, e.By)
		}
	}
	proofs, err := s.log.Append(ctx, entries...)
	if err != nil {
		return nil, err
	}
	resp := &enclavev1.AppendResponse{}
	for _, p := range proofs {
		raw, err := canon.Marshal(p)
		if err != nil {
			return nil, err
		}
		resp.Proofs = append(resp.Proofs, raw)
	}
	return resp, nil
}

func (s *logServer) GetCheckpoint(ctx context.Context, _ *enclavev1.GetCheckpointRequest) (*enclavev1.GetCheckpointResponse, error) {
	text, _, err := s.log.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return &enclavev1.GetCheckpointResponse{Checkpoint: text}, nil
}

const (
	maxEntries = 1 << 14
	batchBytes = 256 << 10 // of entries or of a blob in one message
)

func (s *logServer) ReadEntries(req *enclavev1.ReadEntriesRequest, stream grpc.ServerStreamingServer[enclavev1.ReadEntriesResponse]) error {
	from, to := req.GetFrom(), req.GetTo()
	_, cp, err := s.log.Checkpoint(stream.Context())
	if err != nil {
		return err
	}
	if from < 0 || from > to || to > cp.Size || to-from > maxEntries {
		return rpc.Errorf(codes.OutOfRange, "entries %d to %d of %d, at most %d at a time", from, to, cp.Size, maxEntries)
	}
	var batch [][]byte
	var size int
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := stream.Send(&enclavev1.ReadEntriesResponse{Entries: batch})
		batch, size = nil, 0
		return err
	}
	for rec, err := range s.log.Entries(stream.Context(), from, to) {
		if err != nil {
			return err
		}
		batch, size = append(batch, rec.Raw), size+len(rec.Raw)
		if size >= batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

type blobServer struct {
	enclavev1.UnimplementedBlobServiceServer
	blobs store.Source
}

func (s *blobServer) ReadBlob(req *enclavev1.ReadBlobRequest, stream grpc.ServerStreamingServer[enclavev1.ReadBlobResponse]) error {
	if len(req.GetDigest()) != len(enclave.Digest{}) || req.GetOffset() < 0 {
		return rpc.Errorf(codes.InvalidArgument, "want a SHA-256 and an offset that is not negative")
	}
	d := enclave.Digest(req.GetDigest())
	r, err := s.blobs.ReadBlob(stream.Context(), d, req.GetOffset())
	if errors.Is(err, enclave.ErrNotFound) {
		return rpc.Errorf(codes.NotFound, "blob %s is not here", d)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		buf := make([]byte, batchBytes) // gRPC may hold on to a message after Send
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := stream.Send(&enclavev1.ReadBlobResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
