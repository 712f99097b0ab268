package docker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
)

func TestMain(m *testing.M) {
	if os.Getenv(orphanage) != "" {
		makeOrphan()
	}
	os.Exit(m.Run())
}

// orphanage holds, for a process that is to be killed, the instance, the worker, its inputs and how long it takes.
const orphanage = "DOCKER_TEST_ORPHAN"

func orphan(inputs, wait string) runner.Task {
	return runner.Task{ID: "orphan", Args: []string{"late", wait}, InputDir: inputs, Labels: map[string]string{"suite": "orphan"},
		Limits: runner.Limits{MemoryMiB: 64, Deadline: 20 * time.Second}}
}

// makeOrphan starts a worker, says so and waits to be killed.
func makeOrphan() {
	a := strings.Split(os.Getenv(orphanage), "\n")
	ctx := context.Background()
	r, err := docker.Open(ctx, docker.Config{Instance: a[0]})
	if err == nil {
		t := orphan(a[2], a[3])
		if t.Image, _, err = r.Prepare(ctx, a[1], enclave.Digest{}); err == nil {
			t.Progress = func(line string) { fmt.Println(line) }
			_, err = r.Start(ctx, t)
		}
	}
	if err != nil {
		fmt.Println(err)
	}
	select {}
}

// abandon has another process start the task and kills it.
func abandon(t *testing.T, instance, worker, inputs, wait string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), orphanage+"="+strings.Join([]string{instance, worker, inputs, wait}, "\n"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if kill := cmd.Process.Kill(); err != nil || kill != nil || line != "waiting\n" {
		t.Fatalf("%q, %v, %v", line, err, kill)
	}
	_ = cmd.Wait()
}

// TestAdopt kills the process that started a worker. The next one takes the worker up if it is the same task and still
// runs, and otherwise runs it again.
func TestAdopt(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for workers")
	}
	instance := fmt.Sprintf("adopt-%d", os.Getpid())
	r := open(t, docker.Config{Instance: instance})
	worker, inputs := runnertest.Hostile(t), runnertest.Inputs(t)
	for _, row := range []struct {
		name, started, asked string
		ended                bool // before the next process looks
		adopted              bool
	}{
		{"running", "4s", "4s", false, true},
		{"another task of this ID", "10s", "10ms", false, false},
		{"ended meanwhile", "300ms", "300ms", true, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			abandon(t, instance, worker, inputs, row.started)
			task := orphan(inputs, row.asked)
			var err error
			if task.Image, _, err = r.Prepare(t.Context(), worker, enclave.Digest{}); err != nil {
				t.Fatal(err)
			}
			for row.ended {
				if ended, err := r.Ended(t.Context(), runner.Handle(task.ID)); err != nil {
					t.Fatal(err)
				} else if ended {
					break
				}
				<-time.After(20 * time.Millisecond)
			}
			res, err := runner.Run(t.Context(), r, task)
			if err != nil || string(res.Stdout) != "late answer" || res.Adopted != row.adopted {
				t.Errorf("%q, adopted %t, %v", res.Stdout, res.Adopted, err)
			}
			if left, err := r.List(t.Context(), nil); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

// TestAdoptKeepsTheDeadline takes up a worker that has less time left than its limits say.
func TestAdoptKeepsTheDeadline(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a deadline")
	}
	instance := fmt.Sprintf("late-%d", os.Getpid())
	r := open(t, docker.Config{Instance: instance})
	s := runnertest.New(t, r)
	first := open(t, docker.Config{Instance: instance})
	if _, _, err := first.Prepare(t.Context(), s.Hostile, enclave.Digest{}); err != nil {
		t.Fatal(err)
	}
	task := s.Task(t, "late", "20s")
	task.Limits.Deadline = 4 * time.Second
	if _, err := first.Start(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	h, err := r.Adopt(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Wait(t.Context(), h)
	if err != nil || res.Ended.Sub(res.Started) > 10*time.Second || res.Exit != 137 {
		t.Errorf("ended after %v with %d, %v", res.Ended.Sub(res.Started), res.Exit, err)
	}
	if err := r.Remove(t.Context(), h); err != nil {
		t.Error(err)
	}
	if _, err := r.Adopt(t.Context(), task); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("adopting what is gone: %v", err)
	}
}
