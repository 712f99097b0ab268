package docker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/internal/dockertest"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
)

// TestDaemonStopped stops the daemon under a running worker, which it takes with it. The caller hears of it at once; when
// the daemon is back the same task runs again, and nothing is left of the first.
func TestDaemonStopped(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon twice")
	}
	d := dockertest.Start(t)
	r := open(t, docker.Config{Host: d.Host})
	s := runnertest.New(t, r)
	task := s.Task(t, "spin")
	task.Progress = func(string) { go d.Signal(t, unix.SIGTERM) }
	start := time.Now()
	res, err := runner.Run(t.Context(), r, task)
	if res.Killed != runner.Outside && !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("a worker that was stopped with its daemon: killed %q, %v", res.Killed, err)
	}
	t.Logf("after %v: killed %q, %v", time.Since(start).Round(time.Millisecond), res.Killed, err)
	if time.Since(start) > time.Minute {
		t.Errorf("it took %v to notice", time.Since(start))
	}
	d.Stop(t)
	if _, err := r.Probe(t.Context()); !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("without a daemon: %v", err)
	}
	d.Run(t)
	task.Args, task.Progress = []string{"exit", "0"}, nil
	if res, err := runner.Run(t.Context(), r, task); err != nil || res.Exit != 0 {
		t.Errorf("after the restart: exit %d, %v", res.Exit, err)
	}
	if left, err := r.List(t.Context(), nil); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestDaemonHangs freezes the daemon under a running worker: the deadline comes and the caller is told, although nothing
// can be killed. When the daemon goes on, the worker that was left is found and removed.
func TestDaemonHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a daemon that hangs")
	}
	d := dockertest.Start(t)
	r := open(t, docker.Config{Host: d.Host})
	s := runnertest.New(t, r)
	task := s.Task(t, "spin")
	task.Limits.Deadline = 2 * time.Second
	task.Progress = func(string) {
		r.SetPatience(time.Second) // it started in time; what follows does not
		d.Signal(t, unix.SIGSTOP)
	}
	start := time.Now()
	_, err := runner.Run(t.Context(), r, task)
	if !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("with a daemon that hangs: %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	d.Signal(t, unix.SIGCONT)
	r.SetPatience(30 * time.Second)
	task.Args, task.Progress = []string{"exit", "0"}, nil
	if res, err := runner.Run(t.Context(), r, task); err != nil || res.Exit != 0 {
		t.Errorf("after it went on: exit %d, %v", res.Exit, err)
	}
	if left, err := r.List(t.Context(), nil); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestDiskFull fills the engine's disk: the worker is not prepared, the reason is said, and nothing half is left.
func TestDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	d := dockertest.Start(t)
	r := open(t, docker.Config{Host: d.Host})
	worker := runnertest.Hostile(t)
	small := filepath.Join(d.Dir, "data", "tmp") // where it unpacks archives
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"); err != nil {
		dockertest.Skip(t, "nothing can be mounted here: %v", err)
	}
	_, _, err := r.Prepare(t.Context(), worker, enclave.Digest{})
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("on a full disk: %v", err)
	}
	if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Prepare(t.Context(), worker, enclave.Digest{}); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// TestTwoLabs has two labs use one engine and one task ID.
func TestTwoLabs(t *testing.T) {
	one := runnertest.New(t, open(t, docker.Config{Instance: fmt.Sprintf("one-%d", os.Getpid())}))
	two := runnertest.New(t, open(t, docker.Config{Instance: fmt.Sprintf("two-%d", os.Getpid())}))
	task := one.Task(t, "spin")
	h, err := one.Runner.Start(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	task.Args = []string{"exit", "4"}
	if res, err := runner.Run(t.Context(), two.Runner, task); err != nil || res.Exit != 4 {
		t.Errorf("the other lab's task of the same ID: exit %d, %v", res.Exit, err)
	}
	if err := two.Runner.Remove(t.Context(), h); err != nil {
		t.Error(err)
	}
	if list, err := one.Runner.List(t.Context(), nil); err != nil || len(list) != 1 {
		t.Errorf("the first lab has %v, %v", list, err)
	}
	if err := one.Runner.Remove(t.Context(), h); err != nil {
		t.Error(err)
	}
}

// TestLogDriver sees that output is on no disk of the engine's.
func TestLogDriver(t *testing.T) {
	r := open(t, docker.Config{})
	s := runnertest.New(t, r)
	said := make(chan struct{})
	var once sync.Once
	task := s.Task(t, "spin")
	task.Progress = func(string) { once.Do(func() { close(said) }) }
	h, err := r.Start(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	<-said
	if path, err := r.LogPath(t.Context(), h); err != nil || path != "" {
		t.Errorf("the engine keeps a log at %q, %v", path, err)
	}
	if err := r.Remove(t.Context(), h); err != nil {
		t.Error(err)
	}
}

// traces is everything that a task could leave on a machine: what the engine lists, and what lies under it.
func traces(t *testing.T, d *dockertest.Daemon, r *docker.Runner, temp string) map[string][]string {
	t.Helper()
	containers, networks, err := r.Everything(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{"containers": containers, "networks": networks}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], d.Dir) || strings.HasPrefix(f[4], temp) {
			out["mounts"] = append(out["mounts"], f[4])
		}
	}
	list := func(kind string, patterns ...string) {
		for _, p := range patterns {
			found, err := filepath.Glob(p)
			if err != nil {
				t.Fatal(err)
			}
			out[kind] = append(out[kind], found...)
		}
		slices.Sort(out[kind])
	}
	// Groups of other daemons' containers come and go here; ours are known by their daemon's network namespaces only, so
	// they are counted by the names that this daemon gave.
	list("files", d.Dir+"/data/containers/*", d.Dir+"/data/overlay2/*", d.Dir+"/data/volumes/*", d.Dir+"/exec/netns/*",
		d.Dir+"/exec/containerd/daemon/*/moby/*", d.Dir+"/exec/runtime-runc/moby/*", temp+"/*")
	slices.Sort(out["mounts"])
	return out
}

// TestNothingIsLeft makes tasks end in every bad way and compares the machine before and after.
func TestNothingIsLeft(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	d := dockertest.Start(t)
	r := open(t, docker.Config{Host: d.Host})
	s := runnertest.New(t, r)
	if _, err := runner.Run(t.Context(), r, s.Task(t, "exit", "0")); err != nil { // what the engine makes once
		t.Fatal(err)
	}
	temp := t.TempDir()
	before := traces(t, d, r, temp)
	var groups []string
	run := func(name string, want func(runner.Result, error) bool, change func(*runner.Task), args ...string) {
		task := s.Task(t, args...)
		task.Limits.MemoryMiB = 64
		task.Progress = func(string) { groups = append(groups, r.Groups(t.Context(), runner.Handle(task.ID))...) }
		if change != nil {
			change(&task)
		}
		if res, err := runner.Run(t.Context(), r, task); !want(res, err) {
			t.Errorf("%s: killed %q, exit %d, %v", name, res.Killed, res.Exit, err)
		}
	}
	killed := func(cause string) func(runner.Result, error) bool {
		return func(res runner.Result, err error) bool { return err == nil && res.Killed == cause }
	}
	failed := func(_ runner.Result, err error) bool { return err != nil }
	run("deadline", killed(runner.Deadline), func(t *runner.Task) { t.Limits.Deadline = 300 * time.Millisecond }, "spin")
	run("memory", killed(runner.OOM), nil, "hog")
	run("output", killed(runner.Output), func(t *runner.Task) { t.Limits.OutputBytes = 1000 }, "flood")
	run("a bad exit", func(res runner.Result, err error) bool { return err == nil && res.Exit == 9 }, nil, "exit", "9")
	run("an unknown image", failed, func(t *runner.Task) { t.Image = enclave.Digest{1}.String() }, "exit", "0")
	run("a limit that the engine refuses", failed, func(t *runner.Task) { t.Limits.CPUs = 1000 }, "exit", "0")
	run("inputs that go away", failed, func(task *runner.Task) { r.BeforeCreate(func() { os.RemoveAll(task.InputDir) }) }, "exit", "0")
	r.BeforeCreate(nil)
	ctx, cancel := context.WithCancel(t.Context())
	task := s.Task(t, "spin")
	task.Progress = func(string) { cancel() }
	if _, err := runner.Run(ctx, r, task); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if diff := cmp.Diff(before, traces(t, d, r, temp)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	if len(groups) == 0 {
		t.Error("no control group was seen while tasks ran")
	}
	for _, g := range groups {
		if _, err := os.Stat(g); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("control group %s is left: %v", g, err)
		}
	}
}
