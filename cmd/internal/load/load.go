package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// warm is how many jobs go one after another before the load: what a job costs when nothing else runs.
const warm = 10

const query = "SELECT health, COUNT(*) FROM health GROUP BY health"

// load is a run.
type load struct {
	config
	*home.Home
	share    int64
	scenario enclave.Digest
	asked    atomic.Int64
	ended    atomic.Int64

	mu   sync.Mutex
	took []time.Duration // from the submission until the release is there
}

func (l *load) run(ctx context.Context) (err error) {
	if l.scenario, _, err = l.Lab.Scenario(ctx, hometest.Scenario); err != nil {
		return err
	}
	serve, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return l.Dispatch(serve, l.Queue(), l.atOnce) })
	if _, err := l.client(ctx, warm); err != nil {
		return err
	}
	alone := slices.Sorted(slices.Values(l.took))
	l.took = nil
	start := time.Now()
	clients, cctx := errgroup.WithContext(ctx)
	left := l.jobs
	for i := range l.clients {
		n := left / (l.clients - i)
		left -= n
		clients.Go(func() error { _, err := l.client(cctx, n); return err })
	}
	watch, unwatch := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { l.watchHeap(watch) })
	err = clients.Wait()
	unwatch()
	watching.Wait()
	whole := time.Since(start)
	stop()
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	if err := l.table(ctx, alone, whole); err != nil {
		return err
	}
	return l.check(ctx)
}

// client submits jobs one after another and waits for each.
func (l *load) client(ctx context.Context, n int) (last sandbox.Job, err error) {
	id, err := l.Identity(hometest.Analyst)
	if err != nil {
		return last, err
	}
	for range n {
		ask := lab.Request{Analyst: hometest.Analyst, Scenario: l.scenario, Query: query, EpsilonMicro: l.share - l.asked.Add(1)%(l.share/2)}
		ask.Query = fmt.Sprintf("%s -- %d", query, l.asked.Load())
		job, err := l.Submit(ctx, ask, func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
		if err != nil {
			return job, err
		}
		if last, err = l.wait(ctx, job.ID); err != nil {
			return last, err
		}
		l.ended.Add(1)
		l.mu.Lock()
		l.took = append(l.took, last.Updated.Sub(last.Created)) // by the store: looking for it costs time too
		l.mu.Unlock()
	}
	return last, nil
}

func (l *load) wait(ctx context.Context, id sandbox.JobID) (sandbox.Job, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		job, err := l.Job(ctx, id)
		if err != nil {
			return job, err
		}
		switch {
		case job.State == sandbox.Released:
			return job, nil
		case job.State.Ended():
			return job, fmt.Errorf("job %s is %s: %s", id, job.State, job.Reason)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return job, fmt.Errorf("job %s is %s, %q: %w", id, job.State, job.Stage, ctx.Err())
		}
	}
}

// watchHeap prints the live heap now and then.
func (l *load) watchHeap(ctx context.Context) {
	if !l.soak {
		return
	}
	tenth := int64(l.jobs) / 10
	for at := int64(0); ; at += tenth {
		for l.ended.Load() < at {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Printf("after %6d jobs: heap %4d MB, %d goroutines\n", l.ended.Load(), m.HeapAlloc>>20, runtime.NumGoroutine())
		if at == tenth {
			l.writeHeap(l.heap)
		} else if at == 9*tenth {
			l.writeHeap(l.heap + ".end")
		}
	}
}

// writeHeap writes a profile of the live heap, if one is wanted.
func (l *load) writeHeap(path string) {
	if l.heap == "" {
		return
	}
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(pprof.WriteHeapProfile(f), f.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load: writing the heap's profile:", err)
	}
}

// table prints how long jobs took.
func (l *load) table(ctx context.Context, alone []time.Duration, whole time.Duration) error {
	took := slices.Sorted(slices.Values(l.took))
	at := func(of []time.Duration, percent int) time.Duration {
		return of[min(len(of)-1, len(of)*percent/100)].Round(time.Millisecond)
	}
	store := "SQLite"
	if l.database != "" {
		store = "PostgreSQL"
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "store\tworkers\tjobs\tclients\tat once\tjobs/s\tp50\tp90\tp99\tmost\talone p50\talone most")
	fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%.1f\t%v\t%v\t%v\t%v\t%v\t%v\n", store, l.isolation, len(took), l.clients, l.atOnce, float64(len(took))/whole.Seconds(),
		at(took, 50), at(took, 90), at(took, 99), at(took, 100), at(alone, 50), at(alone, 100))
	if err := w.Flush(); err != nil {
		return err
	}
	return l.stages(ctx)
}

// stages prints where the time of a job goes, from its steps.
func (l *load) stages(ctx context.Context) error {
	jobs, err := l.Jobs(ctx, sandbox.JobFilter{})
	if err != nil {
		return err
	}
	in := map[sandbox.State][]time.Duration{}
	for _, j := range jobs {
		steps, err := l.Lab.Steps(ctx, j.ID)
		if err != nil {
			return err
		}
		from := j.Created
		for _, s := range steps {
			in[s.From] = append(in[s.From], s.At.Sub(from))
			from = s.At
		}
	}
	for _, s := range sandbox.States() {
		if d := in[s]; len(d) > 0 {
			slices.Sort(d)
			fmt.Printf("  %-9s p50 %8v  p99 %8v\n", s, d[len(d)/2].Round(time.Millisecond), d[len(d)*99/100].Round(time.Millisecond))
		}
	}
	return nil
}

// check looks for jobs that were lost or done twice, in the store, in the log and in the custodians' ledgers.
func (l *load) check(ctx context.Context) error {
	want := l.jobs + warm
	jobs, err := l.Jobs(ctx, sandbox.JobFilter{})
	if err != nil {
		return err
	}
	lost, twice := want-len(jobs), 0
	for _, j := range jobs {
		steps, err := l.Lab.Steps(ctx, j.ID)
		if err != nil {
			return err
		}
		if j.State != sandbox.Released {
			lost++
		}
		if len(steps) != 5 || j.Attempts != 1 {
			twice++
		}
	}
	_, cp, err := l.Log.Checkpoint(ctx)
	if err != nil {
		return err
	}
	logged := map[string]int{}
	for rec, err := range l.Log.Entries(ctx, 0, cp.Size) {
		if err != nil {
			return err
		}
		switch e := rec.Entry; e.Type {
		case enclave.EntryPlan, enclave.EntryReceipt, enclave.EntryRelease, enclave.EntryCharge:
			logged[e.Type+" "+e.Job+" "+e.By]++
		}
	}
	for _, n := range logged {
		if n != 1 {
			twice++
		}
	}
	charged, err := l.charges()
	if err != nil {
		return err
	}
	fmt.Printf("%d jobs: %d lost, %d done twice; the log has %d entries; custodians charged %v times\n", want, lost, twice, cp.Size, charged)
	for _, n := range charged {
		if n != want {
			twice++
		}
	}
	if lost != 0 || twice != 0 || len(charged) != 3 {
		return errors.New("jobs were lost, done twice or not charged once each")
	}
	return nil
}

// charges counts the charges that each custodian has signed.
func (l *load) charges() (map[string]int, error) {
	out := map[string]int{}
	found, err := filepath.Glob(filepath.Join(l.Dir, "custodians", "*", "state", "ledger.jsonl"))
	if err != nil || len(found) == 0 {
		return nil, errors.Join(err, errors.New("no ledgers"))
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var s canon.Signed
		var r release.Record
		if err := errors.Join(canon.Unmarshal([]byte(strings.TrimSuffix(line, "\n")), &s), s.Open(release.KindLedger, &r)); err != nil {
			return nil, err
		}
		if r.Charge != nil {
			out[r.By]++
		}
	}
	return out, nil
}
