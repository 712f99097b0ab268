package db

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river"

	"yingzhou.dev/lab/sandbox"
)

// Postgres says which database to open.
type Postgres struct {
	DSN   string // connection string or URL, as libpq takes them; the schema is the first of its search_path
	Conns int    // connections at most; 0 = 16
}

// arrivals is the advisory lock of those who append statements.
const arrivals = 0x59_5a_01

var postgresDialect = dialect{arrive: fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", arrivals),
	now: "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"}

// server is a PostgreSQL database that other processes may use at the same time.
type server struct {
	pool  *pgxpool.Pool
	queue *river.Client[pgx.Tx] // to insert only
}

// OpenPostgres connects to a database and brings its schema up to date. Several processes may do so at once. A server
// that acknowledges commits which it can forget is refused.
func OpenPostgres(ctx context.Context, cfg Postgres) (*DB, error) {
	conf, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("opening metadata: %w", err) // pgx leaves the password out
	}
	conf.MaxConns = 16
	if cfg.Conns > 0 {
		conf.MaxConns = int32(cfg.Conns)
	}
	run := conf.ConnConfig.RuntimeParams
	run["synchronous_commit"] = "on"
	run["application_name"] = "yingzhou"
	// A sequential scan makes a serializable transaction depend on the whole table, and small tables are scanned so.
	run["enable_seqscan"] = "off"
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("opening metadata: %w", err)
	}
	s := &server{pool: pool}
	if err := s.prepare(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("opening metadata at %q, database %q: %w", conf.ConnConfig.Host, conf.ConnConfig.Database, explain(err))
	}
	db := &DB{tables: tables{parsed: &parsed{}, dialect: postgresDialect, read: native{pool}, write: s.transact}, close: s.close, server: s}
	db.tables.planned = func(ctx context.Context, q querier, id sandbox.JobID) error {
		if err := db.announce(ctx, q, id, delivery); err != nil {
			return err
		}
		return s.enqueue(ctx, q, driveArgs{Job: string(id), Drive: 1})
	}
	return db, nil
}

func (s *server) prepare(ctx context.Context) error {
	for _, setting := range []string{"fsync", "full_page_writes"} {
		var value string
		if err := s.pool.QueryRow(ctx, "SHOW "+setting).Scan(&value); err != nil {
			return err
		}
		if value != "on" {
			return fmt.Errorf("the server runs with %s = %s and may lose what it has acknowledged: set it to on", setting, value)
		}
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	var err error
	s.queue, err = s.enqueuer()
	return err
}

// migrations of one process at a time, by an advisory lock.
const migrating = 0x59_5a_02

func (s *server) migrate(ctx context.Context) error {
	one, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer one.Release()
	if _, err := one.Exec(ctx, "SELECT pg_advisory_lock($1)", migrating); err != nil {
		return err
	}
	pool := stdlib.OpenDBFromPool(s.pool)
	defer pool.Close()
	p, err := provider(goose.DialectPostgres, pool)
	if err == nil {
		err = migrate(ctx, p)
	}
	if err == nil {
		err = s.riverSchema(ctx)
	}
	// A lock that is not given back goes with its connection: this one must not return to the pool with it.
	if _, unlock := one.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", migrating); unlock != nil {
		err = errors.Join(err, unlock, one.Conn().Close(context.WithoutCancel(ctx)))
	}
	return err
}

func (s *server) close() error {
	s.pool.Close()
	return nil
}

// patience is how often a transaction is tried that others keep getting in the way of. Of those that conflict one always
// commits, so even many hundreds at once end.
const patience = 200

// transact runs fn in a serializable transaction, from the start again where another one got in its way. What the server
// answered to COMMIT may be lost with the connection: then the caller hears ErrUnavailable and has to look.
func (s *server) transact(ctx context.Context, fn func(querier) error) error {
	for attempt := 0; ; attempt++ {
		again, err := s.try(ctx, fn)
		if !again || attempt == patience {
			return explain(err)
		}
		pause := time.NewTimer(rand.N(time.Millisecond << min(attempt, 6)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (s *server) try(ctx context.Context, fn func(querier) error) (again bool, err error) {
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable})
	if err != nil {
		return false, fmt.Errorf("beginning transaction: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // after Commit it does nothing; otherwise the connection needs it
	q := &transaction{native: native{tx}, tx: tx}
	if err := fn(q); q.conflict || err != nil {
		return q.conflict, err
	}
	if err := tx.Commit(ctx); err != nil {
		return conflicts(err), fmt.Errorf("committing transaction: %w", err)
	}
	return false, nil
}

// conflicts reports whether a transaction failed only because of another one that ran at the same time. Code reads
// before it inserts, so a row that is there all the same (unique_violation) came from such a one too.
func conflicts(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01" || e.Code == "23505")
}

// native is a pool or a transaction of pgx.
type native struct {
	q interface {
		Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
		Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
		QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	}
}

func (n native) exec(ctx context.Context, query string, args ...any) (int64, error) {
	tag, err := n.q.Exec(ctx, query, args...)
	return tag.RowsAffected(), err
}

func (n native) rows(ctx context.Context, query string, args ...any) (rows, error) {
	return n.q.Query(ctx, query, args...)
}

// row's error for no row, pgx.ErrNoRows, is a sql.ErrNoRows too.
func (n native) row(ctx context.Context, query string, args ...any) row {
	return n.q.QueryRow(ctx, query, args...)
}

// transaction notes conflicts, whatever fn makes of their errors.
type transaction struct {
	native
	tx       pgx.Tx
	conflict bool
}

func (t *transaction) note(err error) { t.conflict = t.conflict || conflicts(err) }

func (t *transaction) exec(ctx context.Context, query string, args ...any) (int64, error) {
	n, err := t.native.exec(ctx, query, args...)
	t.note(err)
	return n, err
}

func (t *transaction) rows(ctx context.Context, query string, args ...any) (rows, error) {
	r, err := t.native.rows(ctx, query, args...)
	t.note(err)
	return notedRows{r, t}, err
}

func (t *transaction) row(ctx context.Context, query string, args ...any) row {
	return notedRow{t.native.row(ctx, query, args...), t}
}

type notedRows struct {
	rows
	t *transaction
}

func (n notedRows) Err() error {
	err := n.rows.Err()
	n.t.note(err)
	return err
}

type notedRow struct {
	row
	t *transaction
}

func (n notedRow) Scan(dest ...any) error {
	err := n.row.Scan(dest...)
	n.t.note(err)
	return err
}

// damagedPostgres recognises a server's words for pages that are not what it wrote.
func damagedPostgres(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "XX001" || e.Code == "XX002")
}

// unreachable recognises a server that is not there, restarts or has no connection left. Trying later may help; a commit
// under way may have been made.
func unreachable(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P") || e.Code == "53300"
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
