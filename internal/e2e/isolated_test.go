package e2e

import (
	"bufio"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init() // this program is what a worker's sandbox is made from
	os.Exit(m.Run())
}

// BenchmarkIsolated is the real worker over a quarter of a million rows in 18 groups, as a plain process and in each kind of
// isolation, by turns, so that what else the machine does falls on all of them. It reports the least time of each between
// the worker's first line of progress and its last, which is the kernel's, and what isolation adds to it, in percent. LAB_DOCKER_GVISOR names the socket of a daemon that knows
// runsc, if not Docker's usual one.
func BenchmarkIsolated(b *testing.B) {
	dir := b.TempDir()
	worker := filepath.Join(b.TempDir(), "worker")
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-o", worker, "yingzhou.dev/lab/cmd/worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	task, _ := stage(b, dir, 1<<18, 18)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, enclave.TaskName), canon.MustMarshal(task), 0o644), os.Chmod(dir, 0o755)); err != nil {
		b.Fatal(err)
	}
	ways := map[string]func() time.Duration{"native": func() time.Duration { return native(b, worker, dir) }}
	for name, r := range backends(b) {
		image, _, err := r.Prepare(b.Context(), worker, enclave.Digest{})
		if err != nil {
			b.Fatal(err)
		}
		ways[name] = func() time.Duration {
			var lines span
			res, err := runner.Run(b.Context(), r, runner.Task{ID: "bench-" + name, Image: image, InputDir: dir, Progress: lines.note, Limits: runner.Limits{CPUs: float64(runtime.NumCPU()), MemoryMiB: 4096}})
			if err == nil {
				err = res.Err()
			}
			if err != nil {
				b.Fatal(err)
			}
			return lines.last.Sub(lines.first)
		}
	}
	least := map[string]time.Duration{}
	for b.Loop() {
		for name, run := range ways {
			d := run()
			if least[name] == 0 || d < least[name] {
				least[name] = d
			}
		}
	}
	for name, d := range least {
		b.ReportMetric(float64(d.Milliseconds()), name+"-ms")
		if name != "native" {
			b.ReportMetric(math.Round(1000*(float64(d)/float64(least["native"])-1))/10, name+"-%")
		}
	}
}

// span is the time between the first line and the last.
type span struct{ first, last time.Time }

func (s *span) note(string) {
	s.last = time.Now()
	if s.first.IsZero() {
		s.first = s.last
	}
}

func native(b *testing.B, worker, dir string) time.Duration {
	cmd := exec.CommandContext(b.Context(), worker, dir)
	cmd.Env = runner.Limits{CPUs: float64(runtime.NumCPU()), MemoryMiB: 4096}.Env()
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	var lines span
	for in := bufio.NewScanner(said); in.Scan(); {
		lines.note(in.Text())
	}
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	return lines.last.Sub(lines.first)
}

// backends are the kinds of isolation that are here.
func backends(b *testing.B) map[string]runner.Runner {
	out := map[string]runner.Runner{}
	add := func(name string, r interface {
		runner.Runner
		Close() error
	}, err error) {
		if err != nil {
			b.Logf("%s is not measured: %v", name, err)
			return
		}
		b.Cleanup(func() { r.Close() })
		out[name] = r
	}
	p, err := process.Open(b.Context(), process.Config{})
	add("process", p, err)
	d, err := docker.Open(b.Context(), docker.Config{Instance: "bench"})
	add("runc", d, err)
	g, err := docker.Open(b.Context(), docker.Config{Instance: "bench", Host: os.Getenv("LAB_DOCKER_GVISOR"), Runtime: "runsc"})
	add("runsc", g, err)
	return out
}
