// Package process runs a worker as an ordinary process in a sandbox made of Linux namespaces, control groups, Landlock,
// rlimits and a seccomp filter. It needs no daemon and no installation, and works for root and, with less, for others.
//
// It is for development only and says so in every result: it takes what the kernel and this user's rights allow, and
// reports just that. In the worst case, without namespaces, a worker is a plain process that may call little and read
// only its inputs. It is refused in production by runner.Choose.
//
// The sandbox is built from inside. The program executes itself again under another name, in new namespaces; Init, which
// comes first in its main, then mounts, gives up all rights, says over a pipe what was really applied, and becomes the
// worker. Worker programs are executed from sealed memory files, so that what was hashed is what runs and nothing in the
// sandbox's file system can be executed at all.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
)

// Config is how the back end is set up. The zero value works.
type Config struct {
	Dir    string       // existing folder for copies of workers if memory files may not be executed; empty = the system's for temporary files
	Logger *slog.Logger // nil = none
}

// ErrNoInit means that the program does not call Init first thing in main, or TestMain.
var ErrNoInit = errors.New("process.Init was not called first in main")

// Runner runs workers as processes. Tasks die with the process that started them, so List knows only its own.
type Runner struct {
	cfg    Config
	level  level
	groups hierarchy

	without []string // set by tests only: see spec.Without

	mu       sync.Mutex
	programs map[string]*os.File // by digest
	tasks    map[runner.Handle]*task
}

var _ runner.Runner = (*Runner)(nil)

// Open finds the best isolation that is to be had here, by trying. Close frees its memory.
func Open(ctx context.Context, cfg Config) (*Runner, error) {
	if !initCalled.Load() {
		return nil, fmt.Errorf("%w: %w", runner.ErrUnavailable, ErrNoInit)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Runner{cfg: cfg, programs: map[string]*os.File{}, tasks: map[runner.Handle]*task{}}
	var err error
	if r.groups, err = findHierarchy("/proc/self/mountinfo", "/proc/self/cgroup"); err != nil {
		cfg.Logger.DebugContext(ctx, "no control groups", "error", err)
	}
	r.groups.sweep()
	var refused error
	for _, l := range levels() {
		_, err := r.probe(ctx, l)
		if err == nil {
			r.level = l
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		refused = errors.Join(refused, err)
		cfg.Logger.DebugContext(ctx, "isolation refused", "level", l, "error", err)
	}
	return nil, fmt.Errorf("%w: %w", runner.ErrUnavailable, refused)
}

// Close forgets the prepared programs and removes what is left of tasks.
func (r *Runner) Close() error {
	r.mu.Lock()
	handles := slices.Collect(maps.Keys(r.tasks))
	r.mu.Unlock()
	var err error
	for _, h := range handles {
		err = errors.Join(err, r.remove(h))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.programs {
		err = errors.Join(err, f.Close())
	}
	clear(r.programs)
	return err
}

// Probe builds a sandbox and reports its layers, without running anything in it.
func (r *Runner) Probe(ctx context.Context) (runner.Isolation, error) { return r.probe(ctx, r.level) }

func (r *Runner) probe(ctx context.Context, l level) (_ runner.Isolation, err error) {
	dir, err := os.MkdirTemp("", "sandbox-probe-")
	if err != nil {
		return runner.Isolation{}, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return runner.Isolation{}, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return runner.Isolation{}, err
	}
	defer null.Close()
	t := &task{Task: runner.Task{ID: "probe", InputDir: dir, Limits: runner.DefaultLimits()}, level: l, probe: true}
	t.Progress = func(string) {}
	if err := t.launch(ctx, r, null); err != nil {
		return runner.Isolation{}, fmt.Errorf("probing: %w", err)
	}
	_, err = t.finish()
	return t.isolation, err
}

// Prepare copies a worker program into a sealed memory file.
func (r *Runner) Prepare(ctx context.Context, worker string, want enclave.Digest) (string, enclave.Digest, error) {
	f, got, err := take(worker, r.cfg.Dir)
	if err != nil {
		return "", got, fmt.Errorf("preparing worker %q: %w", worker, err)
	}
	if !want.IsZero() && got != want {
		return "", got, errors.Join(&runner.DigestError{Worker: worker, Want: want, Got: got}, f.Close())
	}
	image := got.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.programs[image]; ok {
		return image, got, f.Close()
	}
	r.programs[image] = f
	return image, got, nil
}

// isolation puts together what the init stage and this side applied.
func isolation(inside []string, g *cgroup) runner.Isolation {
	p := append([]string{"deadline", "output-limit", "program-pinned"}, inside...)
	p = append(p, g.applied...)
	slices.Sort(p)
	return runner.Isolation{Backend: "process", Development: true, Protections: slices.Compact(p)}
}

// startTimeout bounds how long the init stage may take; it needs a few milliseconds.
const startTimeout = 20 * time.Second
