package service

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
)

// maxLedger bounds what a peer may send of its ledger in one call, in bytes: some hundred thousand charges.
const maxLedger = 512 << 20

// Peer is another custodian, at its own body. It implements release.Member.
type Peer struct {
	name string
	rpc  enclavev1.CustodianServiceClient
	self string
	keys func() *operators.Roster
	open Opener
}

var _ release.Member = (*Peer)(nil)

// NewPeer makes the custodian called name a member for the one called self. The connection's TLS must pin it; roster is
// where its key for shares stands, and open decrypts what it answers.
func NewPeer(name string, conn grpc.ClientConnInterface, self string, roster func() *operators.Roster, open Opener) *Peer {
	return &Peer{name: name, rpc: enclavev1.NewCustodianServiceClient(conn), self: self, keys: roster, open: open}
}

// Name implements release.Member.
func (p *Peer) Name() string { return p.name }

func (p *Peer) fault(err error) error {
	return refusal.FromStatus(fmt.Sprintf("custodian %q", p.name), err)
}

func within(ctx context.Context, method string) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, custodian.Methods()[method].Deadline)
}

func encodeBundle(b *enclave.Bundle) ([]byte, error) {
	data, err := canon.Marshal(b)
	if err != nil {
		return nil, err
	}
	if len(data) > rpc.MaxMessage-4096 {
		return nil, fmt.Errorf("dossier has %d bytes, a message at most %d", len(data), rpc.MaxMessage)
	}
	return data, nil
}

// Records implements release.Member.
func (p *Peer) Records(ctx context.Context, heights map[string]int64) ([]canon.Signed, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Records_FullMethodName)
	defer cancel()
	stream, err := p.rpc.Records(ctx, &enclavev1.RecordsRequest{Heights: heights})
	if err != nil {
		return nil, p.fault(err)
	}
	var out []canon.Signed
	var size int
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, p.fault(err)
		}
		for _, data := range resp.GetRecords() {
			var s canon.Signed
			if err := canon.Unmarshal(data, &s); err != nil {
				return nil, fmt.Errorf("ledger of custodian %q: %w", p.name, err)
			}
			out, size = append(out, s), size+len(data)
		}
		if size > maxLedger {
			return nil, fmt.Errorf("ledger of custodian %q: more than %d bytes at once", p.name, maxLedger)
		}
	}
}

// Seen implements release.Member.
func (p *Peer) Seen(ctx context.Context) (string, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_GetStatus_FullMethodName)
	defer cancel()
	resp, err := p.rpc.GetStatus(ctx, &enclavev1.GetStatusRequest{})
	if err != nil {
		return "", p.fault(err)
	}
	return resp.GetCheckpoint(), nil
}

// Commit implements release.Member.
func (p *Peer) Commit(ctx context.Context, b *enclave.Bundle, active []string) error {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Commit_FullMethodName)
	defer cancel()
	data, err := encodeBundle(b)
	if err != nil {
		return err
	}
	_, err = p.rpc.Commit(ctx, &enclavev1.CommitRequest{Bundle: data, Active: active})
	return p.fault(err)
}

// Share implements release.Member.
func (p *Peer) Share(ctx context.Context, b *enclave.Bundle, stage int, active []string, first []canon.Signed) (canon.Signed, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Share_FullMethodName)
	defer cancel()
	var out canon.Signed
	data, err := encodeBundle(b)
	if err != nil {
		return out, err
	}
	req := &enclavev1.ShareRequest{Bundle: data, Stage: int32(stage), Active: active}
	plan := b.Plan.Digest()
	if len(first) > 0 {
		if req.First, err = sealTo(p.keys(), purposeShare, p.self, p.name, plan, newShareSets(first, nil)); err != nil {
			return out, err
		}
	}
	resp, err := p.rpc.Share(ctx, req)
	if err != nil {
		return out, p.fault(err)
	}
	if err := unseal(p.open, purposeShared, p.name, p.self, plan, resp.GetShares(), &out); err != nil {
		return out, fmt.Errorf("shares of custodian %q: %w", p.name, err)
	}
	return out, nil
}

// Endorse implements release.Member.
func (p *Peer) Endorse(ctx context.Context, b *enclave.Bundle, r enclave.Release, proof enclave.LogProof, active []string, first, second []canon.Signed) (canon.Signature, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Endorse_FullMethodName)
	defer cancel()
	var out canon.Signature
	data, err := encodeBundle(b)
	if err != nil {
		return out, err
	}
	sealed, err := sealTo(p.keys(), purposeEndorse, p.self, p.name, b.Plan.Digest(), newShareSets(first, second))
	if err != nil {
		return out, err
	}
	rel, err1 := canon.Marshal(r)
	entry, err2 := canon.Marshal(proof)
	if err := errors.Join(err1, err2); err != nil {
		return out, err
	}
	resp, err := p.rpc.Endorse(ctx, &enclavev1.EndorseRequest{Bundle: data, Release: rel, Proof: entry, Active: active, Shares: sealed})
	if err != nil {
		return out, p.fault(err)
	}
	if err := canon.Unmarshal(resp.GetSignature(), &out); err != nil {
		return out, fmt.Errorf("signature of custodian %q: %w", p.name, err)
	}
	return out, nil
}

// Evidence fetches the share sets behind a release that the peer endorsed. Of one that it did not it is
// enclave.ErrNotFound.
func (p *Peer) Evidence(ctx context.Context, rel enclave.Digest) (release.Evidence, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_GetEvidence_FullMethodName)
	defer cancel()
	var e release.Evidence
	resp, err := p.rpc.GetEvidence(ctx, &enclavev1.GetEvidenceRequest{Release: rel[:]})
	if status.Code(err) == codes.NotFound {
		return e, fmt.Errorf("custodian %q has not endorsed release %s: %w", p.name, rel.Short(), enclave.ErrNotFound)
	}
	if err != nil {
		return e, p.fault(err)
	}
	if err := unseal(p.open, purposeEvidence, p.name, p.self, rel, resp.GetEvidence(), &e); err != nil {
		return e, fmt.Errorf("evidence of custodian %q: %w", p.name, err)
	}
	return e, nil
}
