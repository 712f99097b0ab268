package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/sandbox"
)

// driveArgs is one drive of a job. The number makes it unique for ever: River tells exactly one process of it, once.
type driveArgs struct {
	Job   string `json:"job"`
	Drive int64  `json:"drive"`
}

// Kind implements river.JobArgs. It is stored.
func (driveArgs) Kind() string { return "drive" }

const riverQueue = "drives"

// InsertOpts implements river.JobArgsWithInsertOpts.
func (driveArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: riverQueue, MaxAttempts: 1,
		UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: append(rivertype.UniqueOptsByStateDefault(), rivertype.JobStateDiscarded, rivertype.JobStateCancelled)}}
}

// delivery is how long River has to tell somebody of an offer before a look around asks what has become of it: whoever was
// told may have died before it took the job up.
const delivery = 20 * time.Second

// enqueuer is River for a process that only inserts.
func (s *server) enqueuer() (*river.Client[pgx.Tx], error) {
	return river.NewClient(riverpgxv5.New(s.pool), &river.Config{Logger: slog.New(slog.DiscardHandler)})
}

// enqueue offers a drive within the transaction that makes it necessary.
func (s *server) enqueue(ctx context.Context, q querier, args ...driveArgs) error {
	t, ok := q.(*transaction)
	if !ok {
		return fmt.Errorf("enqueueing outside a transaction, in %T", q)
	}
	params := make([]river.InsertManyParams, len(args))
	for i, a := range args {
		params[i].Args = a
	}
	_, err := s.queue.InsertManyTx(ctx, t.tx, params)
	t.note(err)
	return err
}

// riverSchema brings River's own tables up to date.
func (s *server) riverSchema(ctx context.Context) error {
	m, err := rivermigrate.New(riverpgxv5.New(s.pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrating the queue: %w", err)
	}
	return nil
}

// driver is River's worker.
type driver struct {
	river.WorkerDefaults[driveArgs]
	q     *Queue
	drive Drive
}

// Work implements river.Worker. River keeps the error; the job's lease decides what follows.
func (d *driver) Work(ctx context.Context, job *river.Job[driveArgs]) error {
	return d.q.attempt(ctx, due{job: sandbox.JobID(job.Args.Job), drive: job.Args.Drive - 1}, d.drive)
}

// river serves the queue together with other processes.
func (q *Queue) river(ctx context.Context, n int, drive Drive) error {
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &driver{q: q, drive: drive}); err != nil {
		return err
	}
	client, err := river.NewClient(riverpgxv5.New(q.db.server.pool), &river.Config{
		Queues: map[string]river.QueueConfig{riverQueue: {MaxWorkers: n}}, Workers: workers, Logger: q.cfg.Logger,
		JobTimeout:        -1, // leases bound a drive, and the worker's own deadline
		FetchPollInterval: q.cfg.Poll, FetchCooldown: min(q.cfg.Poll, 50*time.Millisecond),
	})
	if err != nil {
		return err
	}
	// Stopping is ours: River would otherwise let go of the jobs when ctx ends, without ending them.
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error {
		tick := time.NewTicker(q.cfg.Poll)
		defer tick.Stop()
		for {
			if err := q.rescue(ctx); err != nil && ctx.Err() == nil {
				q.cfg.Logger.ErrorContext(ctx, "queue not read", "error", err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*q.cfg.Lease)
	defer cancel()
	return errors.Join(client.StopAndCancel(stop), g.Wait())
}

// rescue offers what nobody drives: jobs whose holder died, and those that were put off until now. It offers under a new
// number, since River tells of each number once and may have told a process that is dead.
func (q *Queue) rescue(ctx context.Context) error {
	jobs, err := q.db.due(ctx, 100)
	if err != nil || len(jobs) == 0 {
		return err
	}
	return q.db.write(ctx, func(tx querier) error {
		var args []driveArgs
		for _, d := range jobs {
			waits, err := q.offered(ctx, tx, d)
			if err != nil {
				return err
			}
			last := d.drive
			if !waits {
				last++
			}
			n, err := tx.exec(ctx, fmt.Sprintf("UPDATE drives SET drive = $1, holder = '', until = %[1]s + %[2]d WHERE job = $2 AND drive = $3 AND until <= %[1]s",
				q.db.now, delivery.Microseconds()), last, string(d.job), d.drive)
			if err != nil {
				return err
			}
			if n == 0 { // no lease was ever written, or somebody has just taken the job up
				n, err = tx.exec(ctx, fmt.Sprintf(`INSERT INTO drives (job, drive, holder, until, failures) VALUES ($1, $2, '', %s + %d, 0)
					ON CONFLICT (job) DO NOTHING`, q.db.now, delivery.Microseconds()), string(d.job), last)
				if err != nil {
					return err
				}
			}
			if n == 1 && !waits {
				args = append(args, driveArgs{Job: string(d.job), Drive: last + 1})
			}
		}
		if len(args) == 0 {
			return nil
		}
		return q.db.server.enqueue(ctx, tx, args...)
	})
}

// offered reports whether River has an offer of the job that it has not told anybody of. The table is River's, and so is
// its index on arguments.
func (q *Queue) offered(ctx context.Context, tx querier, d due) (bool, error) {
	var n int64
	err := tx.row(ctx, `SELECT count(*) FROM river_job WHERE kind = $1 AND state = 'available'
		AND args @> jsonb_build_object('job', CAST($2 AS TEXT), 'drive', CAST($3 AS BIGINT))`, driveArgs{}.Kind(), string(d.job), d.drive+1).Scan(&n)
	return n > 0, err
}
