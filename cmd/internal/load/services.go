package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"yingzhou.dev/lab/cmd/internal/deploy"
	"yingzhou.dev/lab/cmd/internal/deploy/daemons"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/lab"
)

// services is a lab of daemons on this machine.
type services struct {
	*deploy.Laid
	database string
	running  []*daemon
	clients  []*desk.Remote
	store    *db.DB
}

// daemon is one of them, and what it was seen to take.
type daemon struct {
	*daemons.Process
	metrics string // host:port

	first, most, end usage
}

// usage is what a process takes at a moment.
type usage struct {
	rss, goroutines int64         // bytes, number
	cpu             time.Duration // of the process and of children that have ended, since its start
}

// asServices lays the lab in a folder out, starts its daemons and asks.
func (l *load) asServices(ctx context.Context, dir, folder string, o hometest.Options) (err error) {
	if err := hometest.Build(ctx, dir, "labd", "custodian", "witness"); err != nil {
		return err
	}
	ports, err := freePorts(5 + max(0, l.labds-1))
	if err != nil {
		return err
	}
	lay := deploy.Options{Ports: ports, Worker: o.Worker, Isolation: l.isolation, Database: l.database, Labds: l.labds, Now: time.Now()}
	if l.database != "" {
		lay.Postgres = filepath.Join(dir, "dsn")
		if err := os.WriteFile(lay.Postgres, []byte(l.database), 0o600); err != nil {
			return err
		}
	}
	s := &services{database: l.database}
	if s.Laid, err = deploy.Lay(ctx, folder, filepath.Join(dir, "services"), lay); err != nil {
		return err
	}
	l.target = s
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.start(ctx, dir, l.atOnce); err != nil {
		return err
	}
	if l.scenario, _, err = s.clients[0].Scenario(ctx, hometest.Scenario); err != nil {
		return err
	}
	watch, unwatch := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(watch) })
	whole, err := l.run(ctx)
	unwatch()
	watching.Wait()
	if err != nil {
		for _, d := range s.running {
			fmt.Fprintf(os.Stderr, "%s:\n%s\n", d.Name, tail(d.Log()))
		}
		return err
	}
	if err := l.report(ctx, whole); err != nil {
		return err
	}
	return s.table(l.jobs + warm)
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// start starts the daemons and waits until every labd answers. All clients are one analyst: the limits are for people.
func (s *services) start(ctx context.Context, programs string, atOnce int) error {
	type one struct{ name, program, config, more string }
	limits := "limits: {per_second: 100000, burst: 100000, at_once: 1000}\n"
	all := []one{{"witness", "witness", "witness/witness.yaml", ""}}
	for _, name := range slices.Sorted(maps.Keys(s.Custodians)) {
		all = append(all, one{name, "custodian", name + "/custodian.yaml", limits})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Labds)) {
		all = append(all, one{name, "labd", name + "/labd.yaml", limits})
	}
	metrics, err := freePorts(len(all))
	if err != nil {
		return err
	}
	for i, d := range all {
		path := filepath.Join(s.Dir, d.config)
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := fmt.Sprintf("127.0.0.1:%d", metrics[i])
		text := string(data) + d.more + fmt.Sprintf("metrics: %q\nlog: {level: warn}\n", at)
		text = strings.Replace(text, "worker: {", fmt.Sprintf("worker: {at_once: %d, ", atOnce), 1)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		p, err := daemons.Start(ctx, d.name, filepath.Join(programs, d.program), path)
		if err != nil {
			return err
		}
		s.running = append(s.running, &daemon{Process: p, metrics: at})
	}
	for _, address := range s.Labds {
		r, err := s.person("zhao.min", address)
		if err != nil {
			return err
		}
		for {
			if _, err = r.Info(ctx); err == nil {
				break
			}
			for _, d := range s.running {
				select {
				case <-d.Ended():
					return fmt.Errorf("%s ended:\n%s", d.Name, d.Log())
				default:
				}
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return errors.Join(ctx.Err(), err)
			}
		}
	}
	return nil
}

// person opens a person's folder; server, if given, is one labd of several.
func (s *services) person(name, server string) (*desk.Remote, error) {
	r, err := desk.OpenRemote(filepath.Join(s.Dir, "people", name), server, time.Now)
	if err == nil {
		s.clients = append(s.clients, r)
	}
	return r, err
}

func (s *services) client(context.Context) (func(context.Context, lab.Request) (sandbox.Job, error), error) {
	r, err := s.person(hometest.Analyst, "")
	if err != nil {
		return nil, err
	}
	id, err := r.Identity(hometest.Analyst)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, q lab.Request) (sandbox.Job, error) {
		job, err := r.Submit(ctx, q, func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
		if err != nil {
			return job, fmt.Errorf("submitting: %w", err)
		}
		return r.Run(ctx, job.ID, nil)
	}, nil
}

func (s *services) entries(ctx context.Context) (out []enclave.Entry, err error) {
	r, err := s.person("zhao.min", "")
	if err != nil {
		return nil, err
	}
	_, cp, err := r.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	for rec, err := range r.Entries(ctx, 0, cp.Size) {
		if err != nil {
			return nil, err
		}
		out = append(out, rec.Entry)
	}
	return out, nil
}

// records ends the daemons and opens what they leave.
func (s *services) records(ctx context.Context) (_ records, err error) {
	if err := s.end(); err != nil {
		return nil, err
	}
	if s.database != "" {
		s.store, err = db.OpenPostgres(ctx, db.Postgres{DSN: s.database})
	} else {
		s.store, err = db.Open(ctx, filepath.Join(s.Dir, "labd", "lab.db"))
	}
	return s.store, err
}

func (s *services) ledgers() string { return filepath.Join(s.Dir, "*", "state", "ledger.jsonl") }

// end ends clients and daemons in order; a second call does nothing.
func (s *services) end() (err error) {
	for _, r := range s.clients {
		err = errors.Join(err, r.Client.Close())
	}
	for _, d := range slices.Backward(s.running) {
		select {
		case <-d.Ended(): // before
		default:
			d.look(&d.end)
			err = errors.Join(err, d.End())
		}
	}
	s.clients = nil
	return err
}

func (s *services) stop() error {
	err := s.end()
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	return err
}

// watch looks at what the daemons take, now and then.
func (s *services) watch(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		for _, d := range s.running {
			var now usage
			d.look(&now)
			if first {
				d.first = now
			}
			d.most = usage{max(d.most.rss, now.rss), max(d.most.goroutines, now.goroutines), max(d.most.cpu, now.cpu)}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look reads proc(5) and the daemon's own metrics. What cannot be read stays zero: the process may just end.
func (d *daemon) look(u *usage) {
	proc := fmt.Sprintf("/proc/%d/", d.PID())
	if data, err := os.ReadFile(proc + "statm"); err == nil {
		if f := strings.Fields(string(data)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			u.rss = pages * int64(os.Getpagesize())
		}
	}
	if data, err := os.ReadFile(proc + "stat"); err == nil {
		_, rest, _ := strings.Cut(string(data), ") ") // the name may hold spaces
		if f := strings.Fields(rest); len(f) > 14 {
			var ticks int64
			for _, x := range f[11:15] { // utime, stime, cutime, cstime
				n, _ := strconv.ParseInt(x, 10, 64)
				ticks += n
			}
			u.cpu = time.Duration(ticks) * time.Second / 100 // USER_HZ
		}
	}
	resp, err := http.Get("http://" + d.metrics + "/metrics")
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			u.goroutines, _ = strconv.ParseInt(v, 10, 64)
		}
	}
}

// table prints what each daemon took.
func (s *services) table(jobs int) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "daemon\tmemory at first\tmost\tat the end\tgoroutines at first\tmost\tat the end\tprocessor per job")
	for _, d := range s.running {
		fmt.Fprintf(w, "%s\t%d MB\t%d MB\t%d MB\t%d\t%d\t%d\t%v\n", d.Name, d.first.rss>>20, d.most.rss>>20, d.end.rss>>20,
			d.first.goroutines, d.most.goroutines, d.end.goroutines, (d.end.cpu / time.Duration(jobs)).Round(100*time.Microsecond))
	}
	return w.Flush()
}
