package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/plan"
)

// Request asks for a job.
type Request struct {
	ID           sandbox.JobID // drawn by whoever asks, so that asking again is no second job; "" = drawn here
	Analyst      string
	Scenario     enclave.Digest
	Query        string
	EpsilonMicro int64 // 0 = the scenario's default
}

// Prepared is an authorised, planned request that the analyst has still to sign.
type Prepared struct {
	Plan    *enclave.Plan
	Grant   *operators.Grant
	Dataset *Dataset
	Others  []*Dataset // of JOIN
}

// Scenario finds a recorded application by name or digest; the newest of a name.
func (l *Lab) Scenario(ctx context.Context, name string) (enclave.Digest, *operators.Scenario, error) {
	all, err := l.cfg.Store.Statements(ctx, 0)
	if err != nil {
		return enclave.Digest{}, nil, err
	}
	for _, s := range slices.Backward(all) {
		var sc operators.Scenario
		if s.Signed.Kind == operators.KindScenario && s.Signed.Open(operators.KindScenario, &sc) == nil &&
			(sc.Name == name || s.Signed.Digest().String() == name) {
			return s.Signed.Digest(), &sc, nil
		}
	}
	return enclave.Digest{}, nil, fmt.Errorf("scenario %q: %w", name, sandbox.ErrNotFound)
}

// Prepare authorises and plans a request without recording anything: what `explain` shows. A refusal carries all
// reasons at once: *operators.DeniedError, *plan.RefusedError or both joined.
func (l *Lab) Prepare(ctx context.Context, r Request) (*Prepared, error) {
	st, err := l.statements(ctx)
	if err != nil {
		return nil, err
	}
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return nil, err
	}
	analyst, _ := roster.Find(r.Analyst)
	grant, err := operators.Authorize(st, operators.Request{Operator: analyst.Body, Scenario: r.Scenario, Analyst: r.Analyst, Now: l.cfg.Clock()})
	if err != nil {
		return nil, err
	}
	names, err := plan.Datasets(r.Query)
	if err != nil {
		return nil, err
	}
	out := &Prepared{Grant: grant}
	for i, name := range names {
		d, err := l.sealed(ctx, name, grant)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			out.Dataset = d
		} else {
			out.Others = append(out.Others, d)
		}
	}
	d := out.Dataset
	req := plan.Request{Query: r.Query, EpsilonMicro: r.EpsilonMicro, Grant: grant, GrantDigest: canon.DigestOf(grant),
		Keyset: d.Keyset, KeysetDigest: d.KeysetDigest, Manifest: d.Manifest, ManifestDigest: d.ManifestDigest}
	for _, o := range out.Others {
		req.Others = append(req.Others, plan.Source{Keyset: o.Keyset, KeysetDigest: o.KeysetDigest, Manifest: o.Manifest, ManifestDigest: o.ManifestDigest})
	}
	if out.Plan, err = plan.Build(req); err != nil {
		return nil, err
	}
	return out, nil
}

// Explain describes the plan.
func (p *Prepared) Explain() (*plan.Explanation, error) {
	if p.Plan.Joint == nil {
		return plan.Explain(p.Plan, p.Dataset.Manifest, p.Dataset.Keyset, p.Grant)
	}
	var manifests []*enclave.Manifest
	var keysets []*enclave.Keyset
	for _, d := range append([]*Dataset{p.Dataset}, p.Others...) {
		manifests, keysets = append(manifests, d.Manifest), append(keysets, d.Keyset)
	}
	return plan.ExplainJoint(p.Plan, manifests, keysets, p.Grant)
}

// sealed finds a dataset that can be asked about.
func (l *Lab) sealed(ctx context.Context, name string, grant *operators.Grant) (*Dataset, error) {
	d, err := l.Dataset(ctx, name)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil, &plan.RefusedError{Reasons: []plan.Reason{{Code: plan.CodeDataset, Text: fmt.Sprintf("there is no dataset %q", name),
			Hint: "`lab dataset list` names the datasets; the scenario covers " + fmt.Sprint(datasetNames(grant))}}}
	}
	if err != nil {
		return nil, err
	}
	if d.Disposal != nil {
		return nil, &plan.RefusedError{Reasons: []plan.Reason{{Code: plan.CodeDataset, Text: fmt.Sprintf("dataset %q was disposed of: its purpose is %s", name, d.Disposal.Cause)}}}
	}
	if d.Manifest == nil {
		return nil, &plan.RefusedError{Reasons: []plan.Reason{{Code: plan.CodeDataset, Text: fmt.Sprintf("dataset %q is registered but nothing is sealed yet", name)}}}
	}
	return d, nil
}

func datasetNames(g *operators.Grant) (out []string) {
	for _, d := range g.Datasets {
		out = append(out, d.Dataset)
	}
	return out
}

// Submit records a job. The plan comes back signed by the analyst, so that the control plane cannot ask in an
// operator's name. A refused request is recorded too, with its reasons, and logged.
func (l *Lab) Submit(ctx context.Context, r Request, sign func(*Prepared) (enclave.Signed, error)) (sandbox.Job, error) {
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return sandbox.Job{}, err
	}
	analyst, ok := roster.Find(r.Analyst)
	if !ok || analyst.Role != operators.RoleAnalyst {
		return sandbox.Job{}, fmt.Errorf("submitting a job: %w", operators.Deny(operators.Reason{Rule: operators.ErrNotMember, Subject: r.Analyst,
			Text: fmt.Sprintf("%q is not an analyst of any operator", r.Analyst)}))
	}
	id := r.ID
	if id == "" {
		id = sandbox.NewJobID(l.cfg.Clock())
	}
	at := sandbox.Instant(l.cfg.Clock())
	job := sandbox.Job{ID: id, Operator: analyst.Body, Analyst: r.Analyst, Scenario: r.Scenario, Query: r.Query, EpsilonMicro: r.EpsilonMicro,
		State: sandbox.Queued, Created: at, Updated: at}
	again := false // an earlier call broke off, or is still under way in a process that its caller has lost
	if r.ID != "" {
		have, err := l.again(ctx, job)
		if err != nil || have.ID != "" && have.State != sandbox.Queued {
			return have, err
		}
		again = have.ID != ""
	}
	if err := l.cfg.Store.CreateJob(ctx, job); err != nil {
		return job, err
	}
	failpoint.Hit(failpoint.JobCreated)
	prepared, err := l.Prepare(ctx, r)
	if err != nil {
		return l.refuse(ctx, job, err)
	}
	signed, err := sign(prepared)
	if err != nil {
		return l.refuse(ctx, job, err)
	}
	if signed.Digest() != canon.DigestOf(prepared.Plan) {
		return l.refuse(ctx, job, errors.New("the signed plan is not the one that was prepared"))
	}
	by, err := roster.Signer(signed, enclave.KindPlan, operators.RoleAnalyst)
	if err == nil && by.Name != r.Analyst {
		err = fmt.Errorf("it is signed by %q", by.Name)
	}
	if err != nil {
		return l.refuse(ctx, job, fmt.Errorf("the plan must be signed by %q, who asks: %w", r.Analyst, err))
	}
	grant, err := l.sign(operators.KindGrant, prepared.Grant)
	if err != nil {
		return job, err
	}
	entry := enclave.Entry{Type: enclave.EntryPlan, Subject: signed.Digest(), By: r.Analyst, Job: string(id), At: l.now()}
	have := false // every job has its entry, also one that repeats a plan
	if again {
		have, err = l.logged(ctx, sandbox.EntryFilter{Subject: entry.Subject, Type: entry.Type, Job: entry.Job})
	}
	if err == nil && !have {
		err = l.Announce(ctx, entry)
	}
	if err != nil {
		return job, err
	}
	failpoint.Hit(failpoint.PlanLogged)
	var after sandbox.Job
	err = l.cfg.Store.Atomic(ctx, func(rec sandbox.Records) error {
		for _, s := range []enclave.Signed{grant, signed} {
			if _, err := rec.PutArtefact(ctx, s, l.cfg.Clock()); err != nil {
				return err
			}
		}
		after, _, err = rec.MoveJob(ctx, id, sandbox.Change{From: sandbox.Queued, Event: sandbox.Plan, Plan: signed.Digest(), At: l.cfg.Clock()})
		return err
	})
	failpoint.Hit(failpoint.PlanStored)
	if errors.Is(err, sandbox.ErrConflict) {
		if have, look := l.cfg.Store.Job(ctx, id); look == nil && have.State != sandbox.Queued && have.SameRequest(job) {
			return have, nil // another call with the same ID was quicker
		}
	}
	return after, err
}

// maxDrawn is how far the time in a job ID that somebody else drew may be from now: IDs sort by age.
const maxDrawn = 10 * time.Minute

// again finds the job that an earlier call with the same ID recorded; one that is queued has still to be submitted. The zero
// Job means that there is none.
func (l *Lab) again(ctx context.Context, job sandbox.Job) (sandbox.Job, error) {
	if _, err := sandbox.ParseJobID(string(job.ID)); err != nil {
		return sandbox.Job{}, fmt.Errorf("submitting a job: %w: %w", sandbox.ErrInvalid, err)
	}
	have, err := l.cfg.Store.Job(ctx, job.ID)
	switch {
	case errors.Is(err, sandbox.ErrNotFound):
		if off := l.cfg.Clock().Sub(job.ID.Made()); off.Abs() > maxDrawn {
			return sandbox.Job{}, fmt.Errorf("submitting a job: %w: ID %s was drawn %v from now: look at your clock", sandbox.ErrInvalid, job.ID, off.Round(time.Second))
		}
		return sandbox.Job{}, nil
	case err != nil:
		return sandbox.Job{}, err
	case !have.SameRequest(job):
		return sandbox.Job{}, fmt.Errorf("submitting a job: %w: %s is another job's ID", sandbox.ErrConflict, job.ID)
	}
	return have, nil
}

func (l *Lab) sign(kind string, v any) (enclave.Signed, error) { return signAs(l.cfg.Lab, kind, v) }

func signAs(by Signer, kind string, v any) (enclave.Signed, error) {
	body, err := canon.Marshal(v)
	if err != nil {
		return enclave.Signed{}, err
	}
	sig, err := by.Sign(kind, body)
	if err != nil {
		return enclave.Signed{}, err
	}
	return enclave.Signed{Kind: kind, Body: body, Sigs: []canon.Signature{sig}}, nil
}

// IsRefusal reports whether an error is a reasoned no of the rules or the planner.
func IsRefusal(err error) bool {
	var denied *operators.DeniedError
	var refused *plan.RefusedError
	return errors.As(err, &denied) || errors.As(err, &refused)
}

// refuse ends a job that a rule stopped: logged, then recorded. Other errors leave the job as a failure.
func (l *Lab) refuse(ctx context.Context, job sandbox.Job, why error) (sandbox.Job, error) {
	event, kind := sandbox.Fail, enclave.EntryFailure
	if IsRefusal(why) {
		event, kind = sandbox.Refuse, enclave.EntryRefusal
	}
	return l.end(ctx, job, event, kind, why)
}

func (l *Lab) end(ctx context.Context, job sandbox.Job, event sandbox.Event, kind string, why error) (sandbox.Job, error) {
	ctx = context.WithoutCancel(ctx) // an end must be on record even if whoever waited has gone
	reason := why.Error()
	subject := job.Plan
	if subject.IsZero() {
		subject = job.Scenario
	}
	// The log is public to auditors, and a query's text may carry what its author knows: the log has the rule only.
	entry := enclave.Entry{Type: kind, Subject: subject, By: l.cfg.Lab.Name(), Job: string(job.ID), Reason: string(event), At: l.now()}
	have, err := l.logged(ctx, sandbox.EntryFilter{Subject: subject, Type: kind, Job: entry.Job}) // by whoever was stopped before the store had it
	if err == nil && !have {
		err = l.Announce(ctx, entry)
	}
	if err != nil {
		return job, errors.Join(why, err)
	}
	failpoint.Hit(failpoint.EndLogged)
	after, _, err := l.cfg.Store.MoveJob(ctx, job.ID, sandbox.Change{From: job.State, Event: event, Reason: reason, At: l.cfg.Clock()})
	if err != nil {
		return job, errors.Join(why, err)
	}
	failpoint.Hit(failpoint.EndStored)
	return after, why
}

// Cancel ends a job that has not been opened yet.
func (l *Lab) Cancel(ctx context.Context, id sandbox.JobID, analyst, reason string) (sandbox.Job, error) {
	job, err := l.cfg.Store.Job(ctx, id)
	if err != nil {
		return job, err
	}
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return job, err
	}
	if p, ok := roster.Find(analyst); !ok || p.Role != operators.RoleAnalyst || p.Body != job.Operator {
		return job, fmt.Errorf("cancelling job %s: only analysts of %q may", id, job.Operator)
	}
	if !job.State.CanCancel() {
		return job, fmt.Errorf("cancelling job %s: %w: it is %s", id, sandbox.ErrConflict, job.State)
	}
	if err := l.Announce(ctx, enclave.Entry{Type: enclave.EntryCancel, Subject: job.Scenario, By: analyst, Job: string(id), At: l.now()}); err != nil {
		return job, err
	}
	failpoint.Hit(failpoint.CancelLogged)
	after, _, err := l.cfg.Store.MoveJob(ctx, id, sandbox.Change{From: job.State, Event: sandbox.Cancel, Reason: reason, At: l.cfg.Clock()})
	failpoint.Hit(failpoint.CancelStored)
	return after, err
}

// Job finds a job.
func (l *Lab) Job(ctx context.Context, id sandbox.JobID) (sandbox.Job, error) {
	return l.cfg.Store.Job(ctx, id)
}

// Jobs lists jobs, the newest first.
func (l *Lab) Jobs(ctx context.Context, f sandbox.JobFilter) ([]sandbox.Job, error) {
	return l.cfg.Store.Jobs(ctx, f)
}

// Steps lists a job's transitions in order.
func (l *Lab) Steps(ctx context.Context, id sandbox.JobID) ([]sandbox.Step, error) {
	return l.cfg.Store.Steps(ctx, id)
}
