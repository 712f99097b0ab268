package db

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"

	"yingzhou.dev/lab/sandbox"
)

// A backup of the records is a SQLite file, from whichever database they come: it can be read anywhere and restored into
// either.

// table is copied column by column. The order is that of their references.
type table struct {
	name    string
	columns []string
	numbers string // the column that the database numbers itself, if any
}

func backedUp() []table {
	envelopes := []string{"seq", "kind", "digest", "envelope", "recorded"}
	return []table{
		{"statements", envelopes, "seq"},
		{"pending", envelopes[1:], ""},
		{"artefacts", envelopes, "seq"},
		{"datasets", []string{"name", "keyset", "manifest"}, ""},
		{"jobs", strings.FieldsFunc(jobColumns, func(r rune) bool { return strings.ContainsRune(", \n\t", r) }), ""},
		{"job_steps", []string{"job", "seq", "from_state", "event", "to_state", "reason", "at"}, ""},
		{"releases", []string{"job", "release", "sealed_table", "made"}, ""},
		{"log_entries", []string{"log_index", "type", "subject", "job", "entry"}, ""},
		{"settings", []string{"name", "value"}, ""},
		{"drives", []string{"job", "drive", "holder", "until", "failures"}, ""},
	}
}

// SaveTo writes all records as they are at one moment to a new file, durably. Others may write meanwhile.
func (db *DB) SaveTo(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("saving metadata to %q: it is there already", path)
	}
	to, err := Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, to.Close()); err != nil {
			err = errors.Join(fmt.Errorf("saving metadata to %q: %w", path, err), os.Remove(path))
		}
	}()
	return db.snapshot(ctx, func(from querier) error { return to.fill(ctx, from) })
}

// LoadFrom takes the records of a file that SaveTo made. The store must be empty. Jobs that were being driven are nobody's.
func (db *DB) LoadFrom(ctx context.Context, path string) (err error) {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("loading metadata: %w", err)
	}
	from, err := Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	err = from.snapshot(ctx, func(q querier) error { return db.fill(ctx, q) })
	return named(err, fmt.Sprintf("loading metadata from %q", path))
}

// snapshot runs fn over the records as they are at one moment.
func (db *DB) snapshot(ctx context.Context, fn func(querier) error) error {
	if db.server == nil {
		return db.write(ctx, fn) // the only writer
	}
	tx, err := db.server.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return explain(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // it has written nothing
	return fn(native{tx})
}

// fill copies every table from another database, in one transaction.
func (db *DB) fill(ctx context.Context, from querier) error {
	return db.write(ctx, func(to querier) error {
		for _, t := range backedUp() {
			var n int64
			if err := to.row(ctx, "SELECT count(*) FROM "+t.name).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("%w: it has %d %s already, and records are restored into an empty database", sandbox.ErrConflict, n, t.name)
			}
			if err := db.copyTable(ctx, from, to, t); err != nil {
				return fmt.Errorf("copying %s: %w", t.name, err)
			}
		}
		_, err := to.exec(ctx, "UPDATE drives SET holder = '', until = 0") // leases were another process's
		return err
	})
}

func (db *DB) copyTable(ctx context.Context, from, to querier, t table) error {
	marks := make([]string, len(t.columns))
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", i+1)
	}
	columns, given := strings.Join(t.columns, ", "), ""
	if db.server != nil && t.numbers != "" {
		given = " OVERRIDING SYSTEM VALUE"
	}
	insert := "INSERT INTO " + t.name + " (" + columns + ")" + given + " VALUES (" + strings.Join(marks, ", ") + ")"
	found, err := from.rows(ctx, "SELECT "+columns+" FROM "+t.name)
	if err != nil {
		return err
	}
	defer found.Close()
	values := make([]any, len(t.columns))
	into := make([]any, len(t.columns))
	for i := range values {
		into[i] = &values[i]
	}
	for found.Next() {
		if err := found.Scan(into...); err != nil {
			return err
		}
		if err := one(to.exec(ctx, insert, values...)); err != nil {
			return err
		}
	}
	if err := found.Err(); err != nil {
		return err
	}
	if given == "" {
		return nil
	}
	_, err = to.exec(ctx, fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%[1]s', '%[2]s'), coalesce(max(%[2]s), 0) + 1, false) FROM %[1]s", t.name, t.numbers))
	return err
}
