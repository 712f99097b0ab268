package node

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init()
	os.Exit(m.Run())
}

func TestFailure(t *testing.T) {
	limits, need := runner.Limits{MemoryMiB: 512}, lab.Need{MemoryMiB: 300}
	start := time.Now()
	for _, row := range []struct {
		name        string
		res         runner.Result
		err         error
		want        string
		interrupted bool
	}{
		{"memory", runner.Result{Killed: runner.OOM, Exit: 137}, nil, "out of memory at 512 MiB; the plan estimated 300", false},
		{"deadline", runner.Result{Killed: runner.Deadline, Started: start, Ended: start.Add(time.Minute), Stderr: []byte("progress 0.5\n")}, nil, "the worker was stopped after 1m0s, the longest that a job may take", false},
		{"a bad input", runner.Result{Exit: 1, Stderr: []byte("progress 0.1\nworker: input x\n")}, nil, "worker ended with code 1: worker: input x", false},
		{"output", runner.Result{Killed: runner.Output}, nil, "worker was killed: output", false},
		{"killed by somebody", runner.Result{Killed: runner.Outside, Exit: 137}, nil, "the worker was interrupted: somebody or something on the node killed it", true},
		{"no engine", runner.Result{}, runner.ErrUnavailable, "the worker was interrupted: isolation is unavailable", true},
		{"another fault", runner.Result{}, errors.New("it stumbles"), "it stumbles", false},
	} {
		err := failure(row.res, row.err, limits, need)
		if err == nil || err.Error() != row.want || errors.Is(err, lab.ErrInterrupted) != row.interrupted {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	if err := failure(runner.Result{}, nil, limits, need); err != nil {
		t.Error(err)
	}
}

// adopter is a back end of which nothing is asked but whether it takes tasks up.
type adopter struct{ runner.Runner }

func (adopter) Adopt(context.Context, runner.Task) (runner.Handle, error) { return "", nil }

// TestLife leaves workers running when their process ends, and no others.
func TestLife(t *testing.T) {
	other := errors.New("a signal came")
	for _, row := range []struct {
		name   string
		leave  bool
		runner runner.Runner
		cause  error
		want   error
	}{
		{"the process ends", true, adopter{}, context.Canceled, runner.ErrLeave},
		{"by a signal", true, adopter{}, other, runner.ErrLeave},
		{"the job was cancelled", true, adopter{}, sandbox.ErrCancelled, sandbox.ErrCancelled},
		{"another process has the job", true, adopter{}, sandbox.ErrFenced, sandbox.ErrFenced},
		{"nobody could take it up", true, struct{ runner.Runner }{}, other, other},
		{"a command was interrupted", false, adopter{}, other, other},
	} {
		n := &Node{cfg: Config{Leave: row.leave}, runner: row.runner}
		ctx, cancel := context.WithCancelCause(t.Context())
		life, stop := n.life(ctx)
		cancel(row.cause)
		<-life.Done()
		if got := context.Cause(life); !errors.Is(got, row.want) {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
		stop()
	}
	if err := failure(runner.Result{}, runner.ErrLeave, runner.Limits{}, lab.Need{}); !errors.Is(err, lab.ErrLeft) || errors.Is(err, lab.ErrInterrupted) {
		t.Error(err)
	}
}

// TestUnchecked refuses a production node whose last check was not passed with what is in force now.
func TestUnchecked(t *testing.T) {
	now := runner.Isolation{Backend: "docker/runc", Protections: []string{"seccomp"}}
	good := Checked{Passed: true, Isolation: now.String(), Kernel: kernel()}
	for _, row := range []struct {
		name   string
		change func(*Checked)
		want   string
	}{
		{"passed", func(*Checked) {}, ""},
		{"something got out", func(c *Checked) { c.Passed, c.Escaped = false, []string{"fork"} }, "these got out: [fork]"},
		{"another isolation", func(c *Checked) { c.Isolation = "docker/runc: none" }, `checked was "docker/runc: none"`},
		{"another kernel", func(c *Checked) { c.Kernel = "2.6.0" }, "checked was kernel 2.6.0"},
	} {
		c := good
		row.change(&c)
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		n := &Node{cfg: Config{StateFile: filepath.Join(t.TempDir(), "check.json")}}
		if err := n.checked(now); !errors.Is(err, ErrUnchecked) || !strings.Contains(err.Error(), "run `lab node check`") {
			t.Errorf("never checked: %v", err)
		}
		if err := os.WriteFile(n.cfg.StateFile, data, 0o600); err != nil {
			t.Fatal(err)
		}
		err = n.checked(now)
		if row.want == "" && err != nil || row.want != "" && (!errors.Is(err, ErrUnchecked) || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// TestUnapprovedDoesNotStart names both digests.
func TestUnapprovedDoesNotStart(t *testing.T) {
	program := filepath.Join(t.TempDir(), "worker")
	build := exec.Command("go", "build", "-o", program, "yingzhou.dev/lab/sandbox/runner/battery/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := t.TempDir()
	n, err := New(Config{Program: program, Backend: "process", Lab: dir, StateFile: filepath.Join(dir, "check.json"),
		Unfinished: func(context.Context) ([]sandbox.Job, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	there, err := n.Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	approved := enclave.Digest{1}
	_, err = n.Run(t.Context(), lab.WorkerTask{Job: "job-1", Dir: dir, Program: approved}, func(int64) {})
	var mismatch *runner.DigestError
	if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), approved.String()) || !strings.Contains(err.Error(), there.String()) {
		t.Errorf("ran, or said %v", err)
	}
}

// leftovers is a back end with tasks that an earlier process started.
type leftovers struct {
	runner.Runner
	tasks []runner.Handle
}

func (l *leftovers) List(context.Context, map[string]string) ([]runner.Handle, error) {
	return slices.Clone(l.tasks), nil
}

func (l *leftovers) Remove(_ context.Context, h runner.Handle) error {
	l.tasks = slices.DeleteFunc(l.tasks, func(t runner.Handle) bool { return t == h })
	return nil
}

// TestTidy: a job that an earlier process of this node began was taken up by another one, and ended there.
func TestTidy(t *testing.T) {
	unfinished := []sandbox.Job{{ID: "job-a"}, {ID: "job-b"}}
	n := &Node{cfg: Config{Lab: t.TempDir(), Unfinished: func(context.Context) ([]sandbox.Job, error) { return unfinished, nil }}}
	if err := n.Tidy(t.Context()); err != nil {
		t.Errorf("a node that has run nothing: %v", err)
	}
	left := &leftovers{tasks: []runner.Handle{"job-a", "job-b"}}
	n.runner = left
	for _, want := range []int{2, 1} {
		if err := n.Tidy(t.Context()); err != nil || len(left.tasks) != want {
			t.Errorf("left are %v, %v; want %d", left.tasks, err, want)
		}
		unfinished = unfinished[:1] // job-b has ended meanwhile
	}
}
