// Package node sets up this machine as the node of a lab, for the embedded lab and for labd: the approved worker program,
// the best isolation there is, and a queue for what the machine can carry. It holds no keys.
package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// StateName is the name of the file in which a labd's state folder keeps the result of its node's check.
const StateName = "node-check.json"

// Config says what to run and how.
type Config struct {
	Program    string // path of the worker program; "" = beside this program
	Compute    string // path of the compute nodes' program, whose digests are approved too; "" = beside the worker
	Backend    string // "docker", "gvisor", "process" or "" = the best that is there
	Production bool   // refuse isolation that is for development only, and a machine that has not passed its check
	Dir        string // folder of the lab or service: tells its tasks from another's
	Leave      bool   // workers go on when the process ends, for the next one to take up
	StateFile  string // where the check notes its result
	// Unfinished lists the jobs whose workers may be taken up after a restart.
	Unfinished func(context.Context) ([]sandbox.Job, error)
}

// Machine is this machine as a node.
type Machine struct {
	*node.Node
	Queue *node.Queue

	program    string
	compute    string
	production bool
}

// New sets a machine up. Nothing is started.
func New(cfg Config) (*Machine, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the lab's folder: %w", err)
	}
	m := &Machine{production: cfg.Production, compute: cfg.Compute}
	if m.program, err = WorkerPath(cfg.Program); err != nil {
		return nil, err
	}
	m.Node, err = node.New(node.Config{Program: m.program, Backend: cfg.Backend, Production: cfg.Production, Lab: dir, Leave: cfg.Leave, StateFile: cfg.StateFile, Unfinished: cfg.Unfinished})
	if err != nil {
		return nil, err
	}
	m.Queue, err = node.NewQueue(float64(runtime.NumCPU()), jobMemory())
	return m, err
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

// ComputeProgram is the path of the compute nodes' program: the one that was named, or the one beside the worker.
func (m *Machine) ComputeProgram() string {
	if m.compute != "" {
		return m.compute
	}
	return filepath.Join(filepath.Dir(m.program), "node")
}

// computeDigests name the compute nodes' program as each kind of isolation knows it, for a scenario to approve; none if
// there is no such program.
func (m *Machine) computeDigests() ([]enclave.Digest, error) {
	program, img, err := image.Names(m.ComputeProgram())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("program of the compute nodes: %w", err)
	case m.production:
		return []enclave.Digest{img}, nil
	}
	return []enclave.Digest{img, program}, nil
}

// WorkerDigests names this lab's worker as each back end knows it, for a scenario to approve: the image's configuration
// and, except in production, the bare program. An approval then holds whether or not Docker answers today.
func (m *Machine) WorkerDigests(context.Context) ([]enclave.Digest, error) {
	data, err := os.ReadFile(m.program)
	if err != nil {
		return nil, fmt.Errorf("worker program: %w (build it beside this program, or name it with --worker)", err)
	}
	img, err := image.New(data)
	if err != nil {
		return nil, fmt.Errorf("worker program: %w", err)
	}
	out := []enclave.Digest{img.Digest}
	if !m.production {
		out = append(out, canon.Sum(data))
	}
	nodes, err := m.computeDigests()
	if err != nil {
		return nil, err
	}
	out = append(out, nodes...)
	slices.SortFunc(out, func(a, b enclave.Digest) int { return slices.Compare(a[:], b[:]) })
	return out, nil
}
