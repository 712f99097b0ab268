package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// Watchers tell those who watch a job of its changes in this process. Changes that another process makes are found by
// looking at the record now and then; nothing is lost if a note is.
type Watchers struct {
	mu   sync.Mutex
	jobs map[sandbox.JobID]*watched
}

type watched struct {
	watchers int
	changed  chan struct{} // closed and replaced at each change
	job      sandbox.Job   // as last noted
	err      error         // why it ended, where it ended here
}

// NewWatchers makes an empty set.
func NewWatchers() *Watchers { return &Watchers{jobs: map[sandbox.JobID]*watched{}} }

// Note tells of a job as it is now, and, with an error, of why it could not be brought to a release.
func (w *Watchers) Note(job sandbox.Job, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.jobs[job.ID]
	if t == nil {
		return // nobody watches
	}
	t.job, t.err = job, err
	close(t.changed)
	t.changed = make(chan struct{})
}

// join begins to watch; leave must be called.
func (w *Watchers) join(id sandbox.JobID) (t *watched, leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t = w.jobs[id]
	if t == nil {
		t = &watched{changed: make(chan struct{})}
		w.jobs[id] = t
	}
	t.watchers++
	return t, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if t.watchers--; t.watchers == 0 {
			delete(w.jobs, id)
		}
	}
}

// state is what was noted last, a channel that is closed by the next note, and why the job ended, where it did here.
func (w *Watchers) state(t *watched) (sandbox.Job, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return t.job, t.changed, t.err
}

const (
	lookAgain = time.Second           // at the record
	atMost    = 20 * time.Millisecond // between two answers: progress is for eyes
)

// stageUnavailable is what a watcher reads while the metadata is away.
const stageUnavailable = "waiting: the lab's metadata is unreachable"

// watch sends a job as it is and at every change until it has ended, and returns why it was not released.
func (s *Server) watch(ctx context.Context, id sandbox.JobID, send func(sandbox.Job) error) error {
	t, leave := s.cfg.Jobs.join(id)
	defer leave()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	pause := time.NewTicker(atMost)
	defer pause.Stop()
	var last sandbox.Job
	for {
		noted, changed, why := s.cfg.Jobs.state(t)
		job, err := s.cfg.Lab.Job(ctx, id)
		switch {
		case errors.Is(err, sandbox.ErrUnavailable) && last.ID != "" && ctx.Err() == nil:
			job = last // it rests, and so does who watches it
			job.Stage, job.Percent = stageUnavailable, 0
		case err != nil:
			return err
		}
		if err == nil && noted.ID == id && noted.State == job.State { // the note may be ahead of the record in stage and percentage
			job.Stage, job.Percent = noted.Stage, noted.Percent
		}
		if job != last {
			if err := send(job); err != nil {
				return err
			}
			last = job
		}
		if job.State.Ended() {
			switch {
			case job.State == sandbox.Released:
				return nil
			case why != nil:
				return why
			}
			return &lab.EndedError{Job: job}
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-s.stopping:
			return errStopping
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
