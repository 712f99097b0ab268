package lab_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
)

// dispatch serves the world's queue until look is content with the job.
func (w *world) dispatch(id sandbox.JobID, look func(sandbox.Job) bool) sandbox.Job {
	w.t.Helper()
	ctx, stop := context.WithTimeout(w.t.Context(), time.Minute)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- w.lab.Dispatch(ctx, w.store.Queue(db.QueueConfig{Poll: 20 * time.Millisecond}), 2) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		job, err := w.lab.Job(w.t.Context(), id)
		w.check(err)
		if look(job) {
			stop()
			w.check(<-done)
			return job
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("the job stays %s, %q", job.State, job.Stage)
		}
	}
}

func TestDispatchedJobIsReleased(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.dispatch(job.ID, func(j sandbox.Job) bool { return j.State == sandbox.Released })
	if w.worker.runs != 1 || len(w.gate.asked) != 1 {
		t.Errorf("%d workers ran, the custodians were asked %d times", w.worker.runs, len(w.gate.asked))
	}
}

// A job whose custodians are away says what it waits for, keeps waiting, and is released when they are back. Nothing
// that was done is done again.
func TestDispatchedJobWaits(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.gate.err = errors.New("1 custodians agree, 2 are needed")
	waits := w.dispatch(job.ID, func(j sandbox.Job) bool { return strings.HasPrefix(j.Stage, "waiting") })
	if waits.State != sandbox.Opening || !strings.Contains(waits.Stage, "1 custodians agree, 2 are needed") {
		t.Errorf("it is %s, %q", waits.State, waits.Stage)
	}
	w.gate.err = nil
	w.dispatch(job.ID, func(j sandbox.Job) bool { return j.State == sandbox.Released })
	if w.worker.runs != 1 {
		t.Errorf("%d workers ran", w.worker.runs)
	}
}

func TestDispatchedJobIsRefused(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.gate.err, w.gate.refused = errors.New("no"), true
	after := w.dispatch(job.ID, func(j sandbox.Job) bool { return j.State.Ended() })
	if after.State != sandbox.Refused || len(w.gate.asked) != 1 {
		t.Errorf("it is %s after %d requests to the custodians", after.State, len(w.gate.asked))
	}
}

// restless is a store whose transactions run twice: the first time another one gets in their way at the last write.
type restless struct{ sandbox.Store }

func (s restless) Atomic(ctx context.Context, fn func(sandbox.Records) error) error {
	away := errors.New("another transaction came in between")
	err := s.Store.Atomic(ctx, func(r sandbox.Records) error { return errors.Join(fn(hindered{r, away}), away) })
	if !errors.Is(err, away) {
		return err
	}
	return s.Store.Atomic(ctx, fn)
}

type hindered struct {
	sandbox.Records
	err error
}

func (h hindered) MoveJob(context.Context, sandbox.JobID, sandbox.Change) (sandbox.Job, bool, error) {
	return sandbox.Job{}, false, h.err
}

// single is a queue of one job.
type single struct {
	id    sandbox.JobID
	store sandbox.Store
}

func (q single) Serve(ctx context.Context, _ int, drive func(context.Context, sandbox.JobID, sandbox.Store) error) error {
	return drive(ctx, q.id, q.store)
}

func TestJobBearsTransactionsThatRunTwice(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.check(w.lab.Dispatch(t.Context(), single{job.ID, restless{w.store}}, 1))
	after, err := w.lab.Job(t.Context(), job.ID)
	if err != nil || after.State != sandbox.Released || w.worker.runs != 1 {
		t.Errorf("it is %s after %d workers, %v", after.State, w.worker.runs, err)
	}
}

// A job whose submission broke off has no plan, so no queue hands it out. It is ended once nobody can be submitting it.
func TestAbandonedJobEnds(t *testing.T) {
	w := ready(t)
	planned, err := w.submit(query)
	w.check(err)
	at := sandbox.Instant(w.now)
	broken := planned
	broken.ID, broken.State, broken.Plan, broken.Created, broken.Updated = sandbox.NewJobID(w.now), sandbox.Queued, enclave.Digest{}, at, at
	w.check(w.store.CreateJob(t.Context(), broken))
	for _, step := range []struct {
		later time.Duration
		want  int
		state sandbox.State
	}{{4 * time.Minute, 0, sandbox.Queued}, {2 * time.Minute, 1, sandbox.Failed}, {time.Hour, 0, sandbox.Failed}} {
		w.now = w.now.Add(step.later)
		n, err := w.lab.Abandon(t.Context())
		w.check(err)
		job, err := w.lab.Job(t.Context(), broken.ID)
		w.check(err)
		if n != step.want || job.State != step.state || step.want == 1 && !strings.Contains(job.Reason, "submit it again") {
			t.Errorf("%v later %d jobs are ended and it is %s, %q", step.later, n, job.State, job.Reason)
		}
	}
	if job, err := w.lab.Job(t.Context(), planned.ID); err != nil || job.State != sandbox.Planned {
		t.Errorf("a planned job is %s, %v", job.State, err)
	}
}
