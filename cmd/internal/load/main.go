// Command load submits many small jobs at once to a lab and prints how long they took, stage by stage, and whether any was
// lost or done twice.
//
//	go run ./cmd/internal/load [-jobs 2000] [-clients 200] [-at-once 8] [-database URL] [-isolation process] [-soak]
//	go run ./cmd/internal/load -services [-labds 2] …
//
// The lab is in this process or, with -services, it is laid out as one is in production: labd (or several on one
// PostgreSQL), witness and custodians are processes, and each client has a connection of its own. What each daemon takes of
// memory and processors is then printed too. With -soak the heap is measured at intervals, and goroutines that were left
// behind are looked for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func main() {
	process.Init()
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	var c config
	flag.IntVar(&c.jobs, "jobs", 2000, "jobs in all")
	flag.IntVar(&c.clients, "clients", 200, "clients, each of which waits for its job before it submits the next")
	flag.IntVar(&c.atOnce, "at-once", 8, "jobs that are driven at a time")
	flag.StringVar(&c.database, "database", os.Getenv("LAB_DATABASE"), "PostgreSQL database, empty; default: SQLite")
	flag.StringVar(&c.isolation, "isolation", "process", "docker or process")
	flag.BoolVar(&c.services, "services", false, "daemons, each a process, and clients over gRPC")
	flag.IntVar(&c.labds, "labds", 1, "with -services: control planes on one database")
	flag.BoolVar(&c.soak, "soak", false, "watch the heap and the goroutines")
	flag.StringVar(&c.profile, "cpuprofile", "", "write a CPU profile of the whole run")
	flag.StringVar(&c.heap, "memprofile", "", "with -soak: write the live heap to this file after the first tenth and, with .end added, after the ninth: compare them with go tool pprof -base")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := c.main(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

type config struct {
	jobs, clients, atOnce int
	database, isolation   string
	services              bool
	labds                 int
	soak                  bool
	profile, heap         string
}

func (c config) main(ctx context.Context) (err error) {
	others := goleak.IgnoreCurrent() // those that wait for signals
	dir, err := os.MkdirTemp("", "load-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := hometest.Build(ctx, dir, "worker"); err != nil {
		return err
	}
	// ε 17 of the dataset's 20 is divided among the jobs: each is a question of its own, charged on its own.
	share := int64(17_000_000 / (c.jobs + warm))
	o := hometest.Options{Worker: filepath.Join(dir, "worker"), ScenarioMicro: 18_000_000, JobMicro: share, Database: c.database}
	folder := filepath.Join(dir, "lab")
	if err := hometest.Make(ctx, folder, o); err != nil {
		return err
	}
	l := &load{config: c, share: share}
	if c.services {
		return l.asServices(ctx, dir, folder, o)
	}
	if l.home, err = home.Open(ctx, folder, home.Options{Worker: o.Worker, Backend: c.isolation, Database: c.database, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	l.target = embedded{l.home}
	if c.profile != "" {
		f, err := os.Create(c.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	err = l.inProcess(ctx)
	pprof.StopCPUProfile() // if it runs
	if err = errors.Join(err, l.home.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	if err := goleak.Find(others); err != nil {
		return fmt.Errorf("goroutines were left behind: %w", err)
	}
	return nil
}

// inProcess drives the jobs of the embedded lab while they are asked for.
func (l *load) inProcess(ctx context.Context) (err error) {
	if l.scenario, _, err = l.home.Lab.Scenario(ctx, hometest.Scenario); err != nil {
		return err
	}
	serve, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return l.home.Dispatch(serve, l.home.Queue(), l.atOnce) })
	whole, err := l.run(ctx)
	stop()
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	return l.report(ctx, whole)
}
