// Package db keeps sandbox.Records in SQLite. It is the only package with SQL.
//
// One connection writes and begins every transaction with the write lock (BEGIN IMMEDIATE), so a read-check-write inside
// one is a compare-and-swap; a few others read the last committed state meanwhile (WAL). A commit is on disk when it
// returns (synchronous=FULL syncs the WAL at every commit). Statements name their columns and use $n placeholders, which
// PostgreSQL takes as well.
//
// It refuses a file that is damaged or that a newer program has migrated.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"yingzhou.dev/lab/sandbox"
)

// readers is how many goroutines read at the same time.
const readers = 4

// DB is an open metadata file, for use by any number of goroutines.
type DB struct {
	tables
	writer *sql.DB
	reader *sql.DB
}

var _ sandbox.Store = (*DB)(nil)

// Open opens or creates the file, checks it and brings its schema up to date. The folder must exist.
func Open(ctx context.Context, path string) (*DB, error) {
	db, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("opening metadata %q: %w", path, explain(err))
	}
	return db, nil
}

func open(ctx context.Context, path string) (_ *DB, err error) {
	db := &DB{}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	if db.writer, err = connect(path, "_txlock=immediate", 1); err != nil {
		return nil, err
	}
	if err := check(ctx, db.writer); err != nil {
		return nil, err
	}
	if err := migrate(ctx, db.writer); err != nil {
		return nil, err
	}
	if db.reader, err = connect(path, "_query_only=1", readers); err != nil {
		return nil, err
	}
	db.tables = tables{read: db.reader, write: db.transact}
	return db, nil
}

// connect prepares a pool. Waiting for another process's lock ends after five seconds. The names of the file and the
// parameters are escaped, so a path cannot bring a parameter of its own.
func connect(path, mode string, conns int) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dsn := (&url.URL{Scheme: "file", Path: abs, RawQuery: "_busy_timeout=5000&_journal_mode=WAL&_synchronous=FULL" +
		"&_foreign_keys=1&_defensive=1&_dqs=0&_error_rc=1&" + mode}).String()
	pool, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	return pool, nil
}

// check reads the whole file once: damage shows now and not in the middle of a job.
func check(ctx context.Context, db *sql.DB) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w (%s)", sandbox.ErrDamaged, verdict)
	}
	return nil
}

// explain marks SQLite's words for a file that is not, or no longer, a database.
func explain(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) && !errors.Is(err, sandbox.ErrDamaged) {
		switch e.Code() & 0xff { // primary result code
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w: %w", sandbox.ErrDamaged, err)
		}
	}
	return err
}

// Atomic implements sandbox.Store.
func (db *DB) Atomic(ctx context.Context, fn func(sandbox.Records) error) error {
	return db.transact(ctx, func(q querier) error {
		return fn(tables{read: q, write: func(ctx context.Context, step func(querier) error) error {
			return savepoint(ctx, q, step)
		}})
	})
}

// savepoint keeps a method that fails inside a transaction from leaving half of itself, should the caller go on.
func savepoint(ctx context.Context, q querier, step func(querier) error) error {
	if _, err := q.ExecContext(ctx, "SAVEPOINT step"); err != nil {
		return explain(err)
	}
	err := step(q)
	if err != nil {
		if _, undo := q.ExecContext(ctx, "ROLLBACK TO SAVEPOINT step"); undo != nil {
			return errors.Join(explain(err), explain(undo))
		}
	}
	_, end := q.ExecContext(ctx, "RELEASE SAVEPOINT step")
	return errors.Join(explain(err), explain(end))
}

func (db *DB) transact(ctx context.Context, fn func(querier) error) error {
	tx, err := db.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning transaction: %w", explain(err))
	}
	defer tx.Rollback() // after Commit it does nothing
	if err := fn(tx); err != nil {
		return explain(err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing transaction: %w", explain(err))
	}
	return nil
}

// Close implements sandbox.Store.
func (db *DB) Close() error {
	var errs []error
	for _, pool := range []*sql.DB{db.reader, db.writer} { // the writer last: it checkpoints the WAL
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}
