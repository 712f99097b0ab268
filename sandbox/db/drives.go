package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"yingzhou.dev/lab/sandbox"
)

// Who drives a job. A process takes a job up by a lease, renews it while it works and gives it back. Each taking has a
// number, the fence: writes through the store of a taking fail with sandbox.ErrFenced once there is a later one, even if
// the process that took it was stopped for an hour in between and does not know.

// abandoned is how long a submission may take. A job that is queued for longer was left behind by a process that died.
const abandoned = 10 * time.Minute

// lease is a job that was taken up.
type lease struct {
	job    sandbox.JobID
	drive  int64
	holder string
}

// due is a job that nobody drives and that may be taken up.
type due struct {
	job   sandbox.JobID
	drive int64 // number of the last taking or offer
}

// due lists the oldest jobs that somebody has to take up now: fresh ones, those whose lease has run out, and those that
// were given back a while ago.
func (t tables) due(ctx context.Context, limit int) ([]due, error) {
	query := fmt.Sprintf(`SELECT jobs.id, coalesce(drives.drive, 0) FROM jobs LEFT JOIN drives ON drives.job = jobs.id
		WHERE (jobs.state IN ('planned', 'running', 'computed', 'opening') OR jobs.state = 'queued' AND jobs.updated < %[1]s - %[2]d)
		AND coalesce(drives.until, 0) <= %[1]s ORDER BY jobs.id LIMIT %[3]d`, t.now, abandoned.Microseconds(), limit)
	out, err := collect(ctx, t.read, func(r row) (d due, err error) {
		err = r.Scan(&d.job, &d.drive)
		return d, err
	}, query)
	return out, named(err, "looking for jobs to drive")
}

// announce makes a job that was just planned known to the queue. It may be taken up by a look around after the delay;
// before, whoever is told of it otherwise may.
func (t tables) announce(ctx context.Context, q querier, id sandbox.JobID, delay time.Duration) error {
	_, err := q.exec(ctx, fmt.Sprintf(`INSERT INTO drives (job, drive, holder, until, failures) VALUES ($1, 0, '', %s + %d, 0)
		ON CONFLICT (job) DO NOTHING`, t.now, delay.Microseconds()), string(id))
	return err
}

// take takes a job up, if nobody drives it and the last drive is the one that the caller saw.
func (t tables) take(ctx context.Context, d due, holder string, length time.Duration) (l lease, ok bool, err error) {
	l = lease{job: d.job, drive: d.drive + 1, holder: holder}
	err = t.write(ctx, func(q querier) error {
		ok = false
		n, err := q.exec(ctx, fmt.Sprintf(`INSERT INTO drives (job, drive, holder, until, failures) VALUES ($1, $2, $3, %[1]s + %[2]d, 0)
			ON CONFLICT (job) DO UPDATE SET drive = excluded.drive, holder = excluded.holder, until = excluded.until
			WHERE drives.drive = excluded.drive - 1 AND (drives.holder = '' OR drives.until <= %[1]s)`, t.now, length.Microseconds()),
			string(d.job), l.drive, holder)
		ok = n == 1
		return err
	})
	return l, ok, named(err, fmt.Sprintf("taking up job %q", d.job))
}

// renew extends a lease, and fails with sandbox.ErrFenced if the job has a later one and with sandbox.ErrCancelled if it
// has been cancelled.
func (t tables) renew(ctx context.Context, l lease, length time.Duration) error {
	return named(t.write(ctx, func(q querier) error {
		n, err := q.exec(ctx, fmt.Sprintf("UPDATE drives SET until = %s + %d WHERE job = $1 AND drive = $2 AND holder = $3", t.now, length.Microseconds()),
			string(l.job), l.drive, l.holder)
		if err != nil {
			return err
		}
		if n != 1 {
			return sandbox.ErrFenced
		}
		j, err := job(ctx, q, l.job)
		if err == nil && j.State == sandbox.Cancelled {
			err = sandbox.ErrCancelled
		}
		return err
	}), fmt.Sprintf("renewing the lease of job %q", l.job))
}

// again is how long a job rests that could not be brought to its end, after so many failures in a row.
func again(failures int64) time.Duration {
	return min(time.Second<<min(failures, 6), time.Minute)
}

// give ends a lease. A job that failed to come to its end rests before it is taken up again; one whose process is being
// stopped does not.
func (t tables) give(ctx context.Context, l lease, failed bool) error {
	return named(t.write(ctx, func(q querier) error {
		var failures int64
		err := q.row(ctx, "SELECT failures FROM drives WHERE job = $1 AND drive = $2", string(l.job), l.drive).Scan(&failures)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // taken over meanwhile
		}
		if err != nil {
			return err
		}
		rest := time.Duration(0)
		if failed {
			rest = again(failures)
			failures++
		}
		_, err = q.exec(ctx, fmt.Sprintf("UPDATE drives SET holder = '', until = %s + %d, failures = $1 WHERE job = $2 AND drive = $3", t.now, rest.Microseconds()),
			failures, string(l.job), l.drive)
		return err
	}), fmt.Sprintf("giving back job %q", l.job))
}

// fenced is the store as the holder of a lease may use it.
func (db *DB) fenced(l lease) sandbox.Store {
	f := &DB{tables: db.tables, close: func() error { return errors.New("a job's store is not the job's to close") }}
	f.write = func(ctx context.Context, fn func(querier) error) error {
		return db.write(ctx, func(q querier) error {
			var drive int64
			if err := q.row(ctx, "SELECT drive FROM drives WHERE job = $1", string(l.job)).Scan(&drive); err != nil {
				return find(err, fmt.Sprintf("lease of job %q", l.job))
			}
			if drive != l.drive {
				return fmt.Errorf("job %q: %w: this was drive %d, now it is %d", l.job, sandbox.ErrFenced, l.drive, drive)
			}
			return fn(q)
		})
	}
	return f
}
