package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
)

// Batches of collections. The leader keeps one stream to the helper for a batch, over which calls and answers alternate:
// reports do not travel on it, because each aggregator has its own copy. Totals are encrypted to their receiver's key in
// the roster, as shares are.

func (s *Server) collects(data []byte) (*enclave.CollectionBundle, error) {
	var b enclave.CollectionBundle
	if err := parse("dossier", data, &b); err != nil {
		return nil, err
	}
	if b.Format != enclave.KindCollectionBundle {
		return nil, rpc.Errorf(codes.InvalidArgument, "dossier: format %q, want %q", b.Format, enclave.KindCollectionBundle)
	}
	if s.cfg.Collects == nil {
		return nil, rpc.Errorf(codes.Unimplemented, "custodian %q aggregates no collections", s.cfg.Custodian.Name())
	}
	return &b, nil
}

// LeadBatch implements CustodianService.
func (s *Server) LeadBatch(ctx context.Context, req *enclavev1.LeadBatchRequest) (*enclavev1.LeadBatchResponse, error) {
	b, err := s.collects(req.GetBundle())
	if err != nil {
		return nil, err
	}
	var with *helper
	out, err := s.cfg.Collects.Lead(ctx, b, func(ctx context.Context, name string) (prio3.Peer, error) {
		i := slices.IndexFunc(s.cfg.Peers, func(p *Peer) bool { return p.Name() == name })
		if i < 0 {
			return nil, &refusal.UnavailableError{What: fmt.Sprintf("custodian %q", name)}
		}
		var err error
		with, err = s.cfg.Peers[i].help(ctx, b)
		return with, err
	})
	if with != nil {
		with.close()
	}
	if err != nil {
		return nil, err
	}
	return &enclavev1.LeadBatchResponse{Outcome: &enclavev1.Outcome{Release: canon.MustMarshal(out.Collected), Table: out.Sealed, Proof: canon.MustMarshal(out.Proof)}}, nil
}

// HelpBatch implements CustodianService.
func (s *Server) HelpBatch(stream grpc.BidiStreamingServer[enclavev1.HelpBatchRequest, enclavev1.HelpBatchResponse]) (err error) {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	b, err := s.collects(first.GetBundle())
	if err != nil {
		return err
	}
	session, end, err := s.cfg.Collects.Help(ctx, b)
	if err != nil {
		return err
	}
	released := false
	defer func() { err = errors.Join(err, end(released)) }()
	if err := stream.Send(&enclavev1.HelpBatchResponse{}); err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := s.answer(ctx, session, b.Collection.Digest(), req)
		resp := &enclavev1.HelpBatchResponse{Answer: answer}
		if errors.Is(err, prio3.ErrNotPrepared) {
			resp.NotPrepared, err = true, nil
		}
		if err == nil {
			err = stream.Send(resp)
		}
		if err != nil {
			return err
		}
		released = released || req.GetEndorse() != nil
	}
}

// answer makes one call of a leader.
func (s *Server) answer(ctx context.Context, session *prio3.Session, collection enclave.Digest, req *enclavev1.HelpBatchRequest) ([]byte, error) {
	var m canon.Signed
	read := func(what string, data []byte) error { return parse(what, data, &m) }
	switch call := req.GetCall().(type) {
	case *enclavev1.HelpBatchRequest_Join:
		if err := read("verification key", call.Join); err != nil {
			return nil, err
		}
		return nil, session.Join(ctx, m)
	case *enclavev1.HelpBatchRequest_Begin:
		return nil, session.Begin(ctx, call.Begin)
	case *enclavev1.HelpBatchRequest_Prepare:
		if err := read("prep shares", call.Prepare); err != nil {
			return nil, err
		}
		mine, err := session.Prepare(ctx, m)
		if err != nil {
			return nil, err
		}
		return canon.Marshal(mine)
	case *enclavev1.HelpBatchRequest_Commit:
		if err := read("summary", call.Commit); err != nil {
			return nil, err
		}
		return nil, session.Commit(ctx, m)
	case *enclavev1.HelpBatchRequest_Finish:
		if err := read("summary", call.Finish); err != nil {
			return nil, err
		}
		total, err := session.Finish(ctx, m)
		if err != nil {
			return nil, err
		}
		return s.seal(ctx, purposeTotal, collection, total)
	case *enclavev1.HelpBatchRequest_Endorse:
		var c enclave.Collected
		var proof enclave.LogProof
		if err := parse("release", call.Endorse.GetCollected(), &c); err != nil {
			return nil, err
		}
		if err := parse("proof", call.Endorse.GetProof(), &proof); err != nil {
			return nil, err
		}
		if err := s.open(ctx, purposeTotals, collection, call.Endorse.GetTotal(), &m); err != nil {
			return nil, err
		}
		sig, err := session.Endorse(ctx, c, proof, m)
		if err != nil {
			return nil, err
		}
		return canon.Marshal(sig)
	}
	return nil, rpc.Errorf(codes.InvalidArgument, "there is no such call in a batch under way")
}

// helper is the helper of one batch at another body.
type helper struct {
	peer       *Peer
	roster     func() *operators.Roster
	collection enclave.Digest
	stream     grpc.BidiStreamingClient[enclavev1.HelpBatchRequest, enclavev1.HelpBatchResponse]
	cancel     context.CancelFunc
}

var _ prio3.Peer = (*helper)(nil)

// help opens a batch at the peer.
func (p *Peer) help(ctx context.Context, b *enclave.CollectionBundle) (*helper, error) {
	data, err := canon.Marshal(b)
	if err != nil {
		return nil, err
	}
	if len(data) > rpc.MaxMessage-4096 {
		return nil, fmt.Errorf("dossier has %d bytes, a message at most %d", len(data), rpc.MaxMessage)
	}
	ctx, cancel := within(ctx, enclavev1.CustodianService_HelpBatch_FullMethodName)
	stream, err := p.rpc.HelpBatch(ctx)
	if err != nil {
		cancel()
		return nil, p.fault(err)
	}
	h := &helper{peer: p, roster: p.keys, collection: b.Collection.Digest(), stream: stream, cancel: cancel}
	if _, err := h.call(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Bundle{Bundle: data}}); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// call sends one message and waits for its answer.
func (h *helper) call(req *enclavev1.HelpBatchRequest) ([]byte, error) {
	if err := h.stream.Send(req); err != nil && !errors.Is(err, io.EOF) { // of an ended stream Recv says why
		return nil, h.peer.fault(err)
	}
	resp, err := h.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, &refusal.UnavailableError{What: fmt.Sprintf("custodian %q, which ended a batch early,", h.peer.name)}
	}
	if err != nil {
		return nil, h.peer.fault(err)
	}
	if resp.GetNotPrepared() {
		r := refusal.New(refusal.ErrNotPrepared, "the batch must be begun")
		r.Custodian = h.peer.name
		return nil, r
	}
	return resp.GetAnswer(), nil
}

// close ends the stream and waits until the helper has ended its side.
func (h *helper) close() {
	if h.stream.CloseSend() == nil {
		_, _ = h.stream.Recv()
	}
	h.cancel()
}

// Name implements prio3.Peer.
func (h *helper) Name() string { return h.peer.name }

// Join implements prio3.Peer.
func (h *helper) Join(_ context.Context, invitation canon.Signed) error {
	_, err := h.call(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Join{Join: canon.MustMarshal(invitation)}})
	return err
}

// Begin implements prio3.Peer.
func (h *helper) Begin(_ context.Context, number int64) error {
	_, err := h.call(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Begin{Begin: number}})
	return err
}

// Prepare implements prio3.Peer.
func (h *helper) Prepare(_ context.Context, leader canon.Signed) (out canon.Signed, err error) {
	data, err := h.call(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Prepare{Prepare: canon.MustMarshal(leader)}})
	if err == nil {
		err = canon.Unmarshal(data, &out)
	}
	return out, err
}

// Commit implements prio3.Peer.
func (h *helper) Commit(_ context.Context, summary canon.Signed) error {
	_, err := h.call(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Commit{Commit: canon.MustMarshal(summary)}})
	return err
}

// Finish implements prio3.Peer.
func (h *helper) Finish(_ context.Context, summary canon.Signed) (out canon.Signed, err error) {
	data, err := h.call(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Finish{Finish: canon.MustMarshal(summary)}})
	if err == nil {
		err = unseal(h.peer.open, purposeTotal, h.peer.name, h.peer.self, h.collection, data, &out)
	}
	return out, err
}

// Endorse implements prio3.Peer.
func (h *helper) Endorse(_ context.Context, c enclave.Collected, proof enclave.LogProof, leader canon.Signed) (out canon.Signature, err error) {
	sealed, err := sealTo(h.roster(), purposeTotals, h.peer.self, h.peer.name, h.collection, leader)
	if err != nil {
		return out, err
	}
	data, err := h.call(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Endorse{Endorse: &enclavev1.EndorseBatch{
		Collected: canon.MustMarshal(c), Proof: canon.MustMarshal(proof), Total: sealed}}})
	if err == nil {
		err = canon.Unmarshal(data, &out)
	}
	return out, err
}
