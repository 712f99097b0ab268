// Command faults is the fault matrix: it kills the lab with SIGKILL after each of its durable steps (internal/failpoint),
// starts it again and checks that nothing was lost, charged twice or left behind; then it does to it what else happens to
// machines: full disks, torn writes, wrong clocks, old backups, bodies that are away.
//
//	go run ./cmd/internal/faults [-world embedded|services] [-flow name] [-run regexp] [-list] [-j 2] [-quick] [-misfortunes]
//
// It builds the programs with the tag failpoint, prints a line for each case and ends with "faults: N passed, 0 failed".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func main() {
	process.Init()
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	m := matrix{}
	only := ""
	flag.StringVar(&only, "run", "", "run the cases that match the regular expression")
	flag.StringVar(&m.flow, "flow", "", "kill in one flow only, and try nothing else")
	flag.BoolVar(&m.list, "list", false, "list the cases and run none")
	flag.IntVar(&m.jobs, "j", 2, "cases at a time")
	flag.BoolVar(&m.quick, "quick", false, "kill at the first time only that a point is passed")
	flag.BoolVar(&m.misfortune, "misfortunes", false, "kill nothing; try what else happens to machines")
	flag.Func("world", "try one form of the lab only: embedded or services", func(s string) error {
		if m.world = world(s); m.world != embedded && m.world != served {
			return fmt.Errorf("%q is not embedded or services", s)
		}
		return nil
	})
	flag.Parse()
	var err error
	if m.only, err = regexp.Compile(only); err == nil {
		err = m.main(ctx)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

// matrix is all cases and what became of them.
type matrix struct {
	only       *regexp.Regexp
	flow       string // only this one; "" = all, and misfortunes
	list       bool
	quick      bool
	misfortune bool // only these
	jobs       int

	bench *bench
	world world                                 // only this one; "" = both
	seen  map[world]map[failpoint.Point][]*flow // which flows pass a point

	mu             sync.Mutex
	passed, failed int
}

// fault is one case: what is done to a lab, and what must hold afterwards. A skip says why it cannot be tried here.
type fault struct {
	name string
	try  func(ctx context.Context) error
}

// errSkip marks a case that this machine cannot try.
var errSkip = errors.New("skipped")

func (m *matrix) main(ctx context.Context) (err error) {
	if m.bench, err = newBench(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.bench.close()) }()
	all, missed, err := m.all(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(m.jobs)
	for _, f := range all {
		if !m.only.MatchString(f.name) || ctx.Err() != nil {
			continue
		}
		if m.list {
			fmt.Println(f.name)
			continue
		}
		g.Go(func() error {
			m.try(ctx, f)
			return nil
		})
	}
	g.Wait()
	if m.list {
		return ctx.Err()
	}
	for _, why := range missed {
		m.failed++
		fmt.Printf("FAIL  %s\n", why)
	}
	fmt.Printf("faults: %d passed, %d failed\n", m.passed, m.failed)
	if m.failed > 0 || ctx.Err() != nil {
		return errors.Join(errors.New("not all cases passed"), ctx.Err())
	}
	return nil
}

// all runs every flow without a fault and makes the cases. missed says what is wrong with the table of points.
func (m *matrix) all(ctx context.Context) (all []fault, missed []string, err error) {
	m.seen = map[world]map[failpoint.Point][]*flow{embedded: {}, served: {}}
	for _, in := range []world{embedded, served} {
		if m.world != "" && m.world != in {
			continue
		}
		for _, f := range flows() {
			if f.in != "" && f.in != in || m.misfortune || m.flow != "" && m.flow != f.name {
				continue
			}
			kills := m.kills
			if in == served {
				kills = m.killsServices
			}
			faults, err := kills(ctx, f)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %s: without a fault: %w", in, f.name, err)
			}
			all = append(all, faults...)
		}
		if !m.misfortune && m.flow == "" {
			missed = append(missed, m.missed(in)...)
		}
	}
	if m.flow != "" {
		if !slices.ContainsFunc(flows(), func(f *flow) bool { return f.name == m.flow }) {
			return nil, nil, fmt.Errorf("there is no flow %q", m.flow)
		}
		return all, nil, nil
	}
	if m.world != served {
		all = append(all, m.misfortunes()...)
	}
	if m.world != embedded {
		all = append(all, m.onTheWire()...)
	}
	return all, missed, nil
}

func (m *matrix) try(ctx context.Context, f fault) {
	start := time.Now()
	err := f.try(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch took := time.Since(start).Seconds(); {
	case err == nil:
		m.passed++
		fmt.Printf("ok    %-60s %5.1f s\n", f.name, took)
	case errors.Is(err, errSkip) && os.Getenv("LAB_REQUIRE_ALL") != "1":
		fmt.Printf("skip  %s: %v\n", f.name, err)
	default:
		m.failed++
		fmt.Printf("FAIL  %s: %v\n", f.name, err)
	}
}
