package server

import (
	"context"

	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
)

var errStopping = rpc.Errorf(codes.Unavailable, "the lab is stopping: the job goes on, watch it again in a moment")

// text is a digest as messages have it; "" for none.
func text(d enclave.Digest) string {
	if d.IsZero() {
		return ""
	}
	return d.String()
}

func digest(what, s string) (enclave.Digest, error) {
	d, err := enclave.ParseDigest(s)
	if err != nil {
		return d, invalid("%s: %v", what, err)
	}
	return d, nil
}

type labService struct {
	labv1.UnimplementedLabServiceServer
	s *Server
}

func (l labService) GetLab(ctx context.Context, _ *labv1.GetLabRequest) (*labv1.GetLabResponse, error) {
	roster, _, err := l.s.cfg.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	p, err := l.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	out := &labv1.GetLabResponse{Name: l.s.cfg.Name, Root: l.s.cfg.RootKey, Roster: canon.MustMarshal(roster), Caller: p.Name, Role: string(p.Role)}
	for _, c := range l.s.cfg.Custodians {
		out.Custodians = append(out.Custodians, &labv1.CustodianAddress{Name: c.Name, Address: c.Address})
	}
	return out, nil
}

func (l labService) PutRoster(ctx context.Context, r *labv1.PutRosterRequest) (*labv1.PutRosterResponse, error) {
	var signed enclave.Signed
	if err := canon.Unmarshal(r.GetRoster(), &signed); err != nil {
		return nil, invalid("the roster cannot be read: %v", err)
	}
	if err := l.s.cfg.Lab.PutRoster(ctx, signed); err != nil {
		return nil, err
	}
	l.s.forgetRoster()
	return &labv1.PutRosterResponse{Digest: text(signed.Digest())}, nil
}

func (l labService) GetNode(ctx context.Context, _ *labv1.GetNodeRequest) (*labv1.GetNodeResponse, error) {
	workers, err := l.s.cfg.Node.WorkerDigests(ctx)
	if err != nil {
		return nil, err
	}
	out := &labv1.GetNodeResponse{}
	for _, w := range workers {
		out.Workers = append(out.Workers, text(w))
	}
	if out.Nodes, err = l.s.cfg.Lab.NodeIsolation(ctx); err != nil {
		return nil, err
	}
	out.Isolation, out.Why, err = l.s.cfg.Node.Isolation(ctx)
	return out, err
}
