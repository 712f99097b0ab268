package db

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"yingzhou.dev/lab/sandbox"
)

// QueueConfig adjusts a queue. The zero value is fine.
type QueueConfig struct {
	// Lease is how long a process may be silent before another one takes up its jobs: 15 s if zero.
	Lease time.Duration
	// Poll is how often a process looks for jobs that nobody told it of, because another one died or they were put off:
	// 1 s if zero.
	Poll   time.Duration
	Logger *slog.Logger // nil discards
}

// Queue hands out jobs that have still to be driven to their end. With PostgreSQL any number of processes serve one
// queue, and River tells them of new jobs; with SQLite there is one process, which looks into its own tables.
//
// River has one attempt for each drive of a job. What is to happen after a drive that did not come to an end is not left
// to its retries: the job's own state and lease say whether somebody has to take it up again.
type Queue struct {
	db     *DB
	cfg    QueueConfig
	holder string
}

// Drive brings a job to its end with a store that is only this call's to write to. An error means that the job has not
// come to an end and has to be taken up again later.
type Drive = func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error

// Queue makes a queue over the store.
func (db *DB) Queue(cfg QueueConfig) *Queue {
	if cfg.Lease <= 0 {
		cfg.Lease = 15 * time.Second
	}
	if cfg.Poll <= 0 {
		cfg.Poll = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Queue{db: db, cfg: cfg, holder: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8])}
}

// Serve calls drive for every job that has to be driven, at most n at a time, until ctx ends; then it ends the calls'
// contexts, waits for them and gives the jobs back. A call's context also ends when its lease is lost, with the cause
// sandbox.ErrFenced, and when the job is cancelled, with sandbox.ErrCancelled.
func (q *Queue) Serve(ctx context.Context, n int, drive Drive) error {
	if n < 1 {
		return fmt.Errorf("serving the queue: %d jobs at a time is none", n)
	}
	serve := q.look
	if q.db.server != nil {
		serve = q.river
	}
	if err := serve(ctx, n, drive); err != nil {
		return fmt.Errorf("serving the queue: %w", err)
	}
	return nil
}

// look is the queue of a store that one process has for itself: its own tables, seen through whenever a job is planned
// or ends, and now and then.
func (q *Queue) look(ctx context.Context, n int, drive Drive) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, n)
	ended := make(chan struct{}, 1)
	tick := time.NewTicker(q.cfg.Poll)
	defer tick.Stop()
	for {
		if err := q.start(ctx, slots, ended, &wg, drive); err != nil && ctx.Err() == nil {
			q.cfg.Logger.ErrorContext(ctx, "queue not read", "error", err)
		}
		select {
		case <-q.db.wake:
		case <-ended:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// start takes up as many jobs as there are free slots.
func (q *Queue) start(ctx context.Context, slots, ended chan struct{}, wg *sync.WaitGroup, drive Drive) error {
	free := cap(slots) - len(slots) // only this goroutine fills slots
	if free == 0 {
		return nil
	}
	jobs, err := q.db.due(ctx, free)
	if err != nil {
		return err
	}
	for _, d := range jobs {
		slots <- struct{}{}
		wg.Go(func() {
			if err := q.attempt(ctx, d, drive); err != nil {
				q.cfg.Logger.WarnContext(ctx, "job not driven to its end", "job", d.job, "error", err)
			}
			<-slots
			select {
			case ended <- struct{}{}:
			default: // told already
			}
		})
	}
	return nil
}

// attempt takes a job up, drives it and gives it back. It does nothing if somebody else was quicker.
func (q *Queue) attempt(ctx context.Context, d due, drive Drive) error {
	l, ok, err := q.db.take(ctx, d, q.holder, q.cfg.Lease)
	if err != nil || !ok {
		return err
	}
	work, stop := context.WithCancelCause(ctx)
	var beat sync.WaitGroup
	beat.Go(func() { q.heartbeat(work, l, stop) })
	err = drive(work, l.job, q.db.fenced(l))
	cause := context.Cause(work)
	stop(nil)
	beat.Wait()
	if errors.Is(cause, sandbox.ErrFenced) {
		return errors.Join(cause, err)
	}
	// Also when ctx has ended: otherwise the job would have to wait for its lease to run out.
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.cfg.Lease)
	defer cancel()
	return errors.Join(err, q.db.give(back, l, err != nil && ctx.Err() == nil))
}

// heartbeat renews a lease until the work ends, and ends the work when it cannot.
func (q *Queue) heartbeat(work context.Context, l lease, stop context.CancelCauseFunc) {
	held := time.Now().Add(q.cfg.Lease) // by this process's clock, counted from before the renewal
	tick := time.NewTicker(q.cfg.Lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-work.Done():
			return
		}
		from := time.Now()
		err := q.db.renew(work, l, q.cfg.Lease)
		switch {
		case err == nil:
			held = from.Add(q.cfg.Lease)
		case work.Err() != nil:
			return
		case errors.Is(err, sandbox.ErrFenced), errors.Is(err, sandbox.ErrCancelled):
			stop(err)
			return
		case time.Now().After(held): // the database may have given the job to another process by now
			stop(fmt.Errorf("%w: %w", sandbox.ErrFenced, err))
			return
		}
	}
}
