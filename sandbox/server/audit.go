package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
)

type releaseService struct {
	labv1.UnimplementedReleaseServiceServer
	s *Server
}

func (r releaseService) GetRelease(ctx context.Context, req *labv1.GetReleaseRequest) (*labv1.GetReleaseResponse, error) {
	job, err := r.s.job(ctx, req.GetJob())
	if err != nil {
		return nil, err
	}
	signed, err := r.s.cfg.Lab.SignedRelease(ctx, job)
	if err != nil {
		return nil, err
	}
	sealed, err := r.s.cfg.Lab.SealedTable(ctx, job.ID)
	if err != nil {
		return nil, err
	}
	return &labv1.GetReleaseResponse{Release: canon.MustMarshal(signed), Table: sealed.Table, Digest: text(sealed.Release)}, nil
}

func (r releaseService) ListReleases(ctx context.Context, req *labv1.ListReleasesRequest) (*labv1.ListReleasesResponse, error) {
	jobs, err := r.s.list(ctx, sandbox.JobFilter{States: []sandbox.State{sandbox.Released}}, req.GetLimit(), req.GetBefore())
	if err != nil {
		return nil, err
	}
	out := &labv1.ListReleasesResponse{}
	for _, j := range jobs {
		out.Releases = append(out.Releases, &labv1.ReleaseSummary{Job: string(j.ID), Digest: text(j.Release), Operator: j.Operator, Analyst: j.Analyst,
			Scenario: text(j.Scenario), Released: timestamppb.New(j.Updated)})
	}
	return out, nil
}

type auditService struct {
	labv1.UnimplementedAuditServiceServer
	s *Server
}

func (a auditService) GetHead(ctx context.Context, _ *labv1.GetHeadRequest) (*labv1.GetHeadResponse, error) {
	note, cp, err := a.s.cfg.Log.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return &labv1.GetHeadResponse{Checkpoint: note, Size: cp.Size, Root: text(cp.Root)}, nil
}

func (a auditService) ListEntries(r *labv1.ListEntriesRequest, down grpc.ServerStreamingServer[labv1.ListEntriesResponse]) error {
	ctx := down.Context()
	to := r.GetTo()
	if to == 0 {
		_, cp, err := a.s.cfg.Log.Checkpoint(ctx)
		if err != nil {
			return err
		}
		to = cp.Size
	}
	if r.GetFrom() < 0 || r.GetFrom() > to {
		return invalid("no entries from %d to %d", r.GetFrom(), to)
	}
	next, size := &labv1.ListEntriesResponse{First: r.GetFrom()}, 0
	for rec, err := range a.s.cfg.Log.Entries(ctx, r.GetFrom(), to) {
		if err != nil {
			return err
		}
		if size += len(rec.Raw); size > page {
			if err := down.Send(next); err != nil {
				return err
			}
			next, size = &labv1.ListEntriesResponse{First: rec.Index}, len(rec.Raw)
		}
		next.Entries = append(next.Entries, rec.Raw)
	}
	return down.Send(next)
}

func (a auditService) ProveEntry(ctx context.Context, r *labv1.ProveEntryRequest) (*labv1.ProveEntryResponse, error) {
	p, err := a.s.cfg.Log.Prove(ctx, r.GetIndex())
	if err != nil {
		return nil, err
	}
	return &labv1.ProveEntryResponse{Proof: canon.MustMarshal(p)}, nil
}

func (a auditService) ProveConsistency(ctx context.Context, r *labv1.ProveConsistencyRequest) (*labv1.ProveConsistencyResponse, error) {
	if r.GetFrom() < 0 || r.GetFrom() > r.GetTo() {
		return nil, invalid("no log of %d entries extends one of %d", r.GetTo(), r.GetFrom())
	}
	path, err := a.s.cfg.Log.Consistency(ctx, r.GetFrom(), r.GetTo())
	if err != nil {
		return nil, err
	}
	out := &labv1.ProveConsistencyResponse{}
	for _, h := range path {
		out.Hashes = append(out.Hashes, h.String())
	}
	return out, nil
}

func (a auditService) GetReceipt(ctx context.Context, r *labv1.GetReceiptRequest) (*labv1.GetReceiptResponse, error) {
	job, err := a.s.job(ctx, r.GetJob())
	if err != nil {
		return nil, err
	}
	if _, err := a.s.cfg.Lab.SignedRelease(ctx, job); err != nil { // only a released job has a receipt
		return nil, err
	}
	b, err := a.s.cfg.Lab.Bundle(ctx, job.ID)
	if err != nil {
		return nil, err
	}
	return &labv1.GetReceiptResponse{Bundle: canon.MustMarshal(b)}, nil
}
