package home

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"

	"yingzhou.dev/lab/cmd/internal/ownership"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/lab"
)

const (
	databaseFile   = "plane/lab.db"
	elsewhereFile  = "plane/database" // says that metadata is in a server's database
	elsewhereText  = "PostgreSQL\n"
	ownerRemainder = "name it with --database or LAB_DATABASE"
)

// ErrDatabase means that a lab's metadata is not where it is looked for.
var ErrDatabase = errors.New("the lab's metadata is elsewhere")

// openRecords opens the lab's metadata: its own file, or the database that the options name. A lab stays with the one it
// began with; `lab restore` moves it.
func (h *Home) openRecords(ctx context.Context) (*db.DB, error) {
	_, away := os.Stat(h.path(elsewhereFile))
	_, here := os.Stat(h.path(databaseFile))
	switch {
	case h.opts.Database == "" && away == nil:
		return nil, fmt.Errorf("%w: in a PostgreSQL database: %s", ErrDatabase, ownerRemainder)
	case h.opts.Database == "":
		return db.Open(ctx, h.path(databaseFile))
	case here == nil:
		return nil, fmt.Errorf("%w: in %s, and not in the database that was named", ErrDatabase, h.path(databaseFile))
	}
	records, err := db.OpenPostgres(ctx, db.Postgres{DSN: h.opts.Database})
	if err != nil {
		return nil, err
	}
	err = h.own(ctx, records)
	if err == nil && away != nil {
		err = durable.WriteFile(h.path(elsewhereFile), []byte(elsewhereText), 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	return records, nil
}

// MoveRecords brings the metadata of a closed lab into a PostgreSQL database, which must be empty, or makes sure that it is
// there already. The lab's own file stays as it is.
func MoveRecords(ctx context.Context, dir string, root ed25519.PublicKey, dsn string) (err error) {
	h := &Home{Dir: dir, Root: root}
	into, err := db.OpenPostgres(ctx, db.Postgres{DSN: dsn})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, into.Close()) }()
	if _, err := os.Stat(h.path(databaseFile)); err == nil {
		if err := into.LoadFrom(ctx, h.path(databaseFile)); err != nil {
			return err
		}
		return h.own(ctx, into)
	}
	return ownership.Check(ctx, into, root)
}

// own makes a database this lab's, and refuses one that is another's.
func (h *Home) own(ctx context.Context, records *db.DB) error {
	err := ownership.Claim(ctx, records, h.Root)
	if errors.Is(err, ownership.ErrForeign) {
		err = fmt.Errorf("%w: %w", ErrDatabase, err)
	}
	return err
}

// Queue hands out the lab's planned jobs, for lab.Dispatch.
func (h *Home) Queue() lab.Queue { return h.records.Queue(db.QueueConfig{Logger: h.opts.Logger}) }
