package db

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

// NoteEntry implements sandbox.Records.
func (t tables) NoteEntry(ctx context.Context, index int64, e enclave.Entry) error {
	what := fmt.Sprintf("noting log entry %d", index)
	if index < 0 || e.Type == "" || e.Subject.IsZero() {
		return fmt.Errorf("%s: %w: it needs an index, a type and a subject", what, sandbox.ErrInvalid)
	}
	data, err := canon.Marshal(e)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, sandbox.ErrInvalid, err)
	}
	return named(t.write(ctx, func(q querier) error {
		var old []byte
		err := q.row(ctx, "SELECT entry FROM log_entries WHERE log_index = $1", index).Scan(&old)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return one(q.exec(ctx, "INSERT INTO log_entries (log_index, type, subject, job, entry) VALUES ($1, $2, $3, $4, $5)",
				index, sandbox.Plain(e.Type), text(e.Subject), sandbox.Plain(e.Job), data))
		case err != nil:
			return err
		case !bytes.Equal(old, data):
			return fmt.Errorf("%w: another entry is noted there; has the log forked?", sandbox.ErrConflict)
		}
		return nil
	}), what)
}

// Entries implements sandbox.Records.
func (t tables) Entries(ctx context.Context, f sandbox.EntryFilter) ([]sandbox.LoggedEntry, error) {
	w := where{}
	if !f.Subject.IsZero() {
		w.add("subject = %s", text(f.Subject))
	}
	if f.Type != "" {
		w.add("type = %s", f.Type)
	}
	if f.Job != "" {
		w.add("job = %s", f.Job)
	}
	out, err := collect(ctx, t.read, func(r row) (l sandbox.LoggedEntry, err error) {
		var data []byte
		if err := r.Scan(&l.Index, &data); err != nil {
			return l, err
		}
		if err := canon.Unmarshal(data, &l.Entry); err != nil {
			return l, fmt.Errorf("entry %d: %w: %w", l.Index, sandbox.ErrDamaged, err)
		}
		return l, nil
	}, "SELECT log_index, entry FROM log_entries"+w.clause()+" ORDER BY log_index", w.args...)
	return out, named(err, "listing log entries")
}

// SetSetting implements sandbox.Records.
func (t tables) SetSetting(ctx context.Context, key string, value []byte) error {
	if value == nil {
		value = []byte{} // the driver would store NULL
	}
	return named(t.write(ctx, func(q querier) error {
		return one(q.exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, key, value))
	}), fmt.Sprintf("setting %q", key))
}

// Setting implements sandbox.Records.
func (t tables) Setting(ctx context.Context, key string) (value []byte, err error) {
	err = t.read.row(ctx, "SELECT value FROM settings WHERE name = $1", key).Scan(&value)
	return value, find(err, fmt.Sprintf("setting %q", key))
}
