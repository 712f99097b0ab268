package service

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
)

// What a message between custodians is for. It is part of the HPKE info, with both names and the digest of what the
// shares are of, so that a message opened is one that was meant here and now.
const (
	purposeShare    = "share"    // stage 1's sets, to a member
	purposeShared   = "shared"   // a member's set, to the leader
	purposeEndorse  = "endorse"  // both stages' sets, to a member
	purposeEvidence = "evidence" // of a release
	purposeTotal    = "total"    // the helper's share of a batch's totals, to the leader
	purposeTotals   = "totals"   // the leader's, to the helper who endorses
)

func info(purpose, from, to string, subject enclave.Digest) []byte {
	out := fmt.Appendf(nil, "yingzhou shares v1\x00%s\x00%s\x00%s\x00", purpose, from, to)
	return append(out, subject[:]...)
}

// shareSets are the signed share sets of both stages. Who signed them counts, not who sends them.
type shareSets struct {
	First  []canon.Signed `json:"first"`
	Second []canon.Signed `json:"second"`
}

func newShareSets(first, second []canon.Signed) shareSets {
	return shareSets{First: append([]canon.Signed{}, first...), Second: append([]canon.Signed{}, second...)}
}

// sealTo encrypts v to a custodian of the roster.
func sealTo(roster *operators.Roster, purpose, from, to string, subject enclave.Digest, v any) ([]byte, error) {
	p, ok := roster.Find(to)
	if !ok || p.Role != operators.RoleCustodian || p.Absent || len(p.HPKE) == 0 {
		return nil, fmt.Errorf("%q is no custodian of the roster with a key to encrypt to", to)
	}
	plain, err := canon.Marshal(v)
	if err != nil {
		return nil, err
	}
	sealed, err := keys.SealTo(p.HPKE, info(purpose, from, to, subject), plain)
	if err != nil {
		return nil, err
	}
	if len(sealed) > rpc.MaxMessage/2 { // the dossier needs room beside it
		return nil, fmt.Errorf("shares of %d bytes do not fit into a message", len(sealed))
	}
	return sealed, nil
}

func unseal(open Opener, purpose, from, to string, subject enclave.Digest, sealed []byte, v any) error {
	plain, err := open(info(purpose, from, to, subject), sealed)
	if err != nil {
		return err
	}
	return canon.Unmarshal(plain, v)
}

// seal encrypts to whoever calls. Shares go to the key that the root key vouches for, whatever the caller's certificate.
func (s *Server) seal(ctx context.Context, purpose string, subject enclave.Digest, v any) ([]byte, error) {
	caller, ok := rpc.PeerFrom(ctx)
	if !ok {
		return nil, errors.New("nobody called")
	}
	return sealTo(s.cfg.Custodian.Roster(), purpose, s.cfg.Custodian.Name(), caller.Name, subject, v)
}

func (s *Server) open(ctx context.Context, purpose string, subject enclave.Digest, sealed []byte, v any) error {
	caller, _ := rpc.PeerFrom(ctx)
	if err := unseal(s.cfg.Open, purpose, caller.Name, s.cfg.Custodian.Name(), subject, sealed, v); err != nil {
		return rpc.Errorf(codes.InvalidArgument, "shares from %q: %v", caller.Name, err)
	}
	return nil
}
