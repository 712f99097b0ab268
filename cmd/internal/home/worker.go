package home

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

// WorkerPath is the worker program: the one that was named, or the one beside this program.
func WorkerPath(named string) (string, error) { return beside(named, "worker") }

// HostilePath is the attacker's program for the node's check, found in the same way.
func HostilePath(named string) (string, error) { return beside(named, "hostile") }

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

// openNode sets up this machine as the lab's node, and its queue.
func (h *Home) openNode() error {
	dir, err := filepath.Abs(h.Dir)
	if err != nil {
		return fmt.Errorf("finding the lab's folder: %w", err)
	}
	program, err := WorkerPath(h.opts.Worker)
	if err != nil {
		return err
	}
	h.program = program
	h.node, err = node.New(node.Config{Program: program, Backend: h.opts.Backend, Production: h.Production, Lab: dir, StateFile: h.path("plane", "node-check.json"),
		Unfinished: func(ctx context.Context) ([]sandbox.Job, error) { return h.Lab.Unfinished(ctx) }})
	if err != nil {
		return err
	}
	h.closers = append(h.closers, h.node)
	h.queue, err = node.NewQueue(float64(runtime.NumCPU()), jobMemory())
	return err
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

// Node is the machine that runs the lab's workers.
func (h *Home) Node() *node.Node { return h.node }

// Isolation says what stands between a worker and the machine, and why nothing better does.
func (h *Home) Isolation(ctx context.Context) (isolation, why string, err error) {
	return h.node.Isolation(ctx)
}

// WorkerDigests names this lab's worker as each back end knows it, for a scenario to approve: the image's configuration
// and, except in production, the bare program. An approval then holds whether or not Docker answers today.
func (h *Home) WorkerDigests(ctx context.Context) ([]enclave.Digest, error) {
	data, err := os.ReadFile(h.program)
	if err != nil {
		return nil, fmt.Errorf("worker program: %w (build it beside this program, or name it with --worker)", err)
	}
	img, err := image.New(data)
	if err != nil {
		return nil, fmt.Errorf("worker program: %w", err)
	}
	out := []enclave.Digest{img.Digest}
	if !h.Production {
		out = append(out, canon.Sum(data))
	}
	slices.SortFunc(out, func(a, b enclave.Digest) int { return slices.Compare(a[:], b[:]) })
	return out, nil
}
