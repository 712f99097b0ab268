// Package node runs workers on this machine for the control plane: it chooses the isolation, takes the approved program
// over, lets so many jobs run at a time as the machine can carry, and takes up what an earlier process left running.
//
// In production it runs nothing on a machine that has not passed the battery (Check) as it is now.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/process"
)

// Config is what a node works with.
type Config struct {
	Program    string        // path of the worker program
	Backend    string        // "docker", "gvisor", "process" or "" = the best there is, which is not gvisor: it is slow to start
	DockerHost string        // "unix:///path/of/socket"; "" = the usual one
	Production bool          // refuse isolation for development, and a machine that has not passed Check
	Lab        string        // absolute folder of the lab, by which its tasks are told from other labs'
	StateFile  string        // where Check notes its result
	Deadline   time.Duration // longest that a job may take; 0 = runner.DefaultLimits
	// Leave has workers go on when Run's context ends because the process does, if the back end can take them up again.
	// Where the job was cancelled, or is another process's by now, they are killed all the same.
	Leave bool
	// Unfinished lists the jobs whose workers may be taken up. nil = none: what an earlier process left is removed.
	Unfinished func(context.Context) ([]sandbox.Job, error)
}

// Node is this machine. Which isolation it has is found out at first use: most commands run no worker.
type Node struct {
	cfg      Config
	instance string

	mu        sync.Mutex
	runner    runner.Runner
	why       string
	isolation runner.Isolation
	program   enclave.Digest
}

var _ lab.Worker = (*Node)(nil)

// New checks the configuration.
func New(cfg Config) (*Node, error) {
	if cfg.Program == "" || !filepath.IsAbs(cfg.Lab) || cfg.StateFile == "" {
		return nil, errors.New("node: it needs a worker program, the absolute folder of the lab and a file for its state")
	}
	return &Node{cfg: cfg, instance: "lab-" + canon.Sum([]byte(cfg.Lab)).Short()}, nil
}

// Labels of a task.
const (
	labelLab = "yingzhou.lab"
	labelJob = "yingzhou.job"
)

// candidates are the kinds of isolation, best first.
func (n *Node) candidates() []runner.Candidate {
	engine := func(runtime string) func(context.Context) (runner.Runner, error) {
		return func(ctx context.Context) (runner.Runner, error) {
			return docker.Open(ctx, docker.Config{Host: n.cfg.DockerHost, Runtime: runtime, Instance: n.instance})
		}
	}
	list := []runner.Candidate{{Name: "docker", Open: engine("")},
		{Name: "process", Open: func(ctx context.Context) (runner.Runner, error) { return process.Open(ctx, process.Config{}) }}}
	if n.cfg.Backend == "gvisor" {
		list = append(list, runner.Candidate{Name: "gvisor", Open: engine("runsc")})
	}
	return list
}

// choose opens the back end.
func (n *Node) choose(ctx context.Context) (runner.Runner, string, error) {
	return runner.Choose(ctx, n.cfg.Production, n.cfg.Backend, n.candidates()...)
}

// ready opens the back end once, takes the program over and looks after what an earlier process left.
func (n *Node) ready(ctx context.Context) (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.runner != nil {
		return nil
	}
	if _, err := os.Stat(n.cfg.Program); err != nil {
		return fmt.Errorf("worker program: %w (build it beside this program, or name it with --worker)", err)
	}
	r, why, err := n.choose(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeRunner(r))
		}
	}()
	isolation, err := r.Probe(ctx)
	if err != nil {
		return err
	}
	if n.cfg.Production {
		if err := n.checked(isolation); err != nil {
			return err
		}
	}
	_, program, err := r.Prepare(ctx, n.cfg.Program, enclave.Digest{})
	if err != nil {
		return err
	}
	if err := n.removeOrphans(ctx, r); err != nil {
		return fmt.Errorf("removing workers that were left running: %w", err)
	}
	n.runner, n.why, n.isolation, n.program = r, why, isolation, program
	return nil
}

// Tidy removes what is left here of jobs that have ended since, in another process perhaps, which took them up when an
// earlier one of this node was killed. It may run while jobs do. A node that has run nothing yet has nothing to tidy: it
// looks when it begins.
func (n *Node) Tidy(ctx context.Context) error {
	n.mu.Lock()
	r := n.runner
	n.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := n.removeOrphans(ctx, r); err != nil {
		return fmt.Errorf("removing workers that were left running: %w", err)
	}
	return nil
}

// removeOrphans removes what a killed process left running for jobs that have ended since: a container outlives whoever
// started it. Nobody else runs tasks under this lab's or service's folder. What runs is listed before the jobs are: a job
// that begins meanwhile is not in the list.
func (n *Node) removeOrphans(ctx context.Context, r runner.Runner) error {
	left, err := r.List(ctx, map[string]string{labelLab: n.cfg.Lab})
	if err != nil || len(left) == 0 {
		return err
	}
	keep := map[runner.Handle]bool{}
	if n.cfg.Unfinished != nil {
		jobs, err := n.cfg.Unfinished(ctx)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			keep[runner.Handle(j.ID)] = true
		}
	}
	for _, h := range left {
		if keep[h] {
			continue
		}
		if err := r.Remove(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// Close ends use of the back end, if one was opened.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return closeRunner(n.runner)
}

func closeRunner(r runner.Runner) error {
	if c, ok := r.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}

// Identify implements lab.Worker.
func (n *Node) Identify(ctx context.Context) (enclave.Digest, error) {
	err := n.ready(ctx)
	return n.program, err
}

// Isolation says what stands between a worker and the machine, and why nothing better does.
func (n *Node) Isolation(ctx context.Context) (isolation, why string, err error) {
	if err := n.ready(ctx); err != nil {
		return "", "", err
	}
	return n.isolation.String(), n.why, nil
}

// Memory of a worker, in MiB.
const (
	leastMemory = 512 // however little a job needs by its estimate
	memorySlack = 2   // an estimate may be half of what it should be
)

// limits are what a job's worker may take: its estimate, with room to be wrong.
func (n *Node) limits(need lab.Need) runner.Limits {
	return runner.Limits{CPUs: need.CPUs, MemoryMiB: max(leastMemory, memorySlack*need.MemoryMiB), Deadline: n.cfg.Deadline}
}

// Run implements lab.Worker.
func (n *Node) Run(ctx context.Context, t lab.WorkerTask, progress func(percent int64)) (lab.WorkerResult, error) {
	if err := n.ready(ctx); err != nil {
		return lab.WorkerResult{}, err
	}
	img, _, err := n.runner.Prepare(ctx, n.cfg.Program, t.Program)
	if err != nil {
		return lab.WorkerResult{}, err
	}
	dir, err := filepath.Abs(t.Dir)
	if err != nil {
		return lab.WorkerResult{}, err
	}
	task := runner.Task{ID: string(t.Job), Image: img, InputDir: dir, Labels: map[string]string{labelLab: n.cfg.Lab, labelJob: string(t.Job)}, Limits: n.limits(t.Need),
		Progress: func(line string) {
			if f, ok := strings.CutPrefix(line, "progress "); ok {
				if v, err := strconv.ParseFloat(f, 64); err == nil && v >= 0 && v <= 1 {
					progress(int64(v * 100))
				}
			}
		}}
	ctx, stop := n.life(ctx)
	defer stop()
	res, err := runner.Run(ctx, n.runner, task)
	if err = failure(res, err, task.Limits, t.Need); err != nil {
		return lab.WorkerResult{}, err
	}
	return lab.WorkerResult{Output: res.Stdout, Isolation: res.Isolation.String(), Adopted: res.Adopted, Started: res.Started, Ended: res.Ended}, nil
}

// life is the context of a worker: it ends with ctx, but for a reason that says whether the worker goes on.
func (n *Node) life(ctx context.Context) (context.Context, func()) {
	if _, adopts := n.runner.(runner.Adopter); !n.cfg.Leave || !adopts {
		return ctx, func() {}
	}
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if !errors.Is(cause, sandbox.ErrCancelled) && !errors.Is(cause, sandbox.ErrFenced) && !errors.Is(cause, context.DeadlineExceeded) {
			cause = runner.ErrLeave
		}
		end(cause)
	})
	return life, func() { stop(); end(nil) }
}

// failure says in words for an operator why a worker has no answer.
func failure(res runner.Result, err error, limits runner.Limits, need lab.Need) error {
	switch {
	case errors.Is(err, runner.ErrUnavailable):
		return fmt.Errorf("%w: %w", lab.ErrInterrupted, err)
	case errors.Is(err, runner.ErrLeave):
		return fmt.Errorf("%w: %w", lab.ErrLeft, err)
	case err != nil:
		return err
	case res.Killed == runner.Outside:
		return fmt.Errorf("%w: somebody or something on the node killed it", lab.ErrInterrupted)
	case res.Killed == runner.OOM:
		return fmt.Errorf("out of memory at %d MiB; the plan estimated %d", limits.MemoryMiB, need.MemoryMiB)
	case res.Killed == runner.Deadline:
		return fmt.Errorf("the worker was stopped after %v, the longest that a job may take%s", res.Ended.Sub(res.Started).Round(time.Second), said(res.Stderr))
	case res.Killed != "":
		return fmt.Errorf("worker was killed: %s%s", res.Killed, said(res.Stderr))
	case res.Exit != 0:
		return fmt.Errorf("worker ended with code %d%s", res.Exit, said(res.Stderr))
	}
	return nil
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
