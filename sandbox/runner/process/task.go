package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/internal/output"
)

// task is one run. launch and finish are called by one goroutine, which owns the fields below them until done is closed.
type task struct {
	runner.Task
	level level
	probe bool

	capture   *output.Capture
	group     *cgroup
	isolation runner.Isolation
	readers   sync.WaitGroup // of the two streams, and the writer of the third
	streams   [2]*os.File
	stdin     *os.File // the writing end; nil if there is nothing to tell
	started   time.Time

	done   chan struct{} // closed when result and err are there
	result runner.Result
	err    error

	mu    sync.Mutex
	proc  *os.Process // nil before the start
	cause string      // why it was killed
}

// launch starts the init stage and returns when the worker has been executed, or an error and nothing left behind.
func (t *task) launch(ctx context.Context, r *Runner, program *os.File) error {
	t.capture = output.New(t.Limits.OutputBytes, t.Progress, func() { t.kill(runner.Output) })
	input, tree, err := openFolder(t.level, t.InputDir)
	if err != nil {
		return err
	}
	defer input.Close()
	folders := []*os.File{input}
	linksTree := false
	if t.LinkDir != "" {
		links, tree, err := openFolder(t.level, t.LinkDir)
		if err != nil {
			return err
		}
		defer links.Close()
		folders, linksTree = append(folders, links), tree
	}
	t.group = r.groups.newCgroup(t.ID, t.Limits)
	s := spec{Probe: t.probe, Level: t.level, Args: t.arguments(), Env: t.Limits.Env(), Input: t.InputDir, InputTree: tree, Links: t.LinkDir, LinksTree: linksTree,
		TmpMiB: t.Limits.TmpMiB, MemoryMiB: t.Limits.MemoryMiB, CPU: uint64(t.Limits.CPUSeconds()), Without: r.without}
	if t.level.User && !t.group.counts() {
		s.Threads = uint64(t.Limits.Pids) // counted for each user namespace; outside one it would count all of a user's
	}
	reports, err := t.spawn(s, program, folders)
	if err != nil {
		return errors.Join(err, t.group.remove())
	}
	defer reports.Close()
	if err := t.await(ctx, reports); err != nil {
		t.kill(runner.Cancelled)
		_, late := t.finish()
		return errors.Join(err, late)
	}
	return nil
}

// arguments replaces the folders' names where the worker will not see them under those names.
func (t *task) arguments() []string {
	args := make([]string, len(t.Args))
	for i, a := range t.Args {
		for folder, fd := range map[string]int{runner.InputFolder: fdInput, runner.LinkFolder: fdLinks} {
			if rest, ok := strings.CutPrefix(a, folder); ok && !t.level.mounts() && (rest == "" || rest[0] == '/') {
				a = fmt.Sprintf("/proc/self/fd/%d%s", fd, rest)
				break
			}
		}
		args[i] = a
	}
	return args
}

// spawn executes this program again as the init stage, puts it into its group and only then tells it what to do.
func (t *task) spawn(s spec, program *os.File, folders []*os.File) (reports *os.File, err error) {
	var mine, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			for _, f := range mine {
				_ = f.Close()
			}
		}
	}()
	if t.Stdin == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, null)
	} else {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		theirs, t.stdin = append(theirs, read), write
	}
	defer func() {
		if err != nil && t.stdin != nil {
			_ = t.stdin.Close()
		}
	}()
	for range 4 { // standard output, standard error, reports, specification
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if len(mine) == 3 {
			read, write = write, read
		}
		mine, theirs = append(mine, read), append(theirs, write)
	}
	proc, err := os.StartProcess("/proc/self/exe", []string{marker}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Sys: t.level.attributes(),
		Files: append([]*os.File{theirs[0], theirs[1], theirs[2], theirs[4], theirs[3], program}, folders...),
	})
	if err != nil {
		return nil, fmt.Errorf("starting the init stage: %w", err)
	}
	t.mu.Lock()
	t.proc = proc
	cause := t.cause
	t.mu.Unlock()
	if cause != "" { // killed before there was anything to kill
		_ = proc.Kill()
	}
	err = t.group.add(proc.Pid)
	if err == nil {
		err = json.NewEncoder(mine[3]).Encode(s)
	}
	if err != nil {
		err = errors.Join(err, proc.Kill())
		_, wait := proc.Wait()
		return nil, errors.Join(err, wait)
	}
	_ = mine[3].Close()
	t.streams = [2]*os.File{mine[0], mine[1]}
	for i, w := range []io.Writer{t.capture.Stdout(), t.capture.Stderr()} {
		t.readers.Go(func() {
			_, _ = io.Copy(w, t.streams[i]) // ends with the last process that holds the other end, or in finish
		})
	}
	if t.stdin != nil {
		t.readers.Go(func() { // ends with the last process that holds the other end
			_, _ = t.stdin.Write(t.Stdin)
			_ = t.stdin.Close()
		})
	}
	return mine[2], nil
}

// await reads what the init stage says. The pipe closes without another word when the worker has been executed.
func (t *task) await(ctx context.Context, reports *os.File) error {
	if err := reports.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = reports.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var first, last report
	dec := json.NewDecoder(io.LimitReader(reports, 1<<20))
	err := dec.Decode(&first)
	if err == nil && first.Error == "" {
		if err = dec.Decode(&last); errors.Is(err, io.EOF) {
			t.started = time.Now()
			t.isolation = isolation(first.Applied, t.group)
			if t.LinkDir != "" {
				t.isolation = t.isolation.With("sockets-given")
			}
			return nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("the init stage said nothing: %w", err)
	}
	return fmt.Errorf("building the sandbox: %s%s", first.Error, last.Error)
}

// finish waits for the end of the process, takes the rest of its output and removes its group.
func (t *task) finish() (runner.Result, error) {
	if !t.level.mounts() {
		// Without a namespace of processes to end with the first, end the session: while its leader has not been waited
		// for, its number is not given to another.
		var info unix.Siginfo
		for unix.Waitid(unix.P_PID, t.proc.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		_ = unix.Kill(-t.proc.Pid, unix.SIGKILL)
	}
	state, err := t.proc.Wait()
	ended := time.Now()
	for _, s := range t.streams {
		_ = s.SetReadDeadline(ended.Add(2 * time.Second)) // all writers are dead, unless one left a plain process's session
	}
	if t.stdin != nil {
		_ = t.stdin.SetWriteDeadline(ended.Add(2 * time.Second)) // for the same reason
	}
	t.readers.Wait()
	t.capture.Flush()
	for _, s := range t.streams {
		err = errors.Join(err, s.Close())
	}
	t.mu.Lock()
	cause := t.cause
	t.mu.Unlock()
	if cause == "" && t.group.outOfMemory() {
		cause = runner.OOM
	}
	err = errors.Join(err, t.group.remove())
	if err != nil {
		return runner.Result{}, fmt.Errorf("ending the worker: %w", err)
	}
	exit := state.ExitCode()
	if status, ok := state.Sys().(interface {
		Signaled() bool
		Signal() unix.Signal
	}); ok && status.Signaled() {
		exit = 128 + int(status.Signal())
	}
	return runner.Result{Exit: exit, Killed: cause, Stdout: t.capture.Output(), Stderr: t.capture.Tail(runner.MaxTail),
		Started: t.started, Ended: ended, Isolation: t.isolation}, nil
}

// run is the goroutine of a task, which owns its thread: the kernel kills the worker when the thread that started it
// ends (PR_SET_PDEATHSIG), and Go ends threads whose goroutine did not give them back.
func (t *task) run(ctx context.Context, r *Runner, program *os.File, launched chan<- error) {
	defer close(t.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if t.err = t.launch(ctx, r, program); t.err != nil {
		launched <- t.err
		return
	}
	launched <- nil
	deadline := time.AfterFunc(t.Limits.Deadline, func() { t.kill(runner.Deadline) })
	defer deadline.Stop()
	t.result, t.err = t.finish()
}

// kill ends the task; the first cause stays. One that has ended was not killed, but if it wrote too much before that, what
// was kept is not all.
func (t *task) kill(cause string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ended error
	if t.proc != nil {
		ended = t.proc.Kill() // process 1 of its namespace, with which all others end
	}
	if t.cause == "" && (ended == nil || cause == runner.Output) {
		t.cause = cause
	}
}
