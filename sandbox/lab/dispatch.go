package lab

import (
	"context"
	"errors"
	"fmt"

	"yingzhou.dev/lab/sandbox"
)

// Queue hands out jobs that have to be driven to their end, each to one caller at a time among all processes that share
// the store. Package db implements it.
type Queue interface {
	// Serve calls drive for every job that is planned and not at its end, at most n at a time, until ctx ends; it
	// returns when the last call has. The store that a call gets is its own: writes through it fail with
	// sandbox.ErrFenced once somebody else has the job. A call's context ends with that cause too, and with
	// sandbox.ErrCancelled when the job is cancelled. After an error from drive the job is handed out again, later.
	Serve(ctx context.Context, n int, drive func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error) error
}

// Dispatch drives the jobs that a queue hands out, n at a time, until ctx ends. Several processes may do so over one
// store: a job that one of them leaves unfinished is taken up by another.
func (l *Lab) Dispatch(ctx context.Context, q Queue, n int) error {
	return q.Serve(ctx, n, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		return l.over(store).drive(ctx, id)
	})
}

// over is the same lab with another view of the store.
func (l *Lab) over(store sandbox.Store) *Lab {
	view := *l
	view.cfg.Store = store
	return &view
}

// drive runs a job as far as it goes. A job that has to wait says why, to whoever watches it, and is an error.
func (l *Lab) drive(ctx context.Context, id sandbox.JobID) error {
	watch := l.cfg.Watch
	_, err := l.Run(ctx, id, func(j sandbox.Job) {
		if !j.State.Ended() { // its end is told with its reason
			watch(j, nil)
		}
	})
	job, look := l.cfg.Store.Job(context.WithoutCancel(ctx), id)
	if look == nil && job.State.Ended() {
		var before *EndedError
		if errors.As(err, &before) {
			err = nil // somebody else ended it, and said why
		}
		watch(job, err)
		l.cfg.Logger.InfoContext(ctx, "job ended", "job", id, "state", job.State, "attempts", job.Attempts)
		return nil // released, or ended with a reason that the job tells
	}
	if err == nil || look != nil || ctx.Err() != nil || errors.Is(err, sandbox.ErrFenced) {
		return errors.Join(err, look)
	}
	l.report(ctx, &job, waiting(err), 0, func(j sandbox.Job) { watch(j, nil) })
	return err
}

// waiting is the stage of a job that could not go on. Errors name artefacts and machines, never values.
func waiting(err error) string {
	const most = 300
	text := []rune(fmt.Sprintf("waiting to be tried again: %v", err))
	if len(text) > most {
		text = append(text[:most-1], '…')
	}
	return string(text)
}
