package docker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
)

// open needs a daemon. Without one a test is skipped, loudly, unless everything is required.
func open(t testing.TB, cfg docker.Config) *docker.Runner {
	t.Helper()
	if cfg.Instance == "" {
		cfg.Instance = fmt.Sprintf("test-%d", os.Getpid())
	}
	r, err := docker.Open(t.Context(), cfg)
	if errors.Is(err, runner.ErrUnavailable) && os.Getenv("LAB_REQUIRE_ALL") != "1" {
		t.Skipf("DOCKER IS NOT TESTED: %v (LAB_REQUIRE_ALL=1 makes this a failure)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the test's own context has ended
		if err := errors.Join(r.RemoveImages(context.Background()), r.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestRunner(t *testing.T) { runnertest.New(t, open(t, docker.Config{})).Run(t) }

// TestWorker runs the real worker, which has nothing to do here and says so.
func TestWorker(t *testing.T) {
	r := open(t, docker.Config{})
	image, digest, err := r.Prepare(t.Context(), runnertest.Build(t, "yingzhou.dev/lab/cmd/worker"), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	if image != digest.String() {
		t.Errorf("image %s has digest %s", image, digest)
	}
	res, err := runner.Run(t.Context(), r, runner.Task{ID: "worker", Image: image, InputDir: runnertest.Inputs(t)})
	if err != nil {
		t.Fatal(err)
	}
	if res.Exit != 1 || !strings.Contains(string(res.Stderr), "reading task") {
		t.Errorf("exit %d: %s", res.Exit, res.Stderr)
	}
}

// TestAfterCrash finds and removes what another process of the same lab left running.
func TestAfterCrash(t *testing.T) {
	before, after := open(t, docker.Config{}), open(t, docker.Config{})
	s := runnertest.New(t, before)
	task := s.Task(t, "spin")
	h, err := before.Start(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	list, err := after.List(t.Context(), task.Labels)
	if err != nil || len(list) != 1 || list[0] != h {
		t.Fatalf("found %v, %v", list, err)
	}
	if _, err := after.Wait(t.Context(), h); !errors.Is(err, runner.ErrOutputLost) {
		t.Errorf("waiting: %v", err)
	}
	other := open(t, docker.Config{Instance: "another"})
	if list, err := other.List(t.Context(), nil); err != nil || len(list) != 0 {
		t.Errorf("another lab sees %v, %v", list, err)
	}
	// Its first owner is still there in this test, and learns that the task was killed before the container goes.
	if err := after.Kill(t.Context(), h); err != nil {
		t.Error(err)
	}
	if res, err := before.Wait(t.Context(), h); err != nil || res.Exit != 137 {
		t.Errorf("exit %d, %v", res.Exit, err)
	}
	// A job that is started again has the same ID.
	if _, _, err := after.Prepare(t.Context(), s.Hostile, enclave.Digest{}); err != nil {
		t.Fatal(err)
	}
	task.Args = []string{"exit", "3"}
	if res, err := runner.Run(t.Context(), after, task); err != nil || res.Exit != 3 {
		t.Errorf("running again: exit %d, %v", res.Exit, err)
	}
	if list, err := after.List(t.Context(), nil); err != nil || len(list) != 0 {
		t.Errorf("left %v, %v", list, err)
	}
}

// TestImageGone removes an image behind the runner's back: nothing is started in its place.
func TestImageGone(t *testing.T) {
	r := open(t, docker.Config{})
	s := runnertest.New(t, r)
	if err := r.RemoveImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(t.Context(), s.Task(t, "exit", "0")); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("started: %v", err)
	}
}

func TestUnavailable(t *testing.T) {
	for _, host := range []string{"unix://" + filepath.Join(t.TempDir(), "no.sock"), "tcp://127.0.0.1:1"} {
		if _, err := docker.Open(t.Context(), docker.Config{Host: host}); !errors.Is(err, runner.ErrUnavailable) {
			t.Errorf("%s: %v", host, err)
		}
	}
	open(t, docker.Config{})
	if _, err := docker.Open(t.Context(), docker.Config{Runtime: "none-such"}); !errors.Is(err, runner.ErrUnavailable) {
		t.Errorf("unknown runtime: %v", err)
	}
}

// BenchmarkRun measures a whole task whose worker ends at once, alone and with seven others beside it.
func BenchmarkRun(b *testing.B) {
	b.Run("runc", func(b *testing.B) { runnertest.New(b, open(b, docker.Config{})).Overhead(b) })
	b.Run("runsc", func(b *testing.B) { runnertest.New(b, open(b, gVisor(b))).Overhead(b) })
}

// The engine's events tell a worker that met its memory limit from one that somebody killed, whichever word came first.
func TestEventsTellOfMemory(t *testing.T) {
	r := open(t, docker.Config{})
	s := runnertest.New(t, r)
	for _, c := range []struct {
		does string
		want bool
	}{{"hog", true}, {"spin", false}} {
		task := s.Task(t, c.does)
		task.Limits.MemoryMiB = 64
		h, err := r.Start(t.Context(), task)
		if err != nil {
			t.Fatal(err)
		}
		if !c.want {
			if err := r.Kill(t.Context(), h); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Wait(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if said, err := r.SaidOOM(t.Context(), h); err != nil || said != c.want {
			t.Errorf("%s: the engine says %v, %v", c.does, said, err)
		}
		if err := r.Remove(t.Context(), h); err != nil {
			t.Error(err)
		}
	}
}
