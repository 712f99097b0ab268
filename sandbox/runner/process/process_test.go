package process_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init()
	if os.Getenv(orphanage) != "" {
		makeOrphan()
	}
	if os.Getenv(ordinary) != "" {
		runOrdinary()
		return
	}
	os.Exit(m.Run())
}

func open(t testing.TB) *process.Runner {
	t.Helper()
	r, err := process.Open(t.Context(), process.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestRunner(t *testing.T) { runnertest.New(t, open(t)).Run(t) }

// TestLevels runs the hostile worker with what another kernel or user would have, as far as it can be had here.
func TestLevels(t *testing.T) {
	for i := 1; i < process.Levels(); i++ { // TestRunner has the first
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			r, err := process.OpenLevel(t.Context(), i)
			if err != nil {
				t.Skipf("not to be had here: %v", err)
			}
			t.Cleanup(func() { r.Close() })
			runnertest.New(t, r).Run(t)
		})
	}
}

// TestUnfiltered sees that the other layers hold even if the filter did not.
func TestUnfiltered(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := open(t)
	r.Unfiltered()
	isolation, err := r.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if isolation.Has("seccomp") {
		t.Fatalf("claims what is not there: %s", isolation)
	}
	if !isolation.Has("namespace-network") {
		t.Skip("no namespaces here")
	}
	got := runnertest.New(t, r).Attack(t, l.Addr().String())
	for _, name := range []string{"connect", "write-root", "write-input", "write-here", "change-input", "remove-input", "read/etc/passwd", "read/root",
		"read/usr", "fill-tmp", "device", "execute-tmp", "execute-self", "execute-proc", "execute-memory", "socket-packet", "signal-all",
		"raise-files", "mount", "remount", "unmount", "chroot", "hostname-set", "unshare", "setuid", "capabilities"} {
		if got[name] == "" {
			t.Errorf("%s worked", name)
		}
	}
	if got["interfaces"] != "[lo]" {
		t.Errorf("interfaces %s", got["interfaces"])
	}
	if got["listing"] != "[]" { // Landlock hides even that there are /in and /tmp
		t.Errorf("root has %s", got["listing"])
	}
}

// TestWorker runs the real worker, which has nothing to do here and says so.
func TestWorker(t *testing.T) {
	r := open(t)
	image, _, err := r.Prepare(t.Context(), runnertest.Build(t, "yingzhou.dev/lab/cmd/worker"), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := runner.Run(t.Context(), r, runner.Task{ID: "worker", Image: image, InputDir: runnertest.Inputs(t)})
	if err != nil {
		t.Fatal(err)
	}
	if res.Exit != 1 || !strings.Contains(string(res.Stderr), "reading task") {
		t.Errorf("exit %d: %s", res.Exit, res.Stderr)
	}
}

const orphanage = "RUNNER_TEST_ORPHAN"

// makeOrphan starts an endless worker and leaves it to be orphaned.
func makeOrphan() {
	ctx, worker, dir := context.Background(), os.Getenv(orphanage), os.Getenv(orphanage+"_INPUT")
	r, err := process.Open(ctx, process.Config{})
	if err == nil {
		var image string
		if image, _, err = r.Prepare(ctx, worker, enclave.Digest{}); err == nil {
			_, err = r.Start(ctx, runner.Task{ID: "orphan", Image: image, Args: []string{"spin"}, InputDir: dir,
				Progress: func(string) { fmt.Println("spinning") }})
		}
	}
	if err != nil {
		fmt.Println(err)
	}
	select {}
}

// TestParentKilled kills the program that started a worker: the worker must not go on without a deadline.
func TestParentKilled(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), orphanage+"="+runnertest.Hostile(t), orphanage+"_INPUT="+runnertest.Inputs(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 100)
	n, err := out.Read(said)
	pids := workers(t, cmd.Process.Pid)
	if err := errors.Join(err, cmd.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if string(said[:n]) != "spinning\n" || len(pids) != 1 {
		t.Fatalf("said %q, has workers %v", said[:n], pids)
	}
	for deadline := time.Now().Add(10 * time.Second); unix.Kill(pids[0], 0) == nil; {
		if time.Now().After(deadline) {
			t.Fatal("the worker outlived its parent")
		}
		<-time.After(5 * time.Millisecond)
	}
	// The next one to open sweeps what the dead one left.
	open(t)
}

const ordinary = "RUNNER_TEST_ORDINARY"

// runOrdinary runs a worker as whoever this process is and prints its answer and isolation.
func runOrdinary() {
	ctx, dir := context.Background(), os.Getenv(ordinary)
	r, err := process.Open(ctx, process.Config{})
	if err == nil {
		var image string
		var res runner.Result
		if image, _, err = r.Prepare(ctx, dir+"/worker", enclave.Digest{}); err == nil {
			res, err = runner.Run(ctx, r, runner.Task{ID: "ordinary", Image: image, Args: []string{"echo", "data"}, InputDir: dir + "/in"})
		}
		fmt.Printf("%s; %s", res.Stdout, res.Isolation)
	}
	if err != nil {
		fmt.Println(err)
	}
}

// TestOrdinaryUser has root's test run the back end as somebody else.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the other tests run as an ordinary user already")
	}
	dir, err := os.MkdirTemp("", "ordinary-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(runnertest.Hostile(t))
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(dir+"/worker", program, 0o755), os.Mkdir(dir+"/in", 0o755),
		os.WriteFile(dir+"/in/data", []byte("sealed bytes"), 0o444)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), ordinary+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "sealed bytes; process (development only): ") {
		t.Fatalf("%s, %v", out, err)
	}
	for _, want := range []string{"user-unprivileged", "capabilities-none", "deadline"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s lacks %s", out, want)
		}
	}
	t.Logf("%s", out)
}

// workers are the children of all threads of a process.
func workers(t *testing.T, parent int) (pids []int) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", parent))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", parent, task.Name()))
		for _, f := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// BenchmarkRun measures a whole task whose worker ends at once, alone and with seven others beside it.
func BenchmarkRun(b *testing.B) { runnertest.New(b, open(b)).Overhead(b) }
