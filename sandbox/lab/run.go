package lab

import (
	"context"
	"errors"
	"fmt"
	"os"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// EndedError says that a job ended before, without a release.
type EndedError struct{ Job sandbox.Job }

func (e *EndedError) Error() string {
	return fmt.Sprintf("job %s was %s: %s", e.Job.ID, e.Job.State, e.Job.Reason)
}

// Run drives a job from wherever it is to its end and reports every change through watch, which may be nil. It can be
// called again after any crash. The error says why a job did not end in a release, also when the job had ended before.
func (l *Lab) Run(ctx context.Context, id sandbox.JobID, watch func(sandbox.Job)) (sandbox.Job, error) {
	if watch == nil {
		watch = func(sandbox.Job) {}
	}
	for {
		job, err := l.cfg.Store.Job(ctx, id)
		if err != nil {
			return job, err
		}
		watch(job)
		switch job.State {
		case sandbox.Queued:
			// Submission stopped before it was planned; nothing was promised to anyone.
			job, err = l.end(ctx, job, sandbox.Fail, enclave.EntryFailure, errAbandoned)
		case sandbox.Planned:
			job, err = l.start(ctx, job, watch)
		case sandbox.Running:
			job, _, err = l.cfg.Store.MoveJob(ctx, id, sandbox.Change{From: sandbox.Running, Event: sandbox.Restart, Reason: "the lab stopped while the worker ran", At: l.cfg.Clock()})
			failpoint.Hit(failpoint.JobRestarted)
		case sandbox.Computed:
			job, _, err = l.cfg.Store.MoveJob(ctx, id, sandbox.Change{From: sandbox.Computed, Event: sandbox.Open, At: l.cfg.Clock()})
			failpoint.Hit(failpoint.OpeningStored)
		case sandbox.Opening:
			job, err = l.open(ctx, job, watch)
		default:
			if job.State != sandbox.Released {
				return job, &EndedError{job}
			}
			return job, nil
		}
		if err != nil {
			if job.State.Ended() {
				watch(job)
			}
			return job, err
		}
	}
}

// Unfinished lists jobs that Run has still to drive, oldest first.
func (l *Lab) Unfinished(ctx context.Context) ([]sandbox.Job, error) {
	jobs, err := l.cfg.Store.Jobs(ctx, sandbox.JobFilter{States: []sandbox.State{sandbox.Queued, sandbox.Planned, sandbox.Running, sandbox.Computed, sandbox.Opening}})
	if err != nil {
		return nil, err
	}
	for i, j := 0, len(jobs)-1; i < j; i, j = i+1, j-1 {
		jobs[i], jobs[j] = jobs[j], jobs[i]
	}
	return jobs, nil
}

// start runs the worker and records its receipt.
func (l *Lab) start(ctx context.Context, job sandbox.Job, watch func(sandbox.Job)) (sandbox.Job, error) {
	d, err := l.dossier(ctx, job)
	if err != nil {
		return job, err
	}
	program, err := l.program(ctx, d)
	if err != nil {
		return l.end(ctx, job, sandbox.Fail, enclave.EntryFailure, err)
	}
	approved := false
	for _, w := range d.grant.Workers {
		approved = approved || w == program
	}
	if !approved {
		return l.end(ctx, job, sandbox.Refuse, enclave.EntryRefusal, operators.Deny(operators.Reason{Rule: operators.ErrNotApproved, Subject: program.String(),
			Text: fmt.Sprintf("the worker here is %s, the scenario approved %v", program, d.grant.Workers), Hint: "apply for a scenario with this worker, or install the approved one"}))
	}
	release, err := l.admit(ctx, job, d, watch)
	var large *TooLargeError
	switch {
	case errors.As(err, &large):
		return l.end(ctx, job, sandbox.Refuse, enclave.EntryRefusal, err)
	case err != nil:
		return job, err
	}
	defer release()
	job, _, err = l.cfg.Store.MoveJob(ctx, job.ID, sandbox.Change{From: sandbox.Planned, Event: sandbox.Start, At: l.cfg.Clock()})
	if err != nil {
		return job, err
	}
	failpoint.Hit(failpoint.JobStarted)
	watch(job)
	receipt, isolation, err := l.compute(ctx, job, d, program, watch)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, ErrInterrupted) {
			return job, err // stopped from outside: Run restarts it
		}
		return l.end(ctx, job, sandbox.Fail, enclave.EntryFailure, err)
	}
	entry := enclave.Entry{Type: enclave.EntryReceipt, Subject: receipt.Digest(), By: l.cfg.Node.Name(), Job: string(job.ID), At: l.now()}
	if err := l.announceOnce(ctx, entry); err != nil {
		return job, err
	}
	failpoint.Hit(failpoint.ReceiptLogged)
	after := job // job itself stays as it is: the transaction may run more than once
	err = l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
		if _, err := r.PutArtefact(ctx, receipt, l.cfg.Clock()); err != nil {
			return err
		}
		after, _, err = r.MoveJob(ctx, job.ID, sandbox.Change{From: sandbox.Running, Event: sandbox.Compute, Receipt: receipt.Digest(), Isolation: isolation, At: l.cfg.Clock()})
		return err
	})
	failpoint.Hit(failpoint.ReceiptStored)
	if err != nil {
		return job, err
	}
	return after, nil
}

// compute stages the inputs, runs the worker and signs a receipt for what it says.
func (l *Lab) compute(ctx context.Context, job sandbox.Job, d *dossier, program enclave.Digest, watch func(sandbox.Job)) (enclave.Signed, string, error) {
	if d.plan.Joint != nil {
		return l.announceJoint(ctx, job, d, program)
	}
	_, terms, err := d.plan.Expand(d.manifest)
	if err != nil {
		return enclave.Signed{}, "", err
	}
	layout, _ := d.manifest.Layout(d.plan.Layout)
	inputs, vectors := layout.Inputs(terms)
	need, err := l.need(job, d)
	if err != nil {
		return enclave.Signed{}, "", err
	}
	dir, err := l.stage(ctx, &job, d, layout, vectors, watch)
	if err != nil {
		return enclave.Signed{}, "", fmt.Errorf("staging inputs: %w", err)
	}
	left := false
	defer func() {
		if !left {
			_ = os.RemoveAll(dir)
		}
	}()
	res, out, err := l.run(ctx, WorkerTask{Job: job.ID, Dir: dir, Program: program, Need: need}, func(percent int64) {
		l.report(ctx, &job, "computing on ciphertexts", percent, watch)
	})
	if err != nil {
		left = errors.Is(err, ErrLeft)
		return enclave.Signed{}, "", err
	}
	failpoint.Hit(failpoint.WorkerEnded)
	if out.Plan != job.Plan || out.Terms != int64(len(terms)) {
		return enclave.Signed{}, "", fmt.Errorf("worker answered for plan %s with %d terms, asked was %s with %d", out.Plan.Short(), out.Terms, job.Plan.Short(), len(terms))
	}
	signed, err := signAs(l.cfg.Node, enclave.KindReceipt, enclave.Receipt{Job: string(job.ID), Plan: job.Plan, Inputs: inputs, Worker: program,
		Isolation: res.Isolation, Terms: out.Terms, Output: out.Output, Started: canon.At(res.Started), Ended: canon.At(res.Ended), By: l.cfg.Node.Name()})
	return signed, res.Isolation, err
}

// run has a worker answer. Of one that an earlier process started, the beginning of the answer may be lost: then another
// answers.
func (l *Lab) run(ctx context.Context, t WorkerTask, progress func(int64)) (WorkerResult, enclave.TaskResult, error) {
	for {
		var out enclave.TaskResult
		res, err := l.cfg.Worker.Run(ctx, t, progress)
		if err != nil {
			return res, out, err
		}
		err = canon.Unmarshal(res.Output, &out)
		if err == nil || !res.Adopted {
			if err != nil {
				err = fmt.Errorf("worker's answer: %w", err)
			}
			return res, out, err
		}
	}
}

// report notes progress; it is for people, so its failure stops nothing.
func (l *Lab) report(ctx context.Context, job *sandbox.Job, stage string, percent int64, watch func(sandbox.Job)) {
	job.Stage, job.Percent = stage, percent
	watch(*job)
	if err := l.cfg.Store.ReportJob(ctx, job.ID, sandbox.Progress{State: job.State, Stage: stage, Percent: percent, At: l.cfg.Clock()}); err != nil {
		l.cfg.Logger.DebugContext(ctx, "progress not recorded", "job", job.ID, "error", err)
	}
}

// open asks the custodians. A reasoned refusal ends the job; anything else leaves it opening, to be tried again.
func (l *Lab) open(ctx context.Context, job sandbox.Job, watch func(sandbox.Job)) (sandbox.Job, error) {
	b, err := l.Bundle(ctx, job.ID)
	if err != nil {
		return job, err
	}
	done, err := l.turn(ctx, &job, b, watch)
	if err != nil {
		return job, err
	}
	defer done()
	out, err := l.cfg.Gate.Release(ctx, b, func(stage string) { l.report(ctx, &job, stage, 0, watch) })
	if err != nil {
		if reason, ok := l.cfg.Gate.Refused(err); ok {
			after, _ := l.end(ctx, job, sandbox.Refuse, enclave.EntryRefusal, errors.New(reason))
			return after, err
		}
		return job, err
	}
	failpoint.Hit(failpoint.GateAnswered)
	if err := l.index(ctx); err != nil {
		return job, err
	}
	failpoint.Hit(failpoint.ReleaseIndexed)
	after := job
	err = l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
		if _, err := r.PutArtefact(ctx, out.Release, l.cfg.Clock()); err != nil {
			return err
		}
		if err := r.PutRelease(ctx, sandbox.SealedRelease{Job: job.ID, Release: out.Release.Digest(), Table: out.Table, Made: l.cfg.Clock()}); err != nil {
			return err
		}
		after, _, err = r.MoveJob(ctx, job.ID, sandbox.Change{From: sandbox.Opening, Event: sandbox.Release, Release: out.Release.Digest(), At: l.cfg.Clock()})
		return err
	})
	failpoint.Hit(failpoint.ReleaseStored)
	if err != nil {
		return job, err
	}
	return after, nil
}

// SealedTable returns a released job's table as only the operator can open it.
func (l *Lab) SealedTable(ctx context.Context, id sandbox.JobID) (sandbox.SealedRelease, error) {
	return l.cfg.Store.Release(ctx, id)
}
