package db_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/db/dbtest"
)

func open(t *testing.T, path string) *db.DB {
	t.Helper()
	s, err := db.Open(t.Context(), path)
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

func TestConformance(t *testing.T) {
	dbtest.Run(t, func(t *testing.T) (sandbox.Store, func() sandbox.Store) {
		path := filepath.Join(t.TempDir(), "lab.db")
		return open(t, path), func() sandbox.Store { return open(t, path) }
	})
}

func TestPathCannotCarryParameters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a?mode=memory&b%41#c 水.db")
	s := open(t, path)
	if err := s.SetSetting(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestWritesAreDurableAndChecked(t *testing.T) {
	pool, err := db.Connect(filepath.Join(t.TempDir(), "lab.db"), "_txlock=immediate", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000"} {
		var got string
		if err := pool.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, want %q, %v", pragma, got, want, err)
		}
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.db")
	s, err := db.Open(t.Context(), whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if _, err := s.PutArtefact(t.Context(), dbtest.Signed("plan", fmt.Sprintf(`{"n":%d}`, i), strings.Repeat("x", 500)), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil { // moves the WAL into the file
		t.Fatal(err)
	}
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func([]byte) []byte{
		"another format":  func(b []byte) []byte { copy(b, "not a database, "); return b },
		"cut off":         func(b []byte) []byte { return b[:len(b)/2] },
		"pages of zeroes": func(b []byte) []byte { clear(b[4096*5 : 4096*20]); return b },
	} {
		path := filepath.Join(dir, what+".db")
		if err := os.WriteFile(path, damage(append([]byte(nil), data...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := db.Open(t.Context(), path); !errors.Is(err, sandbox.ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				s.Close()
			}
		}
	}
}

func TestReadNoticesAnExchangedEnvelope(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.db")
	s := open(t, path)
	d, err := s.PutArtefact(t.Context(), dbtest.Signed("plan", `{"n":1}`, "lab"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool, err := db.Connect(path, "_txlock=immediate", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	other := canon.MustMarshal(dbtest.Signed("plan", `{"n":2}`, "lab"))
	if _, err := pool.ExecContext(t.Context(), "UPDATE artefacts SET envelope = $1", other); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Artefact(t.Context(), "plan", d); !errors.Is(err, sandbox.ErrDamaged) {
		t.Errorf("an exchanged envelope gives %v", err)
	}
}

// What was parsed before is given out only for the bytes that it was parsed from: another process may have added a signature,
// and somebody may have exchanged the record.
func TestParsedEnvelopesFollowTheRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.db")
	s := open(t, path)
	ks := dbtest.Signed(enclave.KindKeyset, `{"n":1}`, "a")
	d, err := s.PutArtefact(t.Context(), ks, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	read := func() []enclave.Signed {
		t.Helper()
		one, err := s.Artefact(t.Context(), enclave.KindKeyset, d)
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.Artefacts(t.Context(), enclave.KindKeyset)
		if err != nil {
			t.Fatal(err)
		}
		return append(all, one)
	}
	if diff := cmp.Diff([]enclave.Signed{ks, ks}, read()); diff != "" {
		t.Error(diff)
	}
	pool, err := db.Connect(path, "_txlock=immediate", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	exchange := func(with enclave.Signed) {
		t.Helper()
		if _, err := pool.ExecContext(t.Context(), "UPDATE artefacts SET envelope = $1", canon.MustMarshal(with)); err != nil {
			t.Fatal(err)
		}
	}
	both := dbtest.Signed(enclave.KindKeyset, `{"n":1}`, "a", "b")
	exchange(both)
	if diff := cmp.Diff([]enclave.Signed{both, both}, read()); diff != "" {
		t.Errorf("a signature more: %s", diff)
	}
	exchange(dbtest.Signed(enclave.KindKeyset, `{"n":2}`, "a"))
	if _, err := s.Artefact(t.Context(), enclave.KindKeyset, d); !errors.Is(err, sandbox.ErrDamaged) {
		t.Errorf("an exchanged envelope gives %v", err)
	}
}

func TestMigrationsGoForthAndBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.db")
	pool, err := db.Connect(path, "_txlock=immediate", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	p, err := db.Provider(goose.DialectSQLite3, pool)
	if err != nil {
		t.Fatal(err)
	}
	schema := func() []string {
		return lines(t, pool, "SELECT name || ': ' || coalesce(sql, '') FROM sqlite_master WHERE name NOT LIKE '%goose%' AND name NOT LIKE 'sqlite_%' ORDER BY name")
	}
	forthAndBack(t, p, schema, func() sandbox.Store { return open(t, path) })
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.db")
	open(t, path)
	pool, err := db.Connect(path, "_txlock=immediate", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, $2)", 999, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Open(t.Context(), path); !errors.Is(err, sandbox.ErrNewer) {
		t.Errorf("a newer file gives %v", err)
	}
}

// crashFile asks the test binary to be the process that is killed.
const crashFile = "DBTEST_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		fmt.Fprintln(os.Stderr, writeForever(context.Background(), path))
		os.Exit(1)
	}
	if dsn := os.Getenv(serveDatabase); dsn != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		if err := serveForever(ctx, dsn); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		stop()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writeForever makes transactions of three writes and says so after each commit.
func writeForever(ctx context.Context, path string) error {
	s, err := db.Open(ctx, path)
	if err != nil {
		return err
	}
	for i := int64(0); ; i++ {
		j := dbtest.Job("op", time.Unix(1+i, 0).UTC())
		err := s.Atomic(ctx, func(r sandbox.Records) error {
			if err := r.CreateJob(ctx, j); err != nil {
				return err
			}
			if _, err := r.PutArtefact(ctx, dbtest.Signed("plan", fmt.Sprintf(`{"n":%d}`, i), "lab"), j.Created); err != nil {
				return err
			}
			return r.NoteEntry(ctx, i, enclave.Entry{Type: enclave.EntryPlan, Subject: enclave.Digest{1}, Job: string(j.ID), At: canon.At(j.Created)})
		})
		if err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// Whenever the process is killed, what it was told is committed is there, whole, and nothing is there by halves.
func TestKilledWriterLosesNothing(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []int{1, 7, 40} {
		path := filepath.Join(t.TempDir(), "lab.db")
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), crashFile+"="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told, lines := 0, bufio.NewScanner(out)
		for told < after && lines.Scan() {
			told++
		}
		if err := cmd.Process.Kill(); err != nil { // SIGKILL
			t.Fatal(err)
		}
		for lines.Scan() { // said before it died
			told++
		}
		if err := cmd.Wait(); err == nil || told < after {
			t.Fatalf("the writer ended by itself after %d commits: %v\n%s", told, err, stderr.String())
		}
		s := open(t, path)
		jobs, err1 := s.Jobs(t.Context(), sandbox.JobFilter{})
		plans, err2 := s.Artefacts(t.Context(), "plan")
		entries, err3 := s.Entries(t.Context(), sandbox.EntryFilter{})
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		if n := len(jobs); n != len(plans) || n != len(entries) || n < told || n > told+1 {
			t.Errorf("told of %d commits; found %d jobs, %d plans, %d entries", told, n, len(plans), len(entries))
		}
	}
}

func BenchmarkMoveJob(b *testing.B) {
	s, err := db.Open(b.Context(), filepath.Join(b.TempDir(), "lab.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		j := dbtest.Job("op", time.Unix(1, 0).UTC())
		if err := s.CreateJob(b.Context(), j); err != nil {
			b.Fatal(err)
		}
		if _, _, err := s.MoveJob(b.Context(), j.ID, sandbox.Change{From: sandbox.Queued, Event: sandbox.Cancel, At: j.Created}); err != nil {
			b.Fatal(err)
		}
	}
}
