package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
)

type operatorService struct {
	labv1.UnimplementedOperatorServiceServer
	s *Server
}

func (o operatorService) RecordStatement(ctx context.Context, r *labv1.RecordStatementRequest) (*labv1.RecordStatementResponse, error) {
	signed, err := o.s.own(ctx, r.GetStatement())
	if err != nil {
		return nil, err
	}
	d, err := o.s.cfg.Registry.Record(ctx, signed)
	if err != nil {
		return nil, err
	}
	return &labv1.RecordStatementResponse{Digest: text(d)}, nil
}

// page is how many bytes of statements are sent at a time.
const page = 1 << 20

func (o operatorService) ListStatements(_ *labv1.ListStatementsRequest, down grpc.ServerStreamingServer[labv1.ListStatementsResponse]) error {
	ctx := down.Context()
	p, err := o.s.caller(ctx)
	if err != nil {
		return err
	}
	st, err := o.s.cfg.Lab.Statements(ctx)
	if err != nil {
		return err
	}
	if p.Role == operators.RoleAnalyst {
		st.All = concerning(p.Body, st.All)
	}
	next := &labv1.ListStatementsResponse{Owners: st.Owners}
	size := 0
	for _, s := range st.All {
		data := canon.MustMarshal(s)
		if size += len(data); size > page {
			if err := down.Send(next); err != nil {
				return err
			}
			next, size = &labv1.ListStatementsResponse{}, len(data)
		}
		next.Statements = append(next.Statements, data)
	}
	return down.Send(next)
}

func (o operatorService) ListScenarios(ctx context.Context, _ *labv1.ListScenariosRequest) (*labv1.ListScenariosResponse, error) {
	p, err := o.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	all, err := o.s.cfg.Registry.List(ctx, o.s.cfg.Clock())
	if err != nil {
		return nil, err
	}
	out := &labv1.ListScenariosResponse{}
	for _, st := range all {
		if p.Role != operators.RoleAnalyst || st.Body.Operator == p.Body {
			out.Scenarios = append(out.Scenarios, scenario(st))
		}
	}
	return out, nil
}

func (o operatorService) GetScenario(ctx context.Context, r *labv1.GetScenarioRequest) (*labv1.GetScenarioResponse, error) {
	p, err := o.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	d, err := o.s.scenario(ctx, p, r.GetName())
	if err != nil {
		return nil, err
	}
	st, err := o.s.cfg.Registry.Status(ctx, d, o.s.cfg.Clock())
	if err != nil {
		return nil, err
	}
	return &labv1.GetScenarioResponse{Scenario: scenario(st)}, nil
}

func scenario(st *registry.Status) *labv1.Scenario {
	b := st.Body
	out := &labv1.Scenario{Name: b.Name, Digest: text(st.Scenario), Operator: b.Operator, Purpose: b.Purpose, State: string(st.State),
		EpsilonMicro: b.EpsilonMicro, JobEpsilonMicro: b.JobEpsilonMicro, MinCohort: b.MinCohort, NotAfter: timestamppb.New(b.NotAfter.Time),
		Reasons: deniedReasons(&operators.DeniedError{Reasons: st.Reasons}), Application: canon.MustMarshal(b)}
	for _, n := range st.Next {
		out.Next = append(out.Next, &labv1.NextStep{Do: n.Do, Who: n.Who})
	}
	return out
}
