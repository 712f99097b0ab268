package home_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db/pgtest"
	"yingzhou.dev/lab/sandbox/lab"
)

// A whole lab whose metadata is in PostgreSQL: jobs are dispatched while the server is shut down, and while it crashes,
// in the middle of them. Each ends in its release, which comes once.
func TestDatabaseRestartsInTheMiddleOfAJob(t *testing.T) {
	server := pgtest.Start(t)
	server.Own()
	dsn, dir := server.Database(t), t.TempDir()
	if err := hometest.Build(t.Context(), dir, "worker"); err != nil {
		t.Fatal(err)
	}
	opts := quiet
	opts.Database, opts.Worker, opts.Backend = dsn, filepath.Join(dir, "worker"), "process"
	folder := filepath.Join(dir, "lab")
	if err := hometest.Make(t.Context(), folder, hometest.Options{Database: dsn, Worker: opts.Worker, Rows: 200}); err != nil {
		t.Fatal(err)
	}
	h, err := home.Open(t.Context(), folder, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- h.Dispatch(ctx, h.Queue(), 2) }()
	restart := func(end func()) func() {
		return func() { end(); server.Run() }
	}
	for _, c := range []struct {
		at   sandbox.State
		do   func()
		asks string
	}{
		{sandbox.Running, restart(server.Stop), "good"},
		{sandbox.Opening, restart(server.Kill), "fair"},
	} {
		job := submitJob(t, h, "SELECT COUNT(*) FROM health WHERE health = '"+c.asks+"'")
		waitFor(t, h, job.ID, func(j sandbox.Job) bool { return j.State == c.at || j.State.Ended() })
		c.do()
		job = waitFor(t, h, job.ID, func(j sandbox.Job) bool { return j.State.Ended() })
		if job.State != sandbox.Released {
			t.Errorf("with the server restarted while the job was %s, it is %s: %s", c.at, job.State, job.Reason)
		}
		entries := 0
		_, cp, err := h.Log.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range h.Log.Entries(t.Context(), 0, cp.Size) {
			if err != nil {
				t.Fatal(err)
			}
			if rec.Entry.Type == enclave.EntryCharge && rec.Entry.Job == string(job.ID) {
				entries++
			}
		}
		if entries != 3 {
			t.Errorf("the job was charged %d times by three custodians", entries)
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	want, err := h.Jobs(t.Context(), sandbox.JobFilter{})
	if err != nil {
		t.Fatal(err)
	}
	closeLab(t, h)

	if _, err := home.Open(t.Context(), folder, quiet); !errors.Is(err, home.ErrDatabase) {
		t.Errorf("opening the lab without its database gives %v", err)
	}
	other := opts
	if _, err := home.Open(t.Context(), makeLab(t, hometest.Founded), other); !errors.Is(err, home.ErrDatabase) {
		t.Errorf("opening another lab with the database gives %v", err)
	}
	// Its backup can be restored into a file, and from there.
	saved, restored := filepath.Join(dir, "saved"), filepath.Join(dir, "restored")
	if _, err := home.Save(t.Context(), folder, opts, saved, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := home.Restore(t.Context(), saved, restored, quiet, nil, nil); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, restored).Jobs(t.Context(), sandbox.JobFilter{})
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("restored jobs: %v (-want +got)\n%s", err, diff)
	}
	opts.Database = server.Database(t)
	if _, err := home.Restore(t.Context(), saved, filepath.Join(dir, "moved"), opts, nil, nil); err != nil {
		t.Fatal(err)
	}
	if h, err = home.Open(t.Context(), filepath.Join(dir, "moved"), opts); err != nil {
		t.Fatal(err)
	}
	defer closeLab(t, h)
	if got, err = h.Jobs(t.Context(), sandbox.JobFilter{}); cmp.Diff(want, got) != "" || err != nil {
		t.Errorf("jobs in the new database: %v (-want +got)\n%s", err, cmp.Diff(want, got))
	}
}

func submitJob(t *testing.T, h *home.Home, query string) sandbox.Job {
	t.Helper()
	id, err := h.Identity(hometest.Analyst)
	if err != nil {
		t.Fatal(err)
	}
	scenario, _, err := h.Lab.Scenario(t.Context(), hometest.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	job, err := h.Submit(t.Context(), lab.Request{Analyst: hometest.Analyst, Scenario: scenario, Query: query},
		func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// waitFor looks at a job until it is as wanted. The database may be away meanwhile.
func waitFor(t *testing.T, h *home.Home, id sandbox.JobID, wanted func(sandbox.Job) bool) sandbox.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		job, err := h.Job(ctx, id)
		switch {
		case err == nil && wanted(job):
			return job
		case err != nil && !errors.Is(err, sandbox.ErrUnavailable):
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the job stays %s, %q", job.State, job.Stage)
		}
	}
}
