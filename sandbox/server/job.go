package server

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/lab"
)

type jobService struct {
	labv1.UnimplementedJobServiceServer
	s *Server
}

// states pairs the record's states with the wire's.
var states = map[sandbox.State]labv1.JobState{
	sandbox.Queued: labv1.JobState_JOB_STATE_QUEUED, sandbox.Planned: labv1.JobState_JOB_STATE_PLANNED, sandbox.Running: labv1.JobState_JOB_STATE_RUNNING,
	sandbox.Computed: labv1.JobState_JOB_STATE_COMPUTED, sandbox.Opening: labv1.JobState_JOB_STATE_OPENING, sandbox.Released: labv1.JobState_JOB_STATE_RELEASED,
	sandbox.Refused: labv1.JobState_JOB_STATE_REFUSED, sandbox.Failed: labv1.JobState_JOB_STATE_FAILED, sandbox.Cancelled: labv1.JobState_JOB_STATE_CANCELLED,
}

func message(j sandbox.Job) *labv1.Job {
	return &labv1.Job{Id: string(j.ID), State: states[j.State], Stage: j.Stage, Percent: int32(j.Percent), Reason: j.Reason, Operator: j.Operator, Analyst: j.Analyst,
		Scenario: text(j.Scenario), Query: j.Query, EpsilonMicro: j.EpsilonMicro, Plan: text(j.Plan), Receipt: text(j.Receipt), Release: text(j.Release),
		Isolation: j.Isolation, Attempts: j.Attempts, Created: timestamppb.New(j.Created), Updated: timestamppb.New(j.Updated)}
}

// scenario finds a scenario that a caller may see, by name or digest.
func (s *Server) scenario(ctx context.Context, p operators.Party, name string) (enclave.Digest, error) {
	d, sc, err := s.cfg.Lab.Scenario(ctx, name)
	if err == nil && p.Role == operators.RoleAnalyst && sc.Operator != p.Body {
		err = fmt.Errorf("scenario %q: %w", name, sandbox.ErrNotFound)
	}
	return d, err
}

// request reads what explaining and submitting have in common. The analyst is whoever calls.
func (j jobService) request(ctx context.Context, scenario, query string, epsilon int64) (lab.Request, error) {
	p, err := j.s.caller(ctx)
	if err != nil {
		return lab.Request{}, err
	}
	if query == "" || epsilon < 0 {
		return lab.Request{}, invalid("want a query, and a budget that is not negative")
	}
	d, err := j.s.scenario(ctx, p, scenario)
	return lab.Request{Analyst: p.Name, Scenario: d, Query: query, EpsilonMicro: epsilon}, err
}

func (j jobService) ExplainJob(ctx context.Context, r *labv1.ExplainJobRequest) (*labv1.ExplainJobResponse, error) {
	req, err := j.request(ctx, r.GetScenario(), r.GetQuery(), r.GetEpsilonMicro())
	if err != nil {
		return nil, err
	}
	p, err := j.s.cfg.Lab.Prepare(ctx, req)
	if err != nil {
		return nil, err
	}
	e, err := p.Explain()
	if err != nil {
		return nil, err
	}
	programs, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return &labv1.ExplainJobResponse{Plan: canon.MustMarshal(p.Plan), Grant: canon.MustMarshal(p.Grant), TextEn: e.Text("en"), TextZh: e.Text("zh"), Json: string(programs)}, nil
}

func (j jobService) SubmitJob(ctx context.Context, r *labv1.SubmitJobRequest) (*labv1.SubmitJobResponse, error) {
	req, err := j.request(ctx, r.GetScenario(), r.GetQuery(), r.GetEpsilonMicro())
	if err != nil {
		return nil, err
	}
	var signed enclave.Signed
	if len(r.GetPlan()) > 0 {
		signed, err = j.s.own(ctx, r.GetPlan())
	} else if _, err = j.s.cfg.Lab.Prepare(ctx, req); err == nil {
		err = invalid("the query can run: explain the job, and submit it with its plan signed")
	} else if lab.IsRefusal(err) {
		err = nil // on record as a job that was refused
	}
	if err != nil {
		return nil, err
	}
	req.ID = sandbox.JobID(r.GetId())
	out := &labv1.SubmitJobResponse{}
	job, err := j.s.cfg.Lab.Submit(ctx, req, func(p *lab.Prepared) (enclave.Signed, error) {
		e, err := p.Explain()
		if err != nil {
			return enclave.Signed{}, err
		}
		out.TextEn, out.TextZh = e.Text("en"), e.Text("zh")
		if signed.Digest() != canon.DigestOf(p.Plan) {
			return enclave.Signed{}, fmt.Errorf("%w: the plan that was signed is not what the query means now: explain it again", sandbox.ErrConflict)
		}
		return signed, nil
	})
	if err != nil {
		if job.ID != "" {
			err = &refusedJob{job.ID, err}
		}
		return nil, err
	}
	out.Job = message(job)
	return out, nil
}

func (j jobService) WatchJob(r *labv1.WatchJobRequest, down grpc.ServerStreamingServer[labv1.WatchJobResponse]) error {
	job, err := j.s.job(down.Context(), r.GetId())
	if err != nil {
		return err
	}
	return j.s.watch(down.Context(), job.ID, func(job sandbox.Job) error { return down.Send(&labv1.WatchJobResponse{Job: message(job)}) })
}

func (j jobService) GetJob(ctx context.Context, r *labv1.GetJobRequest) (*labv1.GetJobResponse, error) {
	job, err := j.s.job(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &labv1.GetJobResponse{Job: message(job)}, nil
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// list returns a page of jobs that the caller may see.
func (s *Server) list(ctx context.Context, f sandbox.JobFilter, limit int32, before string) ([]sandbox.Job, error) {
	if before != "" {
		id, err := sandbox.ParseJobID(before)
		if err != nil {
			return nil, invalid("before: %v", err)
		}
		f.Before = id
	}
	if limit < 0 || limit > maxLimit {
		return nil, invalid("limit %d is not between 0 and %d", limit, maxLimit)
	}
	if limit == 0 {
		limit = defaultLimit
	}
	sees, p, err := s.sees(ctx)
	if err != nil {
		return nil, err
	}
	if p.Role == operators.RoleAnalyst {
		f.Operator = p.Body
	}
	var out []sandbox.Job
	for f.Limit = maxLimit; len(out) < int(limit); {
		jobs, err := s.cfg.Lab.Jobs(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, j := range jobs {
			if f.Before = j.ID; sees(j) && len(out) < int(limit) {
				out = append(out, j)
			}
		}
		if len(jobs) < f.Limit {
			break
		}
	}
	return out, nil
}

func (j jobService) ListJobs(ctx context.Context, r *labv1.ListJobsRequest) (*labv1.ListJobsResponse, error) {
	var f sandbox.JobFilter
	for _, want := range r.GetStates() {
		found := false
		for state, number := range states {
			if number == want {
				f.States, found = append(f.States, state), true
			}
		}
		if !found {
			return nil, invalid("there is no state %s", want)
		}
	}
	jobs, err := j.s.list(ctx, f, r.GetLimit(), r.GetBefore())
	if err != nil {
		return nil, err
	}
	out := &labv1.ListJobsResponse{}
	for _, job := range jobs {
		out.Jobs = append(out.Jobs, message(job))
	}
	return out, nil
}

func (j jobService) CancelJob(ctx context.Context, r *labv1.CancelJobRequest) (*labv1.CancelJobResponse, error) {
	job, err := j.s.job(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	p, err := j.s.caller(ctx)
	if err != nil {
		return nil, err
	}
	after, err := j.s.cfg.Lab.Cancel(ctx, job.ID, p.Name, r.GetReason())
	if err != nil {
		return nil, err
	}
	j.s.cfg.Jobs.Note(after, nil)
	return &labv1.CancelJobResponse{Job: message(after)}, nil
}
