package db_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/db/dbtest"
	"yingzhou.dev/lab/sandbox/db/pgtest"
)

// opener makes an empty store and gives it again as another process would have it, or, where there can be none, itself.
type opener func(t *testing.T) (*db.DB, func() *db.DB)

func sqliteQueues(t *testing.T) (*db.DB, func() *db.DB) {
	s := open(t, filepath.Join(t.TempDir(), "lab.db"))
	return s, func() *db.DB { return s }
}

func TestQueue(t *testing.T) { queues(t, sqliteQueues) }

func queues(t *testing.T, open opener) {
	for _, c := range []struct {
		name string
		test func(*testing.T, opener)
	}{
		{"each job is driven once", queueOnce},
		{"a job that was not planned is not driven", queueUnplanned},
		{"a failed drive rests and comes again", queueAgain},
		{"whoever lost the job cannot write", queueFence},
		{"a cancelled job stops its drive", queueCancel},
		{"stopping gives jobs back", queueStop},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open) })
	}
}

var quick = db.QueueConfig{Lease: 2 * time.Second, Poll: 20 * time.Millisecond}

// plan makes a job that waits for somebody to drive it.
func plan(t *testing.T, s sandbox.Store, at int) sandbox.Job {
	t.Helper()
	j := dbtest.Job("op", time.Unix(int64(at+1), 0).UTC())
	if err := s.CreateJob(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	j, _, err := s.MoveJob(t.Context(), j.ID, sandbox.Change{From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{2}, At: j.Created})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// walk takes a job from wherever it is to its release, as the control plane does.
func walk(ctx context.Context, id sandbox.JobID, s sandbox.Store) error {
	for {
		j, err := s.Job(ctx, id)
		if err != nil || j.State == sandbox.Released {
			return err
		}
		c := map[sandbox.State]sandbox.Change{
			sandbox.Planned:  {Event: sandbox.Start},
			sandbox.Running:  {Event: sandbox.Compute, Receipt: enclave.Digest{3}},
			sandbox.Computed: {Event: sandbox.Open},
			sandbox.Opening:  {Event: sandbox.Release, Release: enclave.Digest{4}},
		}[j.State]
		c.From, c.At = j.State, j.Created
		if _, _, err := s.MoveJob(ctx, id, c); err != nil {
			return err
		}
	}
}

// serve runs queues until all jobs have ended.
func serve(t *testing.T, s sandbox.Store, jobs int, queues []*db.Queue, drive db.Drive) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var g errgroup.Group
	for _, q := range queues {
		g.Go(func() error { return q.Serve(ctx, 4, drive) })
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ended := 0; ended < jobs && ctx.Err() == nil; <-tick.C {
		list, err := s.Jobs(t.Context(), sandbox.JobFilter{States: []sandbox.State{sandbox.Released, sandbox.Cancelled, sandbox.Failed}})
		if err != nil {
			t.Fatal(err)
		}
		ended = len(list)
	}
	if ctx.Err() != nil {
		t.Error("not all jobs ended in time")
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func queueOnce(t *testing.T, open opener) {
	s, again := open(t)
	const jobs = 40
	for i := range jobs / 2 {
		plan(t, s, i)
	}
	var mu sync.Mutex
	drives := map[sandbox.JobID]int{}
	var late sync.Once
	serve(t, s, jobs, []*db.Queue{s.Queue(quick), again().Queue(quick)}, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		late.Do(func() { // the other half comes while the queue is served
			for i := range jobs / 2 {
				plan(t, s, jobs+i)
			}
		})
		mu.Lock()
		drives[id]++
		mu.Unlock()
		return walk(ctx, id, store)
	})
	if len(drives) != jobs {
		t.Errorf("%d jobs were driven, want %d", len(drives), jobs)
	}
	for id, n := range drives {
		steps, err := s.Steps(t.Context(), id)
		if n != 1 || len(steps) != 5 || err != nil {
			t.Errorf("job %s was driven %d times, in %d steps, %v", id, n, len(steps), err)
		}
	}
}

// The transaction that plans a job brings it into the queue: if it fails, neither happens. A job that is being submitted
// is not driven.
func queueUnplanned(t *testing.T, open opener) {
	s, _ := open(t)
	ctx := t.Context()
	j := dbtest.Job("op", time.Now().UTC().Truncate(time.Second))
	if err := s.CreateJob(ctx, j); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	err := s.Atomic(ctx, func(r sandbox.Records) error {
		_, _, err := r.MoveJob(ctx, j.ID, sandbox.Change{From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{2}, At: j.Created})
		return errors.Join(err, stop)
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	sure := plan(t, s, 0)
	serve(t, s, 1, []*db.Queue{s.Queue(quick)}, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		if id != sure.ID {
			t.Errorf("job %s is driven, only %s is planned", id, sure.ID)
		}
		return walk(ctx, id, store)
	})
}

func queueAgain(t *testing.T, open opener) {
	s, _ := open(t)
	plan(t, s, 0)
	var times []time.Time // drives of one job come one after another
	serve(t, s, 1, []*db.Queue{s.Queue(quick)}, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		times = append(times, time.Now())
		if len(times) < 3 {
			return errors.New("the custodians are away")
		}
		return walk(ctx, id, store)
	})
	for i := 1; i < len(times); i++ {
		if rest := times[i].Sub(times[i-1]); rest < time.Second<<(i-1)-10*time.Millisecond {
			t.Errorf("drive %d came %v after the one before", i+1, rest)
		}
	}
	if len(times) != 3 {
		t.Errorf("the job was driven %d times, want 3", len(times))
	}
}

func queueFence(t *testing.T, open opener) {
	s, _ := open(t)
	ctx := t.Context()
	j := plan(t, s, 0)
	first, ok, err := s.Take(ctx, j.ID, 0, time.Millisecond)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, ok, err := s.Take(ctx, j.ID, 0, time.Minute); err != nil || ok {
		t.Errorf("taking up a drive that was taken gives %v, %v", ok, err)
	}
	time.Sleep(5 * time.Millisecond) // the lease runs out by the database's clock
	second, ok, err := s.Take(ctx, j.ID, 1, time.Minute)
	if err != nil || !ok {
		t.Fatal("a job whose holder is silent cannot be taken up:", ok, err)
	}
	if _, ok, err := s.Take(ctx, j.ID, 2, time.Minute); err != nil || ok {
		t.Errorf("taking up a job that is driven gives %v, %v", ok, err)
	}
	start := sandbox.Change{From: sandbox.Planned, Event: sandbox.Start, At: j.Created}
	for what, write := range map[string]error{
		"renewing":    first.Renew(ctx),
		"moving":      func() error { _, _, err := first.Store().MoveJob(ctx, j.ID, start); return err }(),
		"transaction": first.Store().Atomic(ctx, func(r sandbox.Records) error { return r.SetSetting(ctx, "a", nil) }),
	} {
		if !errors.Is(write, sandbox.ErrFenced) {
			t.Errorf("%s after the job was lost gives %v", what, write)
		}
	}
	if err := first.Give(ctx); err != nil { // gives back nothing
		t.Error(err)
	}
	if err := second.Renew(ctx); err != nil {
		t.Error(err)
	}
	if _, moved, err := second.Store().MoveJob(ctx, j.ID, start); err != nil || !moved {
		t.Errorf("the holder's write gives %v, %v", moved, err)
	}
}

func queueCancel(t *testing.T, open opener) {
	s, _ := open(t)
	j := plan(t, s, 0)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	err := s.Queue(quick).Serve(ctx, 1, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		defer stop()
		if _, _, err := s.MoveJob(ctx, j.ID, sandbox.Change{From: sandbox.Planned, Event: sandbox.Cancel, At: j.Created}); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, sandbox.ErrCancelled) {
			t.Errorf("the drive of a cancelled job ends with %v", cause)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func queueStop(t *testing.T, open opener) {
	s, again := open(t)
	plan(t, s, 0)
	long := db.QueueConfig{Lease: time.Hour, Poll: 20 * time.Millisecond} // nobody waits for it to run out
	ctx, cancel := context.WithCancel(t.Context())
	driven := false
	err := s.Queue(long).Serve(ctx, 1, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		driven = true
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil || !driven {
		t.Fatal(driven, err)
	}
	serve(t, s, 1, []*db.Queue{again().Queue(long)}, walk)
}

// Two processes share the work of one database; one is killed in the middle. All jobs are released all the same, and of
// those that it had, none was driven by two at once.
func postgresLoss(t *testing.T, server *pgtest.Server) {
	dsn := server.Database(t)
	s := openPostgres(t, dsn)
	const jobs = 60
	for i := range jobs {
		plan(t, s, i)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*exec.Cmd, io.Reader) {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), serveDatabase+"="+dsn)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	first, out := start()
	second, rest := start()
	lines := bufio.NewScanner(out)
	for n := 0; n < 8 && lines.Scan(); n++ { // it is at work
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	released := make(chan []sandbox.Job)
	go func() {
		defer close(released)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			list, err := s.Jobs(t.Context(), sandbox.JobFilter{States: []sandbox.State{sandbox.Released}})
			if err != nil || len(list) == jobs {
				released <- list
				return
			}
		}
	}()
	select {
	case list := <-released:
		if len(list) != jobs {
			t.Errorf("%d of %d jobs were released", len(list), jobs)
		}
	case <-time.After(2 * time.Minute):
		t.Error("the jobs of the killed process were not taken up")
	}
	if err := second.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	worked, err := io.ReadAll(rest)
	if err := errors.Join(err, second.Wait()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(string(worked), "\n"); n < jobs/4 {
		t.Errorf("the surviving process drove %d jobs", n)
	}
	list, err := s.Jobs(t.Context(), sandbox.JobFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range list {
		steps, err := s.Steps(t.Context(), j.ID)
		if err != nil || len(steps) != 5 { // each transition once, whoever made it
			t.Errorf("job %s came to its end in %d steps, %v", j.ID, len(steps), err)
		}
	}
}

// A process that dies after River told it of a job and before it took the job up leaves an offer that River never makes
// again. It is made anew, once, and an offer that still waits is not doubled.
func postgresUndelivered(t *testing.T, server *pgtest.Server) {
	dsn := server.Database(t)
	s := openPostgres(t, dsn)
	lost, waits := plan(t, s, 0), plan(t, s, 1)
	pool := standardPool(t, dsn)
	for _, statement := range []string{
		"UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() WHERE args->>'job' = '" + string(lost.ID) + "'",
		"UPDATE drives SET until = 0",
	} {
		if _, err := pool.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	drives := map[sandbox.JobID]int{}
	serve(t, s, 2, []*db.Queue{s.Queue(quick)}, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		mu.Lock()
		drives[id]++
		mu.Unlock()
		return walk(ctx, id, store)
	})
	if drives[lost.ID] != 1 || drives[waits.ID] != 1 {
		t.Errorf("the jobs were driven %d and %d times", drives[lost.ID], drives[waits.ID])
	}
	if n := lines(t, pool, "SELECT count(*) FROM river_job WHERE args->>'job' = '"+string(waits.ID)+"'")[0]; n != "1" {
		t.Errorf("%s offers were made of a job that waited", n)
	}
}

// serveDatabase asks the test binary to be a process that serves a queue.
const serveDatabase = "DBTEST_SERVE"

// serveForever drives jobs slowly and names each that it has released.
func serveForever(ctx context.Context, dsn string) error {
	s, err := db.OpenPostgres(ctx, db.Postgres{DSN: dsn})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Queue(quick).Serve(ctx, 4, func(ctx context.Context, id sandbox.JobID, store sandbox.Store) error {
		work := time.NewTimer(30 * time.Millisecond)
		defer work.Stop()
		select {
		case <-work.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := walk(ctx, id, store); err != nil {
			return err
		}
		fmt.Println(id)
		return nil
	})
}
