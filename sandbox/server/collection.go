package server

import (
	"context"
	"fmt"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/lab"
)

type collectionService struct {
	labv1.UnimplementedCollectionServiceServer
	s *Server
}

// seesCollections tells which collections a caller may see: an analyst the own operator's, a steward those of the own
// agency's data, others all.
func (s *Server) seesCollections(ctx context.Context) (func(*lab.Collection) bool, error) {
	p, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	switch p.Role {
	case operators.RoleOfficial, operators.RoleAuditor, operators.RoleCustodian:
		return func(*lab.Collection) bool { return true }, nil
	case operators.RoleAnalyst:
		return func(c *lab.Collection) bool { return c.Operator == p.Body }, nil
	case operators.RoleSteward:
		st, err := s.cfg.Lab.Statements(ctx)
		return func(c *lab.Collection) bool { return st.Owners[c.Dataset] == p.Body }, err
	}
	return func(*lab.Collection) bool { return false }, nil
}

// collection finds a collection that the caller may see.
func (s *Server) collection(ctx context.Context, name string) (*lab.Collection, error) {
	sees, err := s.seesCollections(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.cfg.Lab.Collection(ctx, name)
	if err != nil {
		return nil, err
	}
	if !sees(c) {
		return nil, fmt.Errorf("collection %q: %w", name, sandbox.ErrNotFound)
	}
	return c, nil
}

func (c collectionService) DefineCollection(ctx context.Context, r *labv1.DefineCollectionRequest) (*labv1.DefineCollectionResponse, error) {
	signed, err := c.s.own(ctx, r.GetCollection())
	if err != nil {
		return nil, err
	}
	if err := c.s.cfg.Lab.DefineCollection(ctx, signed); err != nil {
		return nil, err
	}
	return &labv1.DefineCollectionResponse{Digest: text(signed.Digest())}, nil
}

func (c collectionService) ConfirmCollection(ctx context.Context, r *labv1.ConfirmCollectionRequest) (*labv1.ConfirmCollectionResponse, error) {
	signed, err := c.s.own(ctx, r.GetCollection())
	if err != nil {
		return nil, err
	}
	return &labv1.ConfirmCollectionResponse{}, c.s.cfg.Lab.ConfirmCollection(ctx, signed)
}

func (c collectionService) ListCollections(ctx context.Context, _ *labv1.ListCollectionsRequest) (*labv1.ListCollectionsResponse, error) {
	sees, err := c.s.seesCollections(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.s.cfg.Lab.Collections(ctx)
	if err != nil {
		return nil, err
	}
	out := &labv1.ListCollectionsResponse{}
	for i := range all {
		if m := &all[i]; sees(m) {
			out.Collections = append(out.Collections, &labv1.Collection{Name: m.Name, Digest: text(m.Digest), Collection: canon.MustMarshal(m.Signed), Confirmed: m.Confirmed})
		}
	}
	return out, nil
}

func (c collectionService) DeliverReports(ctx context.Context, r *labv1.DeliverReportsRequest) (*labv1.DeliverReportsResponse, error) {
	signed, err := c.s.own(ctx, r.GetDelivery())
	if err != nil {
		return nil, err
	}
	if err := c.s.cfg.Lab.DeliverReports(ctx, signed); err != nil {
		return nil, err
	}
	return &labv1.DeliverReportsResponse{Digest: text(signed.Digest())}, nil
}

func batch(b *lab.Batch) *labv1.Batch {
	return &labv1.Batch{Release: canon.MustMarshal(b.Release), Delivery: text(b.Delivery), Table: b.Table}
}

func (c collectionService) ReleaseBatch(ctx context.Context, r *labv1.ReleaseBatchRequest) (*labv1.ReleaseBatchResponse, error) {
	col, err := c.s.collection(ctx, r.GetCollection())
	if err != nil {
		return nil, err
	}
	b, err := c.s.cfg.Lab.ReleaseBatch(ctx, col.Name, r.GetBatch())
	if err != nil {
		return nil, err
	}
	return &labv1.ReleaseBatchResponse{Batch: batch(b)}, nil
}

func (c collectionService) GetBatch(ctx context.Context, r *labv1.GetBatchRequest) (*labv1.GetBatchResponse, error) {
	col, err := c.s.collection(ctx, r.GetCollection())
	if err != nil {
		return nil, err
	}
	b, err := c.s.cfg.Lab.Batch(ctx, col.Name, r.GetBatch())
	if err != nil {
		return nil, err
	}
	return &labv1.GetBatchResponse{Batch: batch(b)}, nil
}

func (c collectionService) GetBatchReceipt(ctx context.Context, r *labv1.GetBatchReceiptRequest) (*labv1.GetBatchReceiptResponse, error) {
	col, err := c.s.collection(ctx, r.GetCollection())
	if err != nil {
		return nil, err
	}
	if _, err := c.s.cfg.Lab.Batch(ctx, col.Name, r.GetBatch()); err != nil {
		return nil, err
	}
	b, err := c.s.cfg.Lab.CollectionBundle(ctx, col.Name, r.GetBatch())
	if err != nil {
		return nil, err
	}
	data, err := canon.Marshal(b)
	return &labv1.GetBatchReceiptResponse{Receipt: data}, err
}
