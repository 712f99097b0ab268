package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"yingzhou.dev/lab/sandbox"
)

// readers is how many goroutines read at the same time.
const readers = 4

// sqliteFile is a metadata file. One connection writes and begins every transaction with the write lock (BEGIN
// IMMEDIATE); a few others read the last committed state meanwhile (WAL). A commit is on disk when it returns
// (synchronous=FULL syncs the WAL at every commit).
type sqliteFile struct{ writer, reader *sql.DB }

// Open opens or creates the file, checks it and brings its schema up to date. The folder must exist.
func Open(ctx context.Context, path string) (*DB, error) {
	f := &sqliteFile{}
	if err := f.open(ctx, path); err != nil {
		return nil, fmt.Errorf("opening metadata %q: %w", path, errors.Join(explain(err), f.close()))
	}
	db := &DB{tables: tables{parsed: &parsed{}, dialect: sqliteDialect, read: &standard{q: f.reader}, write: f.transact}, close: f.close, wake: make(chan struct{}, 1)}
	db.tables.planned = db.tell
	return db, nil
}

// tell wakes the queue of this process, which is the only one, once the transaction is committed.
func (db *DB) tell(ctx context.Context, q querier, id sandbox.JobID) error {
	tx, ok := q.(*standard)
	if !ok {
		return fmt.Errorf("planning a job outside a transaction, in %T", q)
	}
	tx.after = func() {
		select {
		case db.wake <- struct{}{}:
		default: // woken already
		}
	}
	return db.announce(ctx, q, id, 0)
}

var sqliteDialect = dialect{now: "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"}

func (f *sqliteFile) open(ctx context.Context, path string) (err error) {
	if f.writer, err = connect(path, "_txlock=immediate", 1); err != nil {
		return err
	}
	if err := check(ctx, f.writer); err != nil {
		return err
	}
	p, err := provider(goose.DialectSQLite3, f.writer)
	if err != nil {
		return err
	}
	if err := migrate(ctx, p); err != nil {
		return err
	}
	f.reader, err = connect(path, "_query_only=1", readers)
	return err
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

// damagedSQLite recognises SQLite's words for a file that is not, or no longer, a database.
func damagedSQLite(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff // primary result code
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

func (f *sqliteFile) transact(ctx context.Context, fn func(querier) error) error {
	tx, err := f.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning transaction: %w", explain(err))
	}
	defer tx.Rollback() // after Commit it does nothing
	q := &standard{q: tx}
	if err := fn(q); err != nil {
		return explain(err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing transaction: %w", explain(err))
	}
	if q.after != nil {
		q.after()
	}
	return nil
}

func (f *sqliteFile) close() error {
	var errs []error
	for _, pool := range []*sql.DB{f.reader, f.writer} { // the writer last: it checkpoints the WAL
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}
