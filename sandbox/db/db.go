// Package db keeps sandbox.Records in SQLite or in PostgreSQL. It is the only package with SQL.
//
// SQLite (Open) is for one process at a time, PostgreSQL (OpenPostgres) for any number of them. Both run every write as
// a serializable transaction, so a read-check-write inside one is a compare-and-swap, and both have it on disk when the
// method returns. Statements name their columns and use $n placeholders, which both take: the records have one
// implementation, and only connections, transactions, migrations and the queue differ.
//
// It refuses a database that is damaged, that a newer program has migrated, or that would forget what it has
// acknowledged.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"yingzhou.dev/lab/sandbox"
)

// DB is an open metadata store, for use by any number of goroutines.
type DB struct {
	tables
	close  func() error
	server *server       // nil for SQLite
	wake   chan struct{} // capacity 1: this process has planned a job; SQLite only
}

var _ sandbox.Store = (*DB)(nil)

// Atomic implements sandbox.Store.
func (db *DB) Atomic(ctx context.Context, fn func(sandbox.Records) error) error {
	return db.write(ctx, func(q querier) error {
		return fn(tables{parsed: db.parsed, dialect: db.dialect, read: q, planned: db.planned, write: func(ctx context.Context, step func(querier) error) error {
			return savepoint(ctx, q, step)
		}})
	})
}

// savepoint keeps a method that fails inside a transaction from leaving half of itself, should the caller go on.
func savepoint(ctx context.Context, q querier, step func(querier) error) error {
	if _, err := q.exec(ctx, "SAVEPOINT step"); err != nil {
		return explain(err)
	}
	err := step(q)
	if err != nil {
		if _, undo := q.exec(ctx, "ROLLBACK TO SAVEPOINT step"); undo != nil {
			return errors.Join(explain(err), explain(undo))
		}
	}
	_, end := q.exec(ctx, "RELEASE SAVEPOINT step")
	return errors.Join(explain(err), explain(end))
}

// Close implements sandbox.Store.
func (db *DB) Close() error { return db.close() }

// explain marks what callers branch on: a database that is damaged, does not answer, or cannot store a text.
func explain(err error) error {
	switch {
	case err == nil, errors.Is(err, sandbox.ErrDamaged), errors.Is(err, sandbox.ErrUnavailable), errors.Is(err, sandbox.ErrInvalid):
		return err
	case damagedSQLite(err), damagedPostgres(err):
		return fmt.Errorf("%w: %w", sandbox.ErrDamaged, err)
	case unreachable(err):
		return fmt.Errorf("%w: %w", sandbox.ErrUnavailable, err)
	}
	return err
}

// standard is a pool or a transaction of database/sql.
type standard struct {
	q interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
	after func() // runs when the transaction has been committed; may be nil
}

func (s *standard) exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := s.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (s *standard) rows(ctx context.Context, query string, args ...any) (rows, error) {
	r, err := s.q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return standardRows{r}, nil
}

func (s *standard) row(ctx context.Context, query string, args ...any) row {
	return s.q.QueryRowContext(ctx, query, args...)
}

type standardRows struct{ *sql.Rows }

// Close ends the reading; what went wrong meanwhile, Err tells.
func (r standardRows) Close() { r.Rows.Close() }
