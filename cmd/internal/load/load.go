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

// target is a lab under load.
type target interface {
	// client is one client: it asks, waits for the release and returns the job as it ended.
	client(ctx context.Context) (ask func(context.Context, lab.Request) (sandbox.Job, error), err error)
	// entries reads the whole log.
	entries(ctx context.Context) ([]enclave.Entry, error)
	// records are the lab's, when nothing is asked any more.
	records(ctx context.Context) (records, error)
	// ledgers is the pattern of the custodians' ledgers.
	ledgers() string
}

// records are what is on record of jobs.
type records interface {
	Jobs(ctx context.Context, f sandbox.JobFilter) ([]sandbox.Job, error)
	Steps(ctx context.Context, id sandbox.JobID) ([]sandbox.Step, error)
}

// load is a run.
type load struct {
	config
	target   target
	home     *home.Home // embedded
	share    int64
	scenario enclave.Digest
	asked    atomic.Int64
	ended    atomic.Int64

	mu    sync.Mutex
	took  []time.Duration // from the submission until the release is there
	alone []time.Duration // the same, of the jobs before the load
	solo  []sandbox.JobID // those jobs
}

// run asks while the target serves: first one after another, then all at once. It returns how long that took.
func (l *load) run(ctx context.Context) (whole time.Duration, err error) {
	ask, err := l.target.client(ctx)
	if err != nil {
		return 0, err
	}
	if err := l.client(ctx, ask, warm); err != nil {
		return 0, err
	}
	l.alone, l.took = slices.Sorted(slices.Values(l.took)), nil
	asks := make([]func(context.Context, lab.Request) (sandbox.Job, error), l.clients)
	for i := range asks {
		if asks[i], err = l.target.client(ctx); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	clients, cctx := errgroup.WithContext(ctx)
	left := l.jobs
	for i, ask := range asks {
		n := left / (l.clients - i)
		left -= n
		clients.Go(func() error { return l.client(cctx, ask, n) })
	}
	watch, unwatch := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { l.watchHeap(watch) })
	err = clients.Wait()
	unwatch()
	watching.Wait()
	return time.Since(start), err
}

// report prints the table and checks the records.
func (l *load) report(ctx context.Context, whole time.Duration) error {
	entries, err := l.target.entries(ctx)
	if err != nil {
		return err
	}
	records, err := l.target.records(ctx)
	if err != nil {
		return err
	}
	if err := l.table(ctx, records, whole); err != nil {
		return err
	}
	return l.check(ctx, records, entries)
}

// client submits jobs one after another and waits for each.
func (l *load) client(ctx context.Context, ask func(context.Context, lab.Request) (sandbox.Job, error), n int) error {
	for range n {
		i := l.asked.Add(1)
		last, err := ask(ctx, lab.Request{ID: sandbox.NewJobID(time.Now()), Analyst: hometest.Analyst, Scenario: l.scenario, EpsilonMicro: l.share - i%(l.share/2),
			Query: fmt.Sprintf("%s -- %d", query, i)})
		if err != nil {
			return err
		}
		l.ended.Add(1)
		l.mu.Lock()
		l.took = append(l.took, last.Updated.Sub(last.Created)) // by the store: looking for it costs time too
		if len(l.solo) < warm {
			l.solo = append(l.solo, last.ID)
		}
		l.mu.Unlock()
	}
	return nil
}

// embedded is a lab in this process.
type embedded struct{ *home.Home }

func (e embedded) client(context.Context) (func(context.Context, lab.Request) (sandbox.Job, error), error) {
	id, err := e.Identity(hometest.Analyst)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, r lab.Request) (sandbox.Job, error) {
		job, err := e.Submit(ctx, r, func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
		if err != nil {
			return job, err
		}
		return e.wait(ctx, job.ID)
	}, nil
}

func (e embedded) wait(ctx context.Context, id sandbox.JobID) (sandbox.Job, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		job, err := e.Job(ctx, id)
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

func (e embedded) entries(ctx context.Context) (out []enclave.Entry, err error) {
	_, cp, err := e.Log.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	for rec, err := range e.Log.Entries(ctx, 0, cp.Size) {
		if err != nil {
			return nil, err
		}
		out = append(out, rec.Entry)
	}
	return out, nil
}

func (e embedded) records(context.Context) (records, error) { return e.Lab, nil }

func (e embedded) ledgers() string {
	return filepath.Join(e.Dir, "custodians", "*", "state", "ledger.jsonl")
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
func (l *load) table(ctx context.Context, records records, whole time.Duration) error {
	took := slices.Sorted(slices.Values(l.took))
	at := func(of []time.Duration, percent int) time.Duration {
		return of[min(len(of)-1, len(of)*percent/100)].Round(time.Millisecond)
	}
	store := "SQLite"
	if l.database != "" {
		store = "PostgreSQL"
	}
	where := "one process"
	if l.services {
		where = fmt.Sprintf("%d labd", l.labds)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "lab\tstore\tworkers\tjobs\tclients\tat once\tjobs/s\tp50\tp90\tp99\tmost\talone p50\talone most")
	fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%.1f\t%v\t%v\t%v\t%v\t%v\t%v\n", where, store, l.isolation, len(took), l.clients, l.atOnce, float64(len(took))/whole.Seconds(),
		at(took, 50), at(took, 90), at(took, 99), at(took, 100), at(l.alone, 50), at(l.alone, 100))
	if err := w.Flush(); err != nil {
		return err
	}
	return l.stages(ctx, records)
}

// stages prints where the time of a job goes, from its steps, and what of it a job alone spends on anything but its worker.
func (l *load) stages(ctx context.Context, records records) error {
	jobs, err := records.Jobs(ctx, sandbox.JobFilter{})
	if err != nil {
		return err
	}
	in := map[sandbox.State][]time.Duration{}
	var beyond []time.Duration
	for _, j := range jobs {
		steps, err := records.Steps(ctx, j.ID)
		if err != nil {
			return err
		}
		from, rest := j.Created, time.Duration(0)
		for _, s := range steps {
			in[s.From] = append(in[s.From], s.At.Sub(from))
			if s.From != sandbox.Running {
				rest += s.At.Sub(from)
			}
			from = s.At
		}
		if slices.Contains(l.solo, j.ID) {
			beyond = append(beyond, rest)
		}
	}
	for _, s := range sandbox.States() {
		if d := in[s]; len(d) > 0 {
			slices.Sort(d)
			fmt.Printf("  %-9s p50 %8v  p99 %8v\n", s, d[len(d)/2].Round(time.Millisecond), d[len(d)*99/100].Round(time.Millisecond))
		}
	}
	if slices.Sort(beyond); len(beyond) > 0 {
		fmt.Printf("  alone, from submission to release without the worker's evaluation: p50 %v\n", beyond[len(beyond)/2].Round(time.Millisecond))
	}
	return nil
}

// check looks for jobs that were lost or done twice, in the store, in the log and in the custodians' ledgers.
func (l *load) check(ctx context.Context, records records, entries []enclave.Entry) error {
	want := l.jobs + warm
	jobs, err := records.Jobs(ctx, sandbox.JobFilter{})
	if err != nil {
		return err
	}
	lost, twice := want-len(jobs), 0
	for _, j := range jobs {
		steps, err := records.Steps(ctx, j.ID)
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
	logged := map[string]int{}
	for _, e := range entries {
		switch e.Type {
		case enclave.EntryPlan, enclave.EntryReceipt, enclave.EntryRelease, enclave.EntryCharge:
			logged[e.Type+" "+e.Job+" "+e.By]++
		}
	}
	for _, n := range logged {
		if n != 1 {
			twice++
		}
	}
	charged, err := charges(l.target.ledgers())
	if err != nil {
		return err
	}
	fmt.Printf("%d jobs: %d lost, %d done twice; the log has %d entries; custodians charged %v times\n", want, lost, twice, len(entries), charged)
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

// charges counts the charges that each custodian has signed, as any of them has them on record.
func charges(pattern string) (map[string]int, error) {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return nil, errors.Join(err, errors.New("no ledgers"))
	}
	out := map[string]int{}
	for _, path := range found {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		here := map[string]int{}
		for line := range strings.Lines(string(data)) {
			var s canon.Signed
			var r release.Record
			if err := errors.Join(canon.Unmarshal([]byte(strings.TrimSuffix(line, "\n")), &s), s.Open(release.KindLedger, &r)); err != nil {
				return nil, err
			}
			if r.Charge != nil {
				here[r.By]++
			}
		}
		for by, n := range here {
			out[by] = max(out[by], n)
		}
	}
	return out, nil
}
