package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"yingzhou.dev/lab/sandbox"
)

// jobColumns are read by scanJob, in this order.
const jobColumns = `id, operator, analyst, scenario, query, epsilon_micro, state, stage, percent, plan, receipt, release,
	reason, isolation, attempts, created, updated`

func scanJob(r row) (j sandbox.Job, err error) {
	err = r.Scan(&j.ID, &j.Operator, &j.Analyst, digest{&j.Scenario}, &j.Query, &j.EpsilonMicro, &j.State, &j.Stage, &j.Percent,
		digest{&j.Plan}, digest{&j.Receipt}, digest{&j.Release}, &j.Reason, &j.Isolation, &j.Attempts,
		instant{&j.Created}, instant{&j.Updated})
	return j, err
}

func job(ctx context.Context, q querier, id sandbox.JobID) (sandbox.Job, error) {
	return scanJob(q.row(ctx, "SELECT "+jobColumns+" FROM jobs WHERE id = $1", string(id)))
}

// CreateJob implements sandbox.Records.
func (t tables) CreateJob(ctx context.Context, j sandbox.Job) error {
	if err := j.Check(); err != nil {
		return err
	}
	return named(t.write(ctx, func(q querier) error {
		old, err := job(ctx, q, j.ID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return one(q.exec(ctx, `INSERT INTO jobs (`+jobColumns+`)
				VALUES ($1, $2, $3, $4, $5, $6, $7, '', 0, NULL, NULL, NULL, '', '', 0, $8, $9)`,
				string(j.ID), j.Operator, j.Analyst, text(j.Scenario), j.Query, j.EpsilonMicro, string(j.State),
				j.Created.UnixMicro(), j.Updated.UnixMicro()))
		case err != nil:
			return err
		case !old.SameRequest(j):
			return fmt.Errorf("%w: the ID belongs to another request", sandbox.ErrConflict)
		}
		return nil
	}), "creating job "+string(j.ID))
}

// Job implements sandbox.Records.
func (t tables) Job(ctx context.Context, id sandbox.JobID) (sandbox.Job, error) {
	j, err := job(ctx, t.read, id)
	return j, find(err, fmt.Sprintf("job %q", id))
}

// Jobs implements sandbox.Records.
func (t tables) Jobs(ctx context.Context, f sandbox.JobFilter) ([]sandbox.Job, error) {
	w := where{}
	if f.Operator != "" {
		w.add("operator = %s", f.Operator)
	}
	if !f.Scenario.IsZero() {
		w.add("scenario = %s", text(f.Scenario))
	}
	if f.Before != "" {
		w.add("id < %s", string(f.Before))
	}
	if len(f.States) > 0 {
		states := make([]any, len(f.States))
		for i, s := range f.States {
			states[i] = string(s)
		}
		w.add("state IN ("+strings.TrimSuffix(strings.Repeat("%s, ", len(states)), ", ")+")", states...)
	}
	query := "SELECT " + jobColumns + " FROM jobs" + w.clause() + " ORDER BY id DESC"
	if f.Limit > 0 {
		query += " LIMIT " + w.arg(int64(f.Limit))
	}
	out, err := collect(ctx, t.read, scanJob, query, w.args...)
	return out, named(err, "listing jobs")
}

// MoveJob implements sandbox.Records. Transactions are serializable, and the UPDATE names the state it replaces all the
// same.
func (t tables) MoveJob(ctx context.Context, id sandbox.JobID, c sandbox.Change) (after sandbox.Job, moved bool, err error) {
	err = t.write(ctx, func(q querier) error {
		before, err := job(ctx, q, id)
		if err != nil {
			return find(err, fmt.Sprintf("job %q", id))
		}
		if after, moved, err = before.Apply(c); err != nil || !moved {
			return err
		}
		err = one(q.exec(ctx, `UPDATE jobs SET state = $1, stage = $2, percent = $3, plan = $4, receipt = $5, release = $6,
			reason = $7, isolation = $8, attempts = $9, updated = $10 WHERE id = $11 AND state = $12`,
			string(after.State), after.Stage, after.Percent, text(after.Plan), text(after.Receipt), text(after.Release),
			after.Reason, after.Isolation, after.Attempts, after.Updated.UnixMicro(), string(id), string(before.State)))
		if err != nil {
			return err
		}
		err = one(q.exec(ctx, `INSERT INTO job_steps (job, seq, from_state, event, to_state, reason, at)
			SELECT CAST($1 AS TEXT), count(seq) + 1, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS BIGINT)
			FROM job_steps WHERE job = CAST($1 AS TEXT)`,
			string(id), string(before.State), string(c.Event), string(after.State), after.Reason, after.Updated.UnixMicro()))
		if err == nil && c.Event == sandbox.Plan {
			err = t.planned(ctx, q, id)
		}
		return err
	})
	if err != nil {
		return sandbox.Job{}, false, named(err, "moving job")
	}
	return after, moved, nil
}

// ReportJob implements sandbox.Records.
func (t tables) ReportJob(ctx context.Context, id sandbox.JobID, p sandbox.Progress) error {
	what := fmt.Sprintf("reporting on job %q", id)
	if p.Percent < 0 || p.Percent > 100 || p.At.IsZero() {
		return fmt.Errorf("%s: %w: progress is 0 to 100 percent at some time", what, sandbox.ErrInvalid)
	}
	return named(t.write(ctx, func(q querier) error {
		n, err := q.exec(ctx, "UPDATE jobs SET stage = $1, percent = $2, updated = $3 WHERE id = $4 AND state = $5",
			sandbox.Plain(p.Stage), p.Percent, p.At.UnixMicro(), string(id), string(p.State))
		if err != nil || n == 1 {
			return err
		}
		now, err := job(ctx, q, id)
		if err != nil {
			return find(err, "state")
		}
		return fmt.Errorf("%w: it is %s, not %s", sandbox.ErrConflict, now.State, p.State)
	}), what)
}

// Steps implements sandbox.Records.
func (t tables) Steps(ctx context.Context, id sandbox.JobID) ([]sandbox.Step, error) {
	out, err := collect(ctx, t.read, func(r row) (s sandbox.Step, err error) {
		err = r.Scan(&s.From, &s.Event, &s.To, &s.Reason, instant{&s.At})
		return s, err
	}, "SELECT from_state, event, to_state, reason, at FROM job_steps WHERE job = $1 ORDER BY seq", string(id))
	return out, named(err, fmt.Sprintf("listing steps of job %q", id))
}

// PutRelease implements sandbox.Records.
func (t tables) PutRelease(ctx context.Context, r sandbox.SealedRelease) error {
	what := fmt.Sprintf("release of job %q", r.Job)
	if r.Release.IsZero() || len(r.Table) == 0 || r.Made.IsZero() {
		return fmt.Errorf("%s: %w: it needs a digest, a sealed table and a time", what, sandbox.ErrInvalid)
	}
	return named(t.write(ctx, func(q querier) error {
		if _, err := job(ctx, q, r.Job); err != nil {
			return find(err, "its job")
		}
		old, err := release(ctx, q, r.Job)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return one(q.exec(ctx, "INSERT INTO releases (job, release, sealed_table, made) VALUES ($1, $2, $3, $4)",
				string(r.Job), text(r.Release), r.Table, r.Made.UnixMicro()))
		case err != nil:
			return err
		case old.Release != r.Release:
			return fmt.Errorf("%w: the job has release %s", sandbox.ErrConflict, old.Release)
		}
		return nil
	}), what)
}

func release(ctx context.Context, q querier, id sandbox.JobID) (r sandbox.SealedRelease, err error) {
	err = q.row(ctx, "SELECT job, release, sealed_table, made FROM releases WHERE job = $1", string(id)).
		Scan(&r.Job, digest{&r.Release}, &r.Table, instant{&r.Made})
	return r, err
}

// Release implements sandbox.Records.
func (t tables) Release(ctx context.Context, id sandbox.JobID) (sandbox.SealedRelease, error) {
	r, err := release(ctx, t.read, id)
	return r, find(err, fmt.Sprintf("release of job %q", id))
}

// where gathers conditions and numbers their placeholders.
type where struct {
	terms []string
	args  []any
}

// add appends a condition with one %s for each argument's placeholder.
func (w *where) add(term string, args ...any) {
	for _, a := range args {
		term = strings.Replace(term, "%s", w.arg(a), 1)
	}
	w.terms = append(w.terms, term)
}

func (w *where) arg(a any) string {
	w.args = append(w.args, a)
	return fmt.Sprintf("$%d", len(w.args))
}

func (w *where) clause() string {
	if len(w.terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.terms, " AND ")
}
