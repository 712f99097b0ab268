// Package node runs jobs: the approved worker program in the best isolation there is, for the embedded lab and for labd.
// It holds no keys.
package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/image"
	"yingzhou.dev/lab/sandbox/runner/process"
)

// Worker runs the approved program. Which isolation is the best there is, is found out at first use: most commands run no
// worker.
type Worker struct {
	path       string
	backend    string
	production bool
	instance   string // tells this lab's containers from another's
	lab        string // absolute folder of the lab, by which its tasks are told from other labs'

	mu        sync.Mutex
	runner    runner.Runner
	why       string
	isolation runner.Isolation
	program   enclave.Digest
}

// Config says what to run and how. The zero value is fine.
type Config struct {
	Program    string // path of the worker program; "" = beside this program
	Backend    string // "docker", "process" or "" = the best that is there
	Production bool   // refuse isolation that is for development only
	Dir        string // folder of the lab or service: tells its tasks from another's
}

// New makes a worker. Nothing is started.
func New(cfg Config) (*Worker, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the lab's folder: %w", err)
	}
	w := &Worker{path: cfg.Program, backend: cfg.Backend, production: cfg.Production, lab: dir, instance: "lab-" + canon.Sum([]byte(dir)).Short()}
	if w.path == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding the worker program: %w", err)
		}
		w.path = filepath.Join(filepath.Dir(self), "worker")
	}
	return w, nil
}

// choose opens the back end once and takes the program over.
func (w *Worker) choose(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runner != nil {
		return nil
	}
	if _, err := os.Stat(w.path); err != nil {
		return fmt.Errorf("worker program: %w (build it beside this program, or name it with --worker)", err)
	}
	r, why, err := runner.Choose(ctx, w.production, w.backend,
		runner.Candidate{Name: "docker", Open: func(ctx context.Context) (runner.Runner, error) {
			return docker.Open(ctx, docker.Config{Instance: w.instance})
		}},
		runner.Candidate{Name: "process", Open: func(ctx context.Context) (runner.Runner, error) { return process.Open(ctx, process.Config{}) }})
	if err != nil {
		return err
	}
	if w.isolation, err = r.Probe(ctx); err != nil {
		return err
	}
	if _, w.program, err = r.Prepare(ctx, w.path, enclave.Digest{}); err != nil {
		return err
	}
	if err := removeAll(ctx, r, map[string]string{labelLab: w.lab}); err != nil {
		return err
	}
	w.runner, w.why = r, why
	return nil
}

// Labels of a task.
const (
	labelLab = "yingzhou.lab"
	labelJob = "yingzhou.job"
)

// removeAll removes what a killed process left running: a container outlives whoever started it. The lab's lock says that
// nobody else runs its tasks now.
func removeAll(ctx context.Context, r runner.Runner, labels map[string]string) error {
	left, err := r.List(ctx, labels)
	if err != nil {
		return fmt.Errorf("removing workers that were left running: %w", err)
	}
	for _, h := range left {
		if err := r.Remove(ctx, h); err != nil {
			return fmt.Errorf("removing workers that were left running: %w", err)
		}
	}
	return nil
}

// Close ends use of the back end, if one was opened.
func (w *Worker) Close() error {
	if c, ok := w.runner.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}

// Identify implements lab.Worker.
func (w *Worker) Identify(ctx context.Context) (enclave.Digest, error) {
	err := w.choose(ctx)
	return w.program, err
}

// Run implements lab.Worker.
func (w *Worker) Run(ctx context.Context, job sandbox.JobID, dir string, program enclave.Digest, progress func(percent int64)) (lab.WorkerResult, error) {
	if err := w.choose(ctx); err != nil {
		return lab.WorkerResult{}, err
	}
	img, _, err := w.runner.Prepare(ctx, w.path, program)
	if err != nil {
		return lab.WorkerResult{}, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return lab.WorkerResult{}, err
	}
	res, err := runner.Run(ctx, w.runner, runner.Task{ID: string(job), Image: img, InputDir: abs, Labels: map[string]string{labelLab: w.lab, labelJob: string(job)},
		Progress: func(line string) {
			if f, ok := strings.CutPrefix(line, "progress "); ok {
				if v, err := strconv.ParseFloat(f, 64); err == nil && v >= 0 && v <= 1 {
					progress(int64(v * 100))
				}
			}
		}})
	if err != nil {
		return lab.WorkerResult{}, err
	}
	switch {
	case res.Killed != "":
		return lab.WorkerResult{}, fmt.Errorf("worker was killed: %s%s", res.Killed, said(res.Stderr))
	case res.Exit != 0:
		return lab.WorkerResult{}, fmt.Errorf("worker ended with code %d%s", res.Exit, said(res.Stderr))
	}
	return lab.WorkerResult{Output: res.Stdout, Isolation: res.Isolation.String(), Started: res.Started, Ended: res.Ended}, nil
}

// said quotes the last line that a worker wrote. Workers see ciphertexts only, so it cannot hold a value.
func said(stderr []byte) string {
	lines := strings.Split(strings.TrimSpace(string(stderr)), "\n")
	last := lines[len(lines)-1]
	if last == "" || strings.HasPrefix(last, "progress ") {
		return ""
	}
	return ": " + last
}

// Isolation says what stands between a worker and the machine, and why nothing better does.
func (w *Worker) Isolation(ctx context.Context) (isolation, why string, err error) {
	if err := w.choose(ctx); err != nil {
		return "", "", err
	}
	return w.isolation.String(), w.why, nil
}

// WorkerDigests names this lab's worker as each back end knows it, for a scenario to approve: the image's configuration
// and, except in production, the bare program. An approval then holds whether or not Docker answers today.
func (w *Worker) WorkerDigests(context.Context) ([]enclave.Digest, error) {
	data, err := os.ReadFile(w.path)
	if err != nil {
		return nil, fmt.Errorf("worker program: %w (build it beside this program, or name it with --worker)", err)
	}
	img, err := image.New(data)
	if err != nil {
		return nil, fmt.Errorf("worker program: %w", err)
	}
	out := []enclave.Digest{img.Digest}
	if !w.production {
		out = append(out, canon.Sum(data))
	}
	slices.SortFunc(out, func(a, b enclave.Digest) int { return slices.Compare(a[:], b[:]) })
	return out, nil
}
