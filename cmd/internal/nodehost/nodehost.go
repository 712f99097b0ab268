// Package nodehost runs a compute node on this machine: the program that was approved, in the best isolation there is, with
// its inputs, two sockets and nothing else. It does not read what a custodian tells its node.
package nodehost

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"yingzhou.dev/lab/cmd/internal/nodejob"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/image"
	"yingzhou.dev/lab/sandbox/runner/process"
)

// Config is what a host works with.
type Config struct {
	Program    string // path of the node's program
	Backend    string // "docker", "process" or "" = the best there is. gVisor connects to no sockets of the host's
	DockerHost string // "unix:///path/of/socket"; "" = the usual one
	Production bool   // refuse isolation for development
	Owner      string // absolute folder of whoever drives nodes here, by which its nodes are told from others'
}

// Host is this machine. Which isolation it has is found out at first use.
type Host struct {
	cfg Config

	mu       sync.Mutex
	runner   runner.Runner // nil until it is needed
	identity nodejob.Identity
	swept    bool
}

// New checks the configuration.
func New(cfg Config) (*Host, error) {
	if cfg.Program == "" || !filepath.IsAbs(cfg.Owner) {
		return nil, errors.New("host of compute nodes: it needs the node's program and the absolute folder of its owner")
	}
	switch cfg.Backend {
	case "", "docker", "process":
	default:
		return nil, fmt.Errorf("host of compute nodes: isolation %q is not docker or process", cfg.Backend)
	}
	return &Host{cfg: cfg}, nil
}

const labelOwner = "yingzhou.node.owner"

// Identify says which program this host runs, and in what. The first time it removes what an earlier process of the same
// owner left: an owner asks before it has anything run.
func (h *Host) Identify(ctx context.Context) (nodejob.Identity, error) {
	r, identity, err := h.ready(ctx)
	if err != nil {
		return identity, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.swept {
		return identity, nil
	}
	left, err := r.List(ctx, map[string]string{labelOwner: h.cfg.Owner})
	for _, old := range left {
		err = errors.Join(err, r.Remove(ctx, old))
	}
	if err != nil {
		return identity, fmt.Errorf("removing nodes that were left running: %w", err)
	}
	h.swept = true
	return identity, nil
}

func (h *Host) ready(ctx context.Context) (_ runner.Runner, _ nodejob.Identity, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.runner != nil {
		return h.runner, h.identity, nil
	}
	var id nodejob.Identity
	if id.Program, id.Image, err = image.Names(h.cfg.Program); err != nil {
		return nil, id, fmt.Errorf("program of the compute node: %w", err)
	}
	instance := "node-" + canon.Sum([]byte(h.cfg.Owner)).Short()
	r, _, err := runner.Choose(ctx, h.cfg.Production, h.cfg.Backend,
		runner.Candidate{Name: "docker", Open: func(ctx context.Context) (runner.Runner, error) {
			return docker.Open(ctx, docker.Config{Host: h.cfg.DockerHost, Instance: instance})
		}},
		runner.Candidate{Name: "process", Open: func(ctx context.Context) (runner.Runner, error) { return process.Open(ctx, process.Config{}) }})
	if err != nil {
		return nil, id, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeRunner(r))
		}
	}()
	isolation, err := r.Probe(ctx)
	if err != nil {
		return nil, id, err
	}
	id.Isolation, id.Development = isolation.With("sockets-given").String(), isolation.Development
	h.runner, h.identity = r, id
	return r, id, nil
}

// Run runs a node to its end and returns its output. When ctx ends first the node is killed.
func (h *Host) Run(ctx context.Context, run nodejob.Run) ([]byte, error) {
	r, id, err := h.ready(ctx)
	if err != nil {
		return nil, err
	}
	if run.Program != id.Program {
		return nil, &runner.DigestError{Worker: h.cfg.Program, Want: run.Program, Got: id.Program}
	}
	want := id.Program // of what is prepared, which is a copy of the file as it is now
	if strings.HasPrefix(id.Isolation, "docker/") {
		want = id.Image
	}
	img, _, err := r.Prepare(ctx, h.cfg.Program, want)
	if err != nil {
		return nil, err
	}
	limits := run.Limits.OrDefault()
	task := runner.Task{ID: run.ID, Image: img, Args: []string{runner.InputFolder, runner.LinkFolder}, InputDir: run.Inputs, LinkDir: run.Links, Stdin: run.Stdin,
		Limits: runner.Limits{CPUs: limits.CPUs, MemoryMiB: limits.MemoryMiB, Deadline: limits.Time, OutputBytes: maxOutput},
		Labels: map[string]string{labelOwner: h.cfg.Owner}, Progress: run.Progress}
	res, err := runner.Run(ctx, r, task)
	if err != nil {
		return nil, err
	}
	return res.Stdout, failure(res, task.Limits)
}

// Remove removes a node that an earlier process left, if it is there.
func (h *Host) Remove(ctx context.Context, id string) error {
	r, _, err := h.ready(ctx)
	if err != nil {
		return err
	}
	return r.Remove(ctx, runner.Handle(id))
}

// maxOutput bounds what a node answers: components of a few numbers for each cell.
const maxOutput = 64 << 20

// failure says in words for whoever runs the machine why a node has no answer.
func failure(res runner.Result, limits runner.Limits) error {
	switch res.Killed {
	case runner.OOM:
		return fmt.Errorf("out of memory at %d MiB", limits.MemoryMiB)
	case runner.Deadline:
		return fmt.Errorf("stopped after %v, the longest that a node may take", limits.Deadline)
	case runner.Outside:
		return errors.New("somebody or something on its machine killed it")
	case "":
		if res.Exit == 0 {
			return nil
		}
		lines := strings.Split(strings.TrimSpace(string(res.Stderr)), "\n")
		return fmt.Errorf("it ended with code %d: %s", res.Exit, strings.TrimPrefix(lines[len(lines)-1], "node: "))
	}
	return res.Err()
}

// Close ends use of the back end, if one was opened.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return closeRunner(h.runner)
}

func closeRunner(r runner.Runner) error {
	if c, ok := r.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}
