package db_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/db/dbtest"
	"yingzhou.dev/lab/sandbox/db/pgtest"
)

func openPostgres(t *testing.T, dsn string) *db.DB {
	t.Helper()
	s, err := db.OpenPostgres(t.Context(), db.Postgres{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestPostgres shares one server among its parts, each of which has a database of its own.
func TestPostgres(t *testing.T) {
	server := pgtest.Start(t)
	t.Run("conformance", func(t *testing.T) {
		dbtest.Run(t, func(t *testing.T) (sandbox.Store, func() sandbox.Store) {
			dsn := server.Database(t)
			return openPostgres(t, dsn), func() sandbox.Store { return openPostgres(t, dsn) }
		})
	})
	t.Run("queue", func(t *testing.T) {
		queues(t, func(t *testing.T) (*db.DB, func() *db.DB) {
			dsn := server.Database(t)
			return openPostgres(t, dsn), func() *db.DB { return openPostgres(t, dsn) }
		})
	})
	t.Run("save and load", func(t *testing.T) {
		savesAndLoads(t, func(t *testing.T) *db.DB { return openPostgres(t, server.Database(t)) })
	})
	for _, c := range []struct {
		name string
		test func(*testing.T, *pgtest.Server)
	}{
		{"migrations go forth and back", postgresMigrations},
		{"newer schema", postgresNewer},
		{"processes that start at once", postgresStarts},
		{"server that forgets", postgresForgets},
		{"order of arrival", postgresArrival},
		{"process that is lost", postgresLoss},
		{"offer that is lost", postgresUndelivered},
		{"server that restarts", postgresRestart},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, server) })
	}
}

func standardPool(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	pool, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pool.Close() })
	return pool
}

func postgresMigrations(t *testing.T, server *pgtest.Server) {
	dsn := server.Database(t)
	pool := standardPool(t, dsn)
	p, err := db.Provider(goose.DialectPostgres, pool)
	if err != nil {
		t.Fatal(err)
	}
	schema := func() []string {
		return lines(t, pool, `SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(collation_name, '')
			FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%' AND table_name NOT LIKE 'river%'
			UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE 'goose%' AND tablename NOT LIKE 'river%' ORDER BY 1`)
	}
	forthAndBack(t, p, schema, func() sandbox.Store { return openPostgres(t, dsn) })
}

func lines(t *testing.T, pool *sql.DB, query string) (out []string) {
	t.Helper()
	rows, err := pool.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// forthAndBack takes a database up one migration at a time and down again, then up with data of each version in it.
func forthAndBack(t *testing.T, p *goose.Provider, schema func() []string, open func() sandbox.Store) {
	t.Helper()
	ctx := t.Context()
	schemas := [][]string{schema()}
	for range p.ListSources() {
		if _, err := p.UpByOne(ctx); err != nil {
			t.Fatal(err)
		}
		schemas = append(schemas, schema())
	}
	for i := len(schemas) - 2; i >= 0; i-- {
		if _, err := p.Down(ctx); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(schemas[i], schema()); diff != "" {
			t.Errorf("back at version %d (-before +after)\n%s", i, diff)
		}
	}
	s := open()
	if diff := cmp.Diff(schemas[len(schemas)-1], schema()); diff != "" {
		t.Errorf("after opening (-want +got)\n%s", diff)
	}
	noon := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	job := dbtest.Job("op", noon)
	plan := dbtest.Signed("plan", `{"n":1}`, "lab")
	if _, err := s.PutArtefact(ctx, plan, noon); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateJob(ctx, job); err != nil {
		t.Fatal(err)
	}
	// Down to where jobs are still there, and up again: an older program's database with its records.
	for _, to := range []int64{3, 2} {
		if _, err := p.DownTo(ctx, to); err != nil {
			t.Fatal(err)
		}
		again := open()
		if got, err := again.Job(ctx, job.ID); err != nil || got != job {
			t.Errorf("after going back to version %d and forth: %+v, %v", to, got, err)
		}
		if got, err := again.Artefact(ctx, "plan", plan.Digest()); err != nil || cmp.Diff(plan, got) != "" {
			t.Errorf("after going back to version %d and forth: %+v, %v", to, got, err)
		}
	}
}

func postgresNewer(t *testing.T, server *pgtest.Server) {
	dsn := server.Database(t)
	openPostgres(t, dsn)
	if _, err := standardPool(t, dsn).ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.OpenPostgres(t.Context(), db.Postgres{DSN: dsn}); !errors.Is(err, sandbox.ErrNewer) {
		t.Errorf("a newer schema gives %v", err)
	}
}

func postgresStarts(t *testing.T, server *pgtest.Server) {
	dsn := server.Database(t)
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			s, err := db.OpenPostgres(t.Context(), db.Postgres{DSN: dsn})
			if err != nil {
				return err
			}
			return s.Close()
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// A server with fsync off would lose acknowledged commits with the power. One whose default is asynchronous commit is
// told otherwise by every connection.
func postgresForgets(t *testing.T, server *pgtest.Server) {
	server.Own()
	dsn := server.Database(t)
	pool := standardPool(t, dsn)
	set := func(what string) {
		t.Helper()
		for _, statement := range []string{"ALTER SYSTEM " + what, "SELECT pg_reload_conf()"} {
			if _, err := pool.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("SET fsync = off")
	defer set("RESET ALL")
	deadline := time.Now().Add(10 * time.Second)
	for lines(t, pool, "SHOW fsync")[0] != "off" && time.Now().Before(deadline) { // the server reloads in its own time
	}
	if _, err := db.OpenPostgres(t.Context(), db.Postgres{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "fsync = off") {
		t.Errorf("a server with fsync off gives %v", err)
	}
}

// A reader that pages through statements must see every one, whatever transactions overlap.
func postgresArrival(t *testing.T, server *pgtest.Server) {
	s := openPostgres(t, server.Database(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers errgroup.Group
	const each, all = 20, 80
	for w := range all / each {
		writers.Go(func() error {
			for i := range each {
				statement := dbtest.Signed("scenario", fmt.Sprintf(`{"n":%d}`, w*each+i), "li")
				err := s.Atomic(ctx, func(r sandbox.Records) error {
					if _, err := r.AppendStatement(ctx, statement, time.Now()); err != nil {
						return err
					}
					return r.SetSetting(ctx, fmt.Sprint(w), []byte(fmt.Sprint(i))) // keeps the transaction open a moment longer
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	seen, last := 0, int64(0)
	deadline := time.Now().Add(time.Minute)
	for seen < all && time.Now().Before(deadline) {
		page, err := s.Statements(ctx, last)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range page {
			seen, last = seen+1, st.Seq
		}
	}
	if err := writers.Wait(); err != nil {
		t.Fatal(err)
	}
	if seen != all {
		t.Errorf("a reader that follows the statements saw %d of %d", seen, all)
	}
}

// While the server is away callers hear so; what was committed is there afterwards, and so is the store.
func postgresRestart(t *testing.T, server *pgtest.Server) {
	server.Own()
	s := openPostgres(t, server.Database(t))
	ctx := t.Context()
	for i, stop := range []func(){server.Stop, server.Kill} {
		job := dbtest.Job("op", time.Unix(int64(i+1), 0).UTC())
		if err := s.CreateJob(ctx, job); err != nil {
			t.Fatal(err)
		}
		err := s.Atomic(ctx, func(r sandbox.Records) error {
			if err := r.SetSetting(ctx, "half", []byte("done")); err != nil {
				return err
			}
			stop()
			return r.SetSetting(ctx, "half", []byte("again"))
		})
		if !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("a transaction during which the server goes gives %v", err)
		}
		if _, err := s.Job(ctx, job.ID); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("a server that is away gives %v", err)
		}
		server.Run()
		if got, err := s.Job(ctx, job.ID); err != nil || got != job {
			t.Errorf("after a restart: %+v, %v", got, err)
		}
		if _, err := s.Setting(ctx, "half"); !errors.Is(err, sandbox.ErrNotFound) {
			t.Errorf("a write of a transaction that the restart interrupted: %v", err)
		}
	}
}

var _ = stdlib.RegisterConnConfig // the driver "pgx" of standardPool
