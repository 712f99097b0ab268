package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/lab"
)

// Prepare authorises and plans a request without recording anything. The plan is compared with what was asked: it is what
// the analyst will sign.
func (c *Client) Prepare(ctx context.Context, r lab.Request) (*lab.Prepared, error) {
	a, err := c.job.ExplainJob(ctx, &labv1.ExplainJobRequest{Scenario: r.Scenario.String(), Query: r.Query, EpsilonMicro: r.EpsilonMicro})
	if err != nil {
		return nil, problem(err)
	}
	p := &lab.Prepared{Plan: &enclave.Plan{}, Grant: &operators.Grant{}}
	if err := canon.Unmarshal(a.GetPlan(), p.Plan); err != nil {
		return nil, fmt.Errorf("the plan to sign: %w", err)
	}
	if err := canon.Unmarshal(a.GetGrant(), p.Grant); err != nil {
		return nil, fmt.Errorf("the grant of the plan: %w", err)
	}
	want := r.EpsilonMicro
	if want == 0 {
		want = p.Grant.JobEpsilonMicro
	}
	switch {
	case p.Plan.Query != r.Query || p.Plan.Grant != canon.DigestOf(p.Grant) || p.Grant.Scenario != r.Scenario:
		return nil, errors.New("the lab's plan is not for this query in this scenario: do not sign it")
	case p.Plan.EpsilonMicro > want:
		return nil, fmt.Errorf("the lab's plan spends ε %s, asked for was %s: do not sign it", enclave.FormatScaled(p.Plan.EpsilonMicro, 6), enclave.FormatScaled(want, 6))
	}
	if p.Dataset, err = c.Dataset(ctx, p.Plan.Dataset); err != nil {
		return nil, err
	}
	if p.Plan.Joint != nil {
		for _, s := range p.Plan.Joint.Sources[1:] {
			d, err := c.Dataset(ctx, s.Dataset)
			if err != nil {
				return nil, err
			}
			p.Others = append(p.Others, d)
		}
	}
	return p, nil
}

// Submit has the plan of a request signed and records the job. It runs from then on. A lost answer, or one that the lab was
// too busy to give in time, is asked for again under the same ID, so that there is one job.
func (c *Client) Submit(ctx context.Context, r lab.Request, sign func(*lab.Prepared) (enclave.Signed, error)) (sandbox.Job, error) {
	if r.ID == "" {
		r.ID = sandbox.NewJobID(c.cfg.Clock())
	}
	req := &labv1.SubmitJobRequest{Id: string(r.ID), Scenario: r.Scenario.String(), Query: r.Query, EpsilonMicro: r.EpsilonMicro}
	p, err := c.Prepare(ctx, r)
	if err != nil && !lab.IsRefusal(err) {
		return sandbox.Job{}, err
	}
	if err == nil { // else there is nothing to sign, and the refusal goes on record
		signed, err := sign(p)
		if err != nil {
			return sandbox.Job{}, err
		}
		req.Plan = canon.MustMarshal(signed)
	}
	for attempt := 0; ; attempt++ {
		a, err := c.job.SubmitJob(ctx, req)
		if err == nil {
			return job(a.GetJob())
		}
		err = problem(err)
		if late := errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil; !late && !errors.Is(err, ErrUnavailable) || attempt == retries {
			var e *Error
			if errors.As(err, &e) && e.Job != "" {
				return sandbox.Job{ID: e.Job, State: sandbox.Refused}, err
			}
			return sandbox.Job{}, err
		}
		if err := rest(ctx, attempt); err != nil {
			return sandbox.Job{}, err
		}
	}
}

// retries bounds how often a call is made again that the lab did not answer.
const retries = 5

// rest waits before the next attempt: 0.2 s, then twice as long each time, at most 5 s.
func rest(ctx context.Context, attempt int) error {
	t := time.NewTimer(min(200*time.Millisecond<<min(attempt, 6), 5*time.Second))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run watches a job to its end and reports every change through watch, which may be nil. A lost connection is made again.
// The error says why the job did not end in a release.
func (c *Client) Run(ctx context.Context, id sandbox.JobID, watch func(sandbox.Job)) (last sandbox.Job, err error) {
	if watch == nil {
		watch = func(sandbox.Job) {}
	}
	for attempt := 0; ; {
		for m, err := range received(c.job.WatchJob(ctx, &labv1.WatchJobRequest{Id: string(id)})) {
			if err != nil {
				if !errors.Is(err, ErrUnavailable) || attempt == retries {
					return last, err
				}
				break
			}
			attempt = 0
			if last, err = job(m.GetJob()); err != nil {
				return last, err
			}
			watch(last)
		}
		if last.State == sandbox.Released {
			return last, nil
		}
		if err := rest(ctx, attempt); err != nil {
			return last, err
		}
		attempt++
	}
}

// Job returns a job as it is.
func (c *Client) Job(ctx context.Context, id sandbox.JobID) (sandbox.Job, error) {
	a, err := c.job.GetJob(ctx, &labv1.GetJobRequest{Id: string(id)})
	if err != nil {
		return sandbox.Job{}, problem(err)
	}
	return job(a.GetJob())
}

// most is the largest page that the lab gives.
const most = 1000

// Jobs lists jobs that the caller may see, the newest first. Operator and Scenario of the filter select among them here.
func (c *Client) Jobs(ctx context.Context, f sandbox.JobFilter) ([]sandbox.Job, error) {
	req := &labv1.ListJobsRequest{Before: string(f.Before), Limit: most}
	for _, s := range f.States {
		req.States = append(req.States, states[s])
	}
	var out []sandbox.Job
	for {
		a, err := c.job.ListJobs(ctx, req)
		if err != nil {
			return nil, problem(err)
		}
		for _, m := range a.GetJobs() {
			j, err := job(m)
			if err != nil {
				return nil, err
			}
			req.Before = string(j.ID)
			if (f.Operator == "" || j.Operator == f.Operator) && (f.Scenario.IsZero() || j.Scenario == f.Scenario) {
				out = append(out, j)
			}
			if f.Limit > 0 && len(out) == f.Limit {
				return out, nil
			}
		}
		if len(a.GetJobs()) < most {
			return out, nil
		}
	}
}

// Cancel ends a job that has not been opened yet. The analyst must be the caller.
func (c *Client) Cancel(ctx context.Context, id sandbox.JobID, _, reason string) (sandbox.Job, error) {
	a, err := c.job.CancelJob(ctx, &labv1.CancelJobRequest{Id: string(id), Reason: reason})
	if err != nil {
		return sandbox.Job{}, problem(err)
	}
	return job(a.GetJob())
}

var states = map[sandbox.State]labv1.JobState{
	sandbox.Queued: labv1.JobState_JOB_STATE_QUEUED, sandbox.Planned: labv1.JobState_JOB_STATE_PLANNED, sandbox.Running: labv1.JobState_JOB_STATE_RUNNING,
	sandbox.Computed: labv1.JobState_JOB_STATE_COMPUTED, sandbox.Opening: labv1.JobState_JOB_STATE_OPENING, sandbox.Released: labv1.JobState_JOB_STATE_RELEASED,
	sandbox.Refused: labv1.JobState_JOB_STATE_REFUSED, sandbox.Failed: labv1.JobState_JOB_STATE_FAILED, sandbox.Cancelled: labv1.JobState_JOB_STATE_CANCELLED,
}

// job reads a job from the wire.
func job(m *labv1.Job) (sandbox.Job, error) {
	out := sandbox.Job{ID: sandbox.JobID(m.GetId()), Operator: m.GetOperator(), Analyst: m.GetAnalyst(), Query: m.GetQuery(), EpsilonMicro: m.GetEpsilonMicro(),
		Stage: m.GetStage(), Percent: int64(m.GetPercent()), Reason: m.GetReason(), Isolation: m.GetIsolation(), Attempts: m.GetAttempts(),
		Created: m.GetCreated().AsTime(), Updated: m.GetUpdated().AsTime()}
	for s, number := range states {
		if number == m.GetState() {
			out.State = s
		}
	}
	if out.State == "" {
		return out, fmt.Errorf("job %q is in state %s, which this program does not know", m.GetId(), m.GetState())
	}
	for _, f := range []struct {
		to   *enclave.Digest
		from string
	}{{&out.Scenario, m.GetScenario()}, {&out.Plan, m.GetPlan()}, {&out.Receipt, m.GetReceipt()}, {&out.Release, m.GetRelease()}} {
		if f.from == "" {
			continue
		}
		d, err := enclave.ParseDigest(f.from)
		if err != nil {
			return out, fmt.Errorf("job %q: %w", m.GetId(), err)
		}
		*f.to = d
	}
	return out, nil
}
