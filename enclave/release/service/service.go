// Package service puts a custodian on the network: the server of CustodianService, and a Peer that is a release.Member at
// another body. It translates and decides nothing: what a call may do is judged by package release from what it carries,
// whoever carried it.
//
// Shares are for custodians only: whoever has one of every piece has the noised counts of suppressed cells. They travel
// encrypted to their receiver's key in the roster, which the root key signed, and not only under TLS, whose certificates
// another body may issue.
package service

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
)

// Opener decrypts what was encrypted to this custodian's key in the roster.
type Opener func(info, sealed []byte) ([]byte, error)

// Config is what a server needs.
type Config struct {
	Custodian *release.Custodian
	Open      Opener
	Peers     []*Peer      // the other custodians
	Collects  *prio3.Host  // aggregates collections; nil = batches are refused
	Logger    *slog.Logger // nil = slog.Default
}

// Server answers for one custodian.
type Server struct {
	enclavev1.UnimplementedCustodianServiceServer
	cfg Config
}

// Register connects the custodian to its peers and adds its service to a gRPC server whose table has
// custodian.Methods.
func Register(s grpc.ServiceRegistrar, cfg Config) (*Server, error) {
	if cfg.Custodian == nil || cfg.Open == nil {
		return nil, errors.New("custodian's service: a required field is missing")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	srv := &Server{cfg: cfg}
	cfg.Custodian.Connect(srv.members()...)
	enclavev1.RegisterCustodianServiceServer(s, srv)
	return srv, nil
}

// members are all custodians that this one can reach, itself included.
func (s *Server) members() []release.Member {
	out := []release.Member{s.cfg.Custodian}
	for _, p := range s.cfg.Peers {
		out = append(out, p)
	}
	return out
}

// Admit is the custodian's rule for callers beyond their certificate: whoever stands in its roster must have that role
// there and still act, and nobody is a custodian who does not stand there. A steward or auditor whom the roster does not
// know yet is let in; what they bring must carry their signature anyway.
func Admit(roster func() *operators.Roster) func(context.Context, rpc.Peer) error {
	return func(_ context.Context, p rpc.Peer) error {
		party, known := roster().Find(p.Name)
		switch {
		case known && party.Absent:
			return errors.New("has left, says the roster")
		case known && string(party.Role) != p.Role:
			return errors.New("has another role in the roster than in the certificate")
		case !known && p.Role == string(operators.RoleCustodian):
			return errors.New("is not a custodian of the roster")
		}
		return nil
	}
}

// Status maps a custodian's errors for rpc.Config.
func Status(err error) (*status.Status, bool) {
	if st, ok := refusal.Status(err); ok {
		return st, true
	}
	for _, known := range []error{keys.ErrNoPiece, keys.ErrExists, enclave.ErrNotFound} {
		if errors.Is(err, known) {
			return status.New(codes.NotFound, known.Error()), true
		}
	}
	return nil, false
}

// parse reads one artefact strictly.
func parse(what string, data []byte, v any) error {
	if err := canon.Unmarshal(data, v); err != nil {
		return rpc.Errorf(codes.InvalidArgument, "%s: %v", what, err)
	}
	return nil
}

func parseBundle(data []byte) (*enclave.Bundle, error) {
	var b enclave.Bundle
	if err := parse("dossier", data, &b); err != nil {
		return nil, err
	}
	if b.Format != enclave.KindBundle {
		return nil, rpc.Errorf(codes.InvalidArgument, "dossier: format %q, want %q", b.Format, enclave.KindBundle)
	}
	return &b, nil
}

// useRoster takes over a roster that came along, if one did. Only the root key can have signed it.
func (s *Server) useRoster(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	var roster canon.Signed
	if err := parse("roster", data, &roster); err != nil {
		return err
	}
	if err := s.cfg.Custodian.UseRoster(roster); err != nil {
		return rpc.Errorf(codes.InvalidArgument, "%v", err)
	}
	return nil
}

// Accept implements CustodianService.
func (s *Server) Accept(ctx context.Context, req *enclavev1.AcceptRequest) (*enclavev1.AcceptResponse, error) {
	var keyset canon.Signed
	if err := parse("keyset", req.GetKeyset(), &keyset); err != nil {
		return nil, err
	}
	if err := s.useRoster(req.GetRoster()); err != nil {
		return nil, err
	}
	piece := int(req.GetPiece())
	if err := s.cfg.Custodian.Accept(ctx, keyset, piece, req.GetSealed(), s.cfg.Open); err != nil {
		return nil, err
	}
	var ks enclave.Keyset // Accept has parsed it and held the piece against its commitment
	if err := keyset.Open(enclave.KindKeyset, &ks); err != nil {
		return nil, err
	}
	return &enclavev1.AcceptResponse{Commitment: ks.Pieces[piece].Commitment[:]}, nil
}

// Retire implements CustodianService.
func (s *Server) Retire(ctx context.Context, req *enclavev1.RetireRequest) (*enclavev1.RetireResponse, error) {
	var keyset canon.Signed
	if err := parse("keyset", req.GetKeyset(), &keyset); err != nil {
		return nil, err
	}
	if err := s.useRoster(req.GetRoster()); err != nil {
		return nil, err
	}
	if err := s.cfg.Custodian.Retire(ctx, keyset); err != nil {
		return nil, err
	}
	return &enclavev1.RetireResponse{}, nil
}

// Dispose implements CustodianService.
func (s *Server) Dispose(ctx context.Context, req *enclavev1.DisposeRequest) (*enclavev1.DisposeResponse, error) {
	var order canon.Signed
	if err := parse("order", req.GetOrder(), &order); err != nil {
		return nil, err
	}
	if err := s.useRoster(req.GetRoster()); err != nil {
		return nil, err
	}
	word, err := s.cfg.Custodian.Dispose(ctx, order)
	if err != nil {
		return nil, err
	}
	return &enclavev1.DisposeResponse{Destruction: canon.MustMarshal(word)}, nil
}

// Rotate implements CustodianService. A peer has no business here: only who holds this custodian's own certificate.
func (s *Server) Rotate(ctx context.Context, req *enclavev1.RotateRequest) (*enclavev1.RotateResponse, error) {
	if caller, _ := rpc.PeerFrom(ctx); caller.Name != s.cfg.Custodian.Name() {
		return nil, rpc.Errorf(codes.PermissionDenied, "%q may not rotate the keys of %q", caller.Name, s.cfg.Custodian.Name())
	}
	if len(req.GetLineage()) != len(enclave.Digest{}) {
		return nil, rpc.Errorf(codes.InvalidArgument, "want a SHA-256")
	}
	if err := s.cfg.Custodian.Rotate(ctx, enclave.Digest(req.GetLineage())); err != nil {
		return nil, err
	}
	return &enclavev1.RotateResponse{}, nil
}

// batchBytes is how much of a ledger one message carries.
const batchBytes = 256 << 10

// Records implements CustodianService.
func (s *Server) Records(req *enclavev1.RecordsRequest, stream grpc.ServerStreamingServer[enclavev1.RecordsResponse]) error {
	records, err := s.cfg.Custodian.Records(stream.Context(), req.GetHeights())
	if err != nil {
		return err
	}
	resp, size := &enclavev1.RecordsResponse{}, 0
	for _, r := range records {
		data := canon.MustMarshal(r)
		resp.Records, size = append(resp.Records, data), size+len(data)
		if size >= batchBytes {
			if err := stream.Send(resp); err != nil {
				return err
			}
			resp, size = &enclavev1.RecordsResponse{}, 0
		}
	}
	if size == 0 {
		return nil
	}
	return stream.Send(resp)
}

// Commit implements CustodianService.
func (s *Server) Commit(ctx context.Context, req *enclavev1.CommitRequest) (*enclavev1.CommitResponse, error) {
	b, err := parseBundle(req.GetBundle())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Custodian.Commit(ctx, b, req.GetActive()); err != nil {
		return nil, err
	}
	return &enclavev1.CommitResponse{}, nil
}

// Share implements CustodianService.
func (s *Server) Share(ctx context.Context, req *enclavev1.ShareRequest) (*enclavev1.ShareResponse, error) {
	b, err := parseBundle(req.GetBundle())
	if err != nil {
		return nil, err
	}
	var first shareSets
	if len(req.GetFirst()) > 0 {
		if err := s.open(ctx, purposeShare, b.Plan.Digest(), req.GetFirst(), &first); err != nil {
			return nil, err
		}
	}
	shares, err := s.cfg.Custodian.Share(ctx, b, int(req.GetStage()), req.GetActive(), first.First)
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, purposeShared, b.Plan.Digest(), shares)
	if err != nil {
		return nil, err
	}
	return &enclavev1.ShareResponse{Shares: sealed}, nil
}

// Endorse implements CustodianService.
func (s *Server) Endorse(ctx context.Context, req *enclavev1.EndorseRequest) (*enclavev1.EndorseResponse, error) {
	b, err := parseBundle(req.GetBundle())
	if err != nil {
		return nil, err
	}
	var rel enclave.Release
	var proof enclave.LogProof
	var sets shareSets
	if err := parse("release", req.GetRelease(), &rel); err != nil {
		return nil, err
	}
	if err := parse("proof", req.GetProof(), &proof); err != nil {
		return nil, err
	}
	if err := s.open(ctx, purposeEndorse, b.Plan.Digest(), req.GetShares(), &sets); err != nil {
		return nil, err
	}
	sig, err := s.cfg.Custodian.Endorse(ctx, b, rel, proof, req.GetActive(), sets.First, sets.Second)
	if err != nil {
		return nil, err
	}
	return &enclavev1.EndorseResponse{Signature: canon.MustMarshal(sig)}, nil
}

// Lead implements CustodianService.
func (s *Server) Lead(req *enclavev1.LeadRequest, stream grpc.ServerStreamingServer[enclavev1.LeadResponse]) error {
	b, err := parseBundle(req.GetBundle())
	if err != nil {
		return err
	}
	out, err := s.cfg.Custodian.Lead(stream.Context(), b, s.members(), func(stage string) {
		// A caller who has gone ends the context, which ends the release.
		if err := stream.Send(&enclavev1.LeadResponse{Event: &enclavev1.LeadResponse_Stage{Stage: stage}}); err != nil {
			s.cfg.Logger.DebugContext(stream.Context(), "stage not reported", "stage", stage, "error", err)
		}
	})
	if err != nil {
		return err
	}
	return stream.Send(&enclavev1.LeadResponse{Event: &enclavev1.LeadResponse_Outcome{Outcome: &enclavev1.Outcome{
		Release: canon.MustMarshal(out.Release), Table: out.Sealed, Proof: canon.MustMarshal(out.Proof)}}})
}

// GetEvidence implements CustodianService.
func (s *Server) GetEvidence(ctx context.Context, req *enclavev1.GetEvidenceRequest) (*enclavev1.GetEvidenceResponse, error) {
	if len(req.GetRelease()) != len(enclave.Digest{}) {
		return nil, rpc.Errorf(codes.InvalidArgument, "want a SHA-256")
	}
	d := enclave.Digest(req.GetRelease())
	e, err := s.cfg.Custodian.Evidence(ctx, d)
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(ctx, purposeEvidence, d, e)
	if err != nil {
		return nil, err
	}
	return &enclavev1.GetEvidenceResponse{Evidence: sealed}, nil
}

// Recheck implements CustodianService.
func (s *Server) Recheck(ctx context.Context, req *enclavev1.RecheckRequest) (*enclavev1.RecheckResponse, error) {
	b, err := parseBundle(req.GetBundle())
	if err != nil {
		return nil, err
	}
	by, e, err := s.evidence(ctx, b.Release.Digest(), req.GetOf())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Custodian.Recheck(ctx, b, e); err != nil {
		return nil, err
	}
	return &enclavev1.RecheckResponse{EvidenceBy: by}, nil
}

// evidence finds the share sets behind a release: those that the custodian "of" kept, or, if that is empty, its own or
// those of the first peer which has some.
func (s *Server) evidence(ctx context.Context, d enclave.Digest, of string) (by string, e release.Evidence, err error) {
	self := s.cfg.Custodian.Name()
	if of == "" || of == self {
		if e, err = s.cfg.Custodian.Evidence(ctx, d); err == nil || of == self {
			return self, e, err
		}
	} else if !slices.ContainsFunc(s.cfg.Peers, func(p *Peer) bool { return p.Name() == of }) {
		return "", e, rpc.Errorf(codes.InvalidArgument, "%q is no peer of custodian %q", of, self)
	}
	for _, p := range s.cfg.Peers {
		if of != "" && of != p.Name() {
			continue
		}
		var perr error
		if e, perr = p.Evidence(ctx, d); perr == nil || of != "" {
			return p.Name(), e, perr
		}
	}
	return "", e, &refusal.UnavailableError{What: "evidence of release " + d.Short(), Cause: err}
}

// GetStatus implements CustodianService.
func (s *Server) GetStatus(context.Context, *enclavev1.GetStatusRequest) (*enclavev1.GetStatusResponse, error) {
	st := s.cfg.Custodian.Status()
	resp := &enclavev1.GetStatusResponse{Name: s.cfg.Custodian.Name(), RosterSerial: st.RosterSerial, LogSize: st.LogSize, LogRoot: st.LogRoot[:],
		Checkpoint: st.Checkpoint, Records: st.Records, Refusals: st.Refusals}
	if st.Trouble != nil {
		resp.Trouble = "its ledger cannot be written"
	}
	return resp, nil
}
