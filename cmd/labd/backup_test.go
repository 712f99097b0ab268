package main

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/custody"
	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/cmd/internal/ownership"
	"yingzhou.dev/lab/cmd/internal/plane"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/db/pgtest"
)

// keeper loads a part's configuration as its program does for -backup and -restore.
func keeper(t *testing.T, c *clustertest.Cluster, part string) (string, daemon.Keeper, daemon.Env) {
	t.Helper()
	var k daemon.Keeper = &custody.Config{}
	path := filepath.Join(c.Dir, part, "custodian.yaml")
	if part == clustertest.Labd {
		k, path = &plane.Config{}, filepath.Join(c.Dir, part, "labd.yaml")
	}
	if err := daemon.Load(path, k); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	source, err := pki.Open(c.Lab, k.Shared().TLS, nil)
	if err != nil {
		t.Fatal(err)
	}
	return path, k, daemon.Env{Logger: slog.New(slog.DiscardHandler), TLS: source, Clock: time.Now}
}

func save(t *testing.T, c *clustertest.Cluster, part, to string) (*daemon.Backup, error) {
	path, k, env := keeper(t, c, part)
	return daemon.Save(t.Context(), path, k, env, to)
}

func restore(t *testing.T, c *clustertest.Cluster, part, from string) error {
	path, k, env := keeper(t, c, part)
	_, err := daemon.Restore(t.Context(), path, k, env, from)
	return err
}

// Control plane and custodian are backed up, lost and put back, with either database. A log that has grown since is
// refused, as is everything that would replace what is there.
func TestBackupOfServices(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { backups(t, hometest.Options{Rows: 200}, "") })
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t)
		fresh := filepath.Join(t.TempDir(), "dsn")
		if err := os.WriteFile(fresh, []byte(server.Database(t)), 0o600); err != nil {
			t.Fatal(err)
		}
		c := backups(t, hometest.Options{Rows: 200, Database: server.Database(t)}, fresh)

		// Another lab's database is not taken for this one's.
		foreign := server.Database(t)
		records, err := db.OpenPostgres(t.Context(), db.Postgres{DSN: foreign})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(ownership.Claim(t.Context(), records, make([]byte, 32)), records.Close(), os.WriteFile(fresh, []byte(foreign), 0o600)); err != nil {
			t.Fatal(err)
		}
		c.Stop(clustertest.Labd)
		c.Begin(clustertest.Labd)
		if err := c.Ended(clustertest.Labd); !errors.Is(err, ownership.ErrForeign) {
			t.Errorf("with another lab's database labd ends with %v", err)
		}
	})
}

// backups tests with a database of labd's and, if that is PostgreSQL, a file that names an empty one to restore to.
func backups(t *testing.T, o hometest.Options, fresh string) *clustertest.Cluster {
	c := clustertest.Start(t, o, nil)
	r := c.Person(hometest.Analyst)
	req, sign := request(t, c, query)
	released := func() sandbox.Job {
		t.Helper()
		job, err := r.Submit(t.Context(), req, sign)
		if err == nil {
			job, err = r.Run(t.Context(), job.ID, nil)
		}
		if err != nil || job.State != sandbox.Released {
			t.Fatalf("the job is %s: %s, %v", job.State, job.Reason, err)
		}
		return job
	}
	first := released()
	old, media := t.TempDir(), t.TempDir()
	to := func(dir, part string) string { return filepath.Join(dir, part) }

	for _, part := range []string{clustertest.Labd, "custodian-cyber"} {
		if _, err := save(t, c, part, to(old, "running")); !errors.Is(err, daemon.ErrRunning) {
			t.Errorf("backing up %s while it runs gives %v", part, err)
		}
		if _, err := os.Stat(to(old, "running")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it left something: %v", err)
		}
	}
	stop := func(do func(part string)) {
		t.Helper()
		for _, part := range []string{clustertest.Labd, "custodian-cyber"} {
			c.Stop(part)
			do(part)
		}
	}
	start := func() {
		t.Helper()
		c.Begin("custodian-cyber")
		c.Begin(clustertest.Labd)
		c.Ready()
	}
	stop(func(part string) {
		if _, err := save(t, c, part, to(old, part)); err != nil {
			t.Fatal(err)
		}
	})
	start()
	req, sign = request(t, c, "SELECT health, COUNT(*) AS n FROM health GROUP BY health")
	second := released()
	stop(func(part string) {
		b, err := save(t, c, part, to(media, part))
		if err != nil {
			t.Fatal(err)
		}
		if (part == clustertest.Labd) != (b.Checkpoint != "") || b.Bytes == 0 {
			t.Errorf("the backup of %s: %+v", part, b)
		}
	})

	// Nothing is replaced.
	for _, part := range []string{clustertest.Labd, "custodian-cyber"} {
		if err := restore(t, c, part, to(media, part)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("restoring over what is there gives %v", err)
		}
		if err := restore(t, c, part, to(media, "custodian-cyber")); part == clustertest.Labd && err == nil {
			t.Error("labd takes a custodian's backup")
		}
	}
	// The machines are lost, but for configurations and new certificates.
	for _, lost := range []string{"labd/log", "labd/blobs", "labd/state", "labd/lab.db", "labd/lab.db-wal", "labd/lab.db-shm", "labd/lab.key.pem", "labd/node.key.pem", "labd/log.key", "labd/roster.json",
		"custodian-cyber/state", "custodian-cyber/keyring", "custodian-cyber/identity.key", "custodian-cyber/mirror"} {
		if err := os.RemoveAll(filepath.Join(c.Dir, lost)); err != nil {
			t.Fatal(err)
		}
	}
	if fresh != "" {
		edit(t, filepath.Join(c.Dir, "labd", "labd.yaml"), postgresOf(t, c), fresh)
	}
	if err := restore(t, c, clustertest.Labd, to(old, clustertest.Labd)); !errors.Is(err, daemon.ErrStale) {
		t.Errorf("a log that is older than the witness has seen gives %v", err)
	}
	damaged := to(t.TempDir(), "damaged")
	if err := os.CopyFS(damaged, os.DirFS(to(media, clustertest.Labd))); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(damaged, "kept.tar"), "checkpoint.cosigned", "checkpoint.cosignef")
	if err := restore(t, c, clustertest.Labd, damaged); err == nil {
		t.Error("a damaged archive is restored")
	}
	c.Stop(clustertest.Witness)
	if err := restore(t, c, clustertest.Labd, to(media, clustertest.Labd)); err == nil {
		t.Error("a log is restored without asking the witness")
	}
	c.Begin(clustertest.Witness)
	if left, err := filepath.Glob(filepath.Join(c.Dir, "labd", "*.restoring")); err != nil || len(left) > 0 {
		t.Errorf("refused restores left %v, %v", left, err)
	}
	if err := restore(t, c, clustertest.Labd, to(media, clustertest.Labd)); err != nil {
		t.Fatal(err)
	}
	if err := restore(t, c, "custodian-cyber", to(old, "custodian-cyber")); err != nil { // any will do: its peers know the rest
		t.Fatal(err)
	}
	start()
	r = c.Person(hometest.Analyst)
	for _, job := range []sandbox.Job{first, second} {
		if have, err := r.Job(t.Context(), job.ID); err != nil || have.State != sandbox.Released || have.Release != job.Release {
			t.Errorf("after the restore job %s is %s, %v", job.ID, have.State, err)
		}
	}
	c.Stop("custodian-notary") // one custodian alone opens nothing: the restored one takes part
	req, sign = request(t, c, "SELECT coinsurance, COUNT(*) AS n FROM health GROUP BY coinsurance")
	job, err := r.Submit(t.Context(), req, sign)
	if err != nil {
		t.Fatal(err)
	}
	// It waits for a peer that may have what it lacks, and goes on once that is back.
	c.Begin("custodian-notary")
	if job, err = r.Run(t.Context(), job.ID, nil); err != nil || job.State != sandbox.Released {
		t.Errorf("after the restore a job is %s: %s, %v", job.State, job.Reason, err)
	}
	return c
}

// postgresOf is the file that labd's configuration names for its database.
func postgresOf(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	cfg := &plane.Config{}
	_ = daemon.Load(filepath.Join(c.Dir, "labd", "labd.yaml"), cfg) // files are missing
	return cfg.Database.Postgres.String()
}

func edit(t *testing.T, path, from, to string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(from)) {
		t.Fatalf("%s has no %q", path, from)
	}
	if err := os.WriteFile(path, bytes.Replace(data, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}
