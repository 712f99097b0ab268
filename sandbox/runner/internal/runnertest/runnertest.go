// Package runnertest is what every back end of runner must pass: good workers run, and a hostile one gets nowhere.
package runnertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
)

// Build compiles a package of this module, named by its import path, as a static program.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, text)
	}
	return out
}

// Hostile builds the worker that the suite runs.
func Hostile(t testing.TB) string {
	return Build(t, "yingzhou.dev/lab/sandbox/runner/internal/runnertest/testdata/hostile")
}

// Inputs makes a folder with a file called data, below a folder that only its owner may enter.
func Inputs(t testing.TB) string {
	t.Helper()
	closed := filepath.Join(t.TempDir(), "closed")
	dir := filepath.Join(closed, "in")
	if err := errors.Join(os.Mkdir(closed, 0o700), os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "data"), []byte("sealed bytes"), 0o444)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Suite is a back end under test.
type Suite struct {
	Runner  runner.Runner
	Image   string // of Hostile
	Hostile string // its path
	n       int
}

// New prepares the hostile worker.
func New(t testing.TB, r runner.Runner) *Suite {
	t.Helper()
	s := &Suite{Runner: r, Hostile: Hostile(t)}
	var err error
	if s.Image, _, err = r.Prepare(t.Context(), s.Hostile, enclave.Digest{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// Task is one that runs the hostile worker.
func (s *Suite) Task(t testing.TB, args ...string) runner.Task {
	s.n++
	return runner.Task{ID: fmt.Sprintf("test-%d-%d", os.Getpid(), s.n), Image: s.Image, Args: args, InputDir: Inputs(t),
		Labels: map[string]string{"suite": t.Name()},
		Limits: runner.Limits{CPUs: 2, MemoryMiB: 256, Pids: 64, TmpMiB: 4, OutputBytes: 2 << 20, Deadline: 30 * time.Second}}
}

func (s *Suite) run(t *testing.T, task runner.Task) runner.Result {
	t.Helper()
	start := time.Now()
	res, err := runner.Run(t.Context(), s.Runner, task)
	if err != nil {
		t.Fatalf("%v: %v", task.Args, err)
	}
	t.Logf("%v: exit %d, killed %q, %v", task.Args, res.Exit, res.Killed, time.Since(start).Round(time.Millisecond))
	return res
}

// Run runs everything. Each part leaves no task behind.
func (s *Suite) Run(t *testing.T) {
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Echo", s.echo}, {"Exit", s.exit}, {"Attack", s.attack}, {"LargeInput", s.largeInput}, {"Limits", s.limits},
		{"Lifecycle", s.lifecycle}, {"Cancel", s.cancel}, {"Parallel", s.parallel}, {"Refusals", s.refusals}, {"Pinned", s.pinned},
		{"Stdin", s.stdin}, {"Links", s.links},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.test(t)
			if left, err := s.Runner.List(t.Context(), nil); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func (s *Suite) echo(t *testing.T) {
	want, err := s.Runner.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/in/data", "data"} {
		if path[0] == '/' && !want.Has("input-readonly") {
			continue // it is not mounted there
		}
		var lines []string
		task := s.Task(t, "echo", path)
		task.Progress = func(l string) { lines = append(lines, l) }
		res := s.run(t, task)
		if got := string(res.Stdout); got != "sealed bytes" || res.Err() != nil {
			t.Errorf("%q: %v", got, res.Err())
		}
		if diff := cmp.Diff([]string{"progress 0.50", "progress 1.00"}, lines); diff != "" {
			t.Errorf("progress (-want +got):\n%s", diff)
		}
		if res.Isolation.String() != want.String() {
			t.Errorf("in force: %s\nprobed:   %s", res.Isolation, want)
		}
		if res.Started.IsZero() || res.Ended.Before(res.Started) {
			t.Errorf("started %v, ended %v", res.Started, res.Ended)
		}
	}
	t.Log(want)
	res := s.run(t, s.Task(t, "dump"))
	if len(res.Stdout) != 1<<20 || res.Err() != nil {
		t.Errorf("%d bytes, %v", len(res.Stdout), res.Err())
	}
}

// stdin tells a worker more than pipes hold, and one that does not listen.
func (s *Suite) stdin(t *testing.T) {
	said := bytes.Repeat([]byte("a secret "), 40_000)
	task := s.Task(t, "stdin")
	task.Stdin = said
	if res := s.run(t, task); !bytes.Equal(res.Stdout, said) || res.Err() != nil {
		t.Errorf("%d bytes of %d came back, %v", len(res.Stdout), len(said), res.Err())
	}
	task = s.Task(t, "stdin")
	task.Stdin = []byte{}
	if res := s.run(t, task); string(res.Stderr) != "read 0\n" || res.Err() != nil {
		t.Errorf("an empty input: %s, %v", res.Stderr, res.Err())
	}
	if res := s.run(t, s.Task(t, "stdin")); string(res.Stderr) != "read 0\n" || res.Err() != nil {
		t.Errorf("no input: %s, %v", res.Stderr, res.Err())
	}
	task = s.Task(t, "exit", "3")
	task.Stdin = said
	if res := s.run(t, task); res.Exit != 3 {
		t.Errorf("a worker that does not listen: exit %d, %v", res.Exit, res.Err())
	}
	plain := s.Task(t, "stdin")
	task = plain
	task.Stdin = said
	if task.Fingerprint() != plain.Fingerprint() {
		t.Error("what a worker is told shows in its fingerprint")
	}
}

// Links makes a folder with sockets, each of which answers its own name to whoever says it, below a closed folder.
func Links(t testing.TB, names ...string) string {
	t.Helper()
	closed, err := os.MkdirTemp("", "links-") // socket names are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(closed) })
	dir := filepath.Join(closed, "l")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		l, err := net.Listen("unix", path)
		if err == nil {
			err = os.Chmod(path, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
		var served sync.WaitGroup
		t.Cleanup(func() { l.Close(); served.Wait() })
		served.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				said, _ := io.ReadAll(c)
				fmt.Fprintf(c, "%s here, not %s", name, said)
				c.Close()
			}
		})
	}
	return dir
}

// links gives a worker two sockets, and sees that it gets these and nothing else.
func (s *Suite) links(t *testing.T) {
	want, err := s.Runner.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	task := s.Task(t, "links", runner.LinkFolder, "next", "prev")
	task.LinkDir = Links(t, "next", "prev")
	res := s.run(t, task)
	if err := res.Err(); err != nil {
		t.Fatalf("%v\n%s", err, res.Stderr)
	}
	if diff := cmp.Diff(want.With("sockets-given").String(), res.Isolation.String()); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	got := map[string]string{}
	if err := json.Unmarshal(res.Stdout, &got); err != nil {
		t.Fatal(err)
	}
	for name, result := range got {
		if peer, ok := strings.CutPrefix(name, "answer-"); ok {
			if result != fmt.Sprintf("%s here, not %s", peer, peer) {
				t.Errorf("%s answers %q", peer, result)
			}
			delete(got, name)
		} else if result == "" {
			t.Errorf("%s worked", name)
		}
	}
	if names, err := os.ReadDir(task.LinkDir); err != nil || len(names) != 2 {
		t.Errorf("the folder was changed: %v, %v", names, err)
	}
	t.Log(got)

	for what, spoil := range map[string]func(dir string) error{
		"a file":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644) },
		"closed":   func(dir string) error { return os.Chmod(dir, 0o700) },
		"not here": os.RemoveAll,
	} {
		task := s.Task(t, "links", runner.LinkFolder)
		task.LinkDir = Links(t, "next")
		if err := spoil(task.LinkDir); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Runner.Start(t.Context(), task); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func (s *Suite) exit(t *testing.T) {
	res := s.run(t, s.Task(t, "exit", "7"))
	if res.Exit != 7 || res.Killed != "" || string(res.Stderr) != "last words\n" {
		t.Errorf("%+v", res)
	}
	if err := res.Err(); err == nil || !strings.Contains(err.Error(), "code 7") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("error is %v", err)
	}
}

// Attack returns what became of each thing that the hostile worker tried.
func (s *Suite) Attack(t *testing.T, loopback string) map[string]string {
	t.Helper()
	task := s.Task(t, "attack", loopback)
	res := s.run(t, task)
	if err := res.Err(); err != nil {
		t.Fatalf("%v\n%s", err, res.Stderr)
	}
	got := map[string]string{}
	if err := json.Unmarshal(res.Stdout, &got); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(task.InputDir); len(names) != 1 {
		t.Errorf("inputs were changed: %v", names)
	}
	return got
}

// Facts are what attack reports that are no attacks.
var facts = []string{"pid", "uid", "gid", "env", "hostname", "wd", "listing", "interfaces", "tmp"}

func (s *Suite) attack(t *testing.T) {
	got := s.Attack(t, "")
	isolation, err := s.Runner.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, result := range got {
		if result == "" && !slices.Contains(facts, name) {
			t.Errorf("%s worked", name)
		}
	}
	if !isolation.Has("input-readonly") {
		return // what a plain process sees of its host is its caller's to judge
	}
	want := map[string]string{"pid": "1", "uid": "65532", "gid": "65532", "wd": "/in<nil>", "tmp": "", "interfaces": "[]", "hostname": "worker<nil>"}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	if env := got["env"]; !strings.Contains(env, "GOMAXPROCS=2") || strings.Contains(env, "PATH=/root") {
		t.Errorf("environment is %s", env)
	}
	for _, bad := range []string{"inet", "unix", "vsock", "netlink", "packet"} {
		if result := got["socket-"+bad]; !strings.Contains(result, "not permitted") {
			t.Errorf("socket %s: %s", bad, result)
		}
	}
	t.Logf("root: %s", got["listing"])
}

// largeInput maps more than the memory limit: page cache is charged to the task but given back.
func (s *Suite) largeInput(t *testing.T) {
	task := s.Task(t, "map", "big")
	const size = 1<<30 + 4096
	f, err := os.Create(filepath.Join(task.InputDir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	if res := s.run(t, task); res.Err() != nil || string(res.Stdout) != fmt.Sprint(size, " ", 0) {
		t.Errorf("%v: %s", res.Err(), res.Stdout)
	}
	if res := s.run(t, s.Task(t, "maps", "data", "900")); res.Err() != nil || string(res.Stdout) != "mapped" {
		t.Errorf("mapping 900 files: %v", res.Err())
	}
}

func (s *Suite) limits(t *testing.T) {
	isolation, err := s.Runner.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("memory", func(t *testing.T) {
		task := s.Task(t, "hog")
		task.Limits.MemoryMiB = 64
		res := s.run(t, task)
		if isolation.Has("cgroup-memory") && res.Killed != runner.OOM || res.Err() == nil {
			t.Errorf("killed %q, exit %d", res.Killed, res.Exit)
		}
	})
	t.Run("threads", func(t *testing.T) {
		if !isolation.Has("cgroup-pids") && !isolation.Has("namespace-user") {
			t.Skip("nothing counts threads here, and the runner says so")
		}
		if res := s.run(t, s.Task(t, "threads")); res.Exit == 0 || res.Killed != "" {
			t.Errorf("exit %d, killed %q: %s", res.Exit, res.Killed, res.Stdout)
		}
	})
	t.Run("output", func(t *testing.T) {
		task := s.Task(t, "flood")
		task.Limits.OutputBytes = 10_000
		if res := s.run(t, task); res.Killed != runner.Output || len(res.Stdout) != 10_000 {
			t.Errorf("killed %q with %d bytes", res.Killed, len(res.Stdout))
		}
	})
	t.Run("output at the end", func(t *testing.T) { // it may end before it can be killed
		task := s.Task(t, "dump")
		task.Limits.OutputBytes = 1<<20 - 1
		if res := s.run(t, task); res.Killed != runner.Output || int64(len(res.Stdout)) != task.Limits.OutputBytes {
			t.Errorf("killed %q with %d bytes", res.Killed, len(res.Stdout))
		}
	})
	t.Run("stderr", func(t *testing.T) {
		lines := 0
		task := s.Task(t, "chatter")
		task.Progress = func(string) { lines++ }
		res := s.run(t, task)
		if res.Killed != runner.Output || len(res.Stderr) != runner.MaxTail || lines > runner.MaxStderr/10 {
			t.Errorf("killed %q with %d bytes, %d lines", res.Killed, len(res.Stderr), lines)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		task := s.Task(t, "spin")
		task.Limits.Deadline = 300 * time.Millisecond
		res := s.run(t, task)
		if d := res.Ended.Sub(res.Started); res.Killed != runner.Deadline || res.Exit != 137 || d > 10*time.Second {
			t.Errorf("killed %q, exit %d, after %v", res.Killed, res.Exit, d)
		}
	})
}

func (s *Suite) lifecycle(t *testing.T) {
	ctx, r := t.Context(), s.Runner
	spinning := make(chan struct{})
	var once sync.Once
	task := s.Task(t, "spin")
	task.Progress = func(string) { once.Do(func() { close(spinning) }) }
	task.Labels["job"] = "a"
	h, err := r.Start(ctx, task)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(ctx, task); !errors.Is(err, runner.ErrExists) {
		t.Errorf("second start: %v", err)
	}
	for want, labels := range map[int]map[string]string{1: {"job": "a"}, 0: {"job": "b"}} {
		if got, err := r.List(ctx, labels); err != nil || len(got) != want || want == 1 && got[0] != h {
			t.Errorf("list of %v: %v, %v", labels, got, err)
		}
	}
	<-spinning
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := r.Wait(short, h); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("short wait: %v", err)
	}
	var log bytes.Buffer
	if err := r.Logs(ctx, h, &log, 5); err != nil || log.String() != "ning\n" {
		t.Errorf("log %q, %v", log.String(), err)
	}
	if err := r.Kill(ctx, h); err != nil {
		t.Error(err)
	}
	for range 2 { // a result can be had again
		if res, err := r.Wait(ctx, h); err != nil || res.Killed != runner.Cancelled {
			t.Errorf("killed %q, %v", res.Killed, err)
		}
	}
	if err := errors.Join(r.Kill(ctx, h), r.Remove(ctx, h), r.Remove(ctx, h)); err != nil {
		t.Error(err)
	}
	if _, err := r.Wait(ctx, h); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("waiting for what was removed: %v", err)
	}
	// Removing kills.
	if h, err = r.Start(ctx, s.Task(t, "spin")); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(ctx, h); err != nil {
		t.Error(err)
	}
}

func (s *Suite) cancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the job was cancelled")
	task := s.Task(t, "spin")
	task.Progress = func(string) { cancel(why) }
	res, err := runner.Run(ctx, s.Runner, task)
	if !errors.Is(err, why) || res.Killed != runner.Cancelled {
		t.Errorf("killed %q, %v", res.Killed, err)
	}
	if _, err := runner.Run(ctx, s.Runner, s.Task(t, "echo", "data")); !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
		t.Errorf("started although cancelled: %v", err)
	}
}

func (s *Suite) parallel(t *testing.T) {
	var group sync.WaitGroup
	for i := range 6 {
		task := s.Task(t, "exit", fmt.Sprint(i))
		group.Go(func() {
			if res, err := runner.Run(t.Context(), s.Runner, task); err != nil || res.Exit != i {
				t.Errorf("task %d: exit %d, %v", i, res.Exit, err)
			}
		})
	}
	group.Wait()
}

func (s *Suite) refusals(t *testing.T) {
	task := s.Task(t, "echo", "data")
	task.Image = enclave.Digest{1}.String()
	if _, err := s.Runner.Start(t.Context(), task); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("unknown image: %v", err)
	}
	task = s.Task(t, "echo", "data")
	task.InputDir += "/none"
	if _, err := s.Runner.Start(t.Context(), task); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("unknown folder: %v", err)
	}
	var mismatch *runner.DigestError
	if _, got, err := s.Runner.Prepare(t.Context(), s.Hostile, enclave.Digest{1}); !errors.As(err, &mismatch) || mismatch.Got != got || mismatch.Want != (enclave.Digest{1}) {
		t.Errorf("another digest: %v", err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Runner.Prepare(t.Context(), script, enclave.Digest{}); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("a script: %v", err)
	}
}

// pinned changes a worker's file after it was prepared.
func (s *Suite) pinned(t *testing.T) {
	program, err := os.ReadFile(s.Hostile)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "worker")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	image, digest, err := s.Runner.Prepare(t.Context(), path, enclave.Digest{})
	if err != nil || image != s.Image {
		t.Fatalf("%s, %v: want %s as before", image, err, s.Image)
	}
	if err := os.WriteFile(path, []byte("something else"), 0o755); err != nil {
		t.Fatal(err)
	}
	task := s.Task(t, "echo", "data")
	task.Image = image
	if res := s.run(t, task); string(res.Stdout) != "sealed bytes" {
		t.Errorf("%q, %v", res.Stdout, res.Err())
	}
	if err := os.WriteFile(path, append(program, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	if other, changed, err := s.Runner.Prepare(t.Context(), path, enclave.Digest{}); err != nil || changed == digest || other == image {
		t.Errorf("a changed worker is %s, %v", other, err)
	}
}

// Overhead measures tasks whose worker ends at once, one at a time and eight at a time, per task.
func (s *Suite) Overhead(b *testing.B) {
	for _, parallel := range []int{1, 8} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			b.ReportAllocs()
			input := Inputs(b)
			tasks := make(chan runner.Task, b.N)
			for range b.N {
				task := s.Task(b, "exit", "0")
				task.InputDir = input
				tasks <- task
			}
			close(tasks)
			b.ResetTimer()
			var group sync.WaitGroup
			for range parallel {
				group.Go(func() {
					for task := range tasks {
						if res, err := runner.Run(b.Context(), s.Runner, task); err != nil || res.Exit != 0 {
							b.Errorf("exit %d, %v", res.Exit, err)
						}
					}
				})
			}
			group.Wait()
		})
	}
}
