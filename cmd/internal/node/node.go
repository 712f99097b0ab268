// Package node sets up this machine as a lab's node, for the embedded lab and for labd. It holds no keys.
package node

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/node"
	"yingzhou.dev/lab/sandbox/runner/image"
)

// Worker runs the approved program on this machine, and says when a job may start.
type Worker struct {
	*node.Node
	Queue *node.Queue

	program    string
	production bool
}

// Config says what to run and how. The zero value is fine.
type Config struct {
	Program    string // path of the worker program; "" = beside this program
	Backend    string // "docker", "gvisor", "process" or "" = the best that is there
	Production bool   // refuse isolation that is for development only, and a machine that has not passed its check
	Dir        string // folder of the lab or service: tells its tasks from another's
	Leave      bool   // workers go on when the process ends, for the next one to take up
	State      string // folder for the result of the node's check; "" = Dir
	// Unfinished lists the jobs whose workers may be taken up after a restart; nil = none.
	Unfinished func(context.Context) ([]sandbox.Job, error)
}

// New makes a worker. Nothing is started.
func New(cfg Config) (*Worker, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the lab's folder: %w", err)
	}
	program, err := Program(cfg.Program)
	if err != nil {
		return nil, err
	}
	if cfg.State == "" {
		cfg.State = dir
	}
	w := &Worker{program: program, production: cfg.Production}
	if w.Node, err = node.New(node.Config{Program: program, Backend: cfg.Backend, Production: cfg.Production, Lab: dir, Leave: cfg.Leave,
		StateFile: filepath.Join(cfg.State, "node-check.json"), Unfinished: cfg.Unfinished}); err != nil {
		return nil, err
	}
	w.Queue, err = node.NewQueue(float64(runtime.NumCPU()), jobMemory())
	return w, err
}

// Program is the worker program: the one that was named, or the one beside this program.
func Program(named string) (string, error) { return beside(named, "worker") }

// Hostile is the attacker's program for the node's check, found in the same way.
func Hostile(named string) (string, error) { return beside(named, "hostile") }

func beside(named, name string) (string, error) {
	if named != "" {
		return named, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding the program %q: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// jobMemory is what jobs may have of this machine's memory, in MiB: three quarters; the rest is for the lab and the page
// cache that mapped inputs live in.
func jobMemory() int64 {
	const least = 1024
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return least
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int64
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			if _, err := fmt.Sscan(rest, &kib); err == nil {
				return max(least, kib>>10*3/4)
			}
		}
	}
	return least
}

// WorkerDigests names this lab's worker as each back end knows it, for a scenario to approve: the image's configuration
// and, except in production, the bare program. An approval then holds whether or not Docker answers today.
func (w *Worker) WorkerDigests(context.Context) ([]enclave.Digest, error) {
	data, err := os.ReadFile(w.program)
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
