package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/internal/output"
)

// task is a container whose output this process reads.
type task struct {
	runner.Task
	name      string // the container's
	adopted   bool   // an earlier process started it
	isolation runner.Isolation
	capture   *output.Capture
	over      chan struct{}  // closed when too much was written
	told      sync.WaitGroup // writing to its standard input

	done   chan struct{} // closed when result and err are there
	result runner.Result
	err    error

	mu    sync.Mutex
	cause string // why it was killed
}

// Labels of containers, beside the task's own.
const (
	labelInstance = "dev.yingzhou.lab"
	labelTask     = "dev.yingzhou.task"
	labelPrint    = "dev.yingzhou.fingerprint"
)

func (r *Runner) name(h runner.Handle) string { return "yingzhou-" + r.cfg.Instance + "-" + string(h) }

func (r *Runner) labels(t runner.Task) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, t.Labels)
	labels[labelInstance], labels[labelTask], labels[labelPrint] = r.cfg.Instance, t.ID, t.Fingerprint()
	return labels
}

// Start runs a task. Its handle is its ID.
func (r *Runner) Start(ctx context.Context, rt runner.Task) (runner.Handle, error) {
	rt, err := rt.Check()
	if err != nil {
		return "", err
	}
	return r.start(ctx, rt, nil)
}

// start starts a task that was checked, on its group's network if it has one.
func (r *Runner) start(ctx context.Context, rt runner.Task, group *membership) (runner.Handle, error) {
	r.mu.Lock()
	img, ok := r.images[rt.Image]
	r.mu.Unlock()
	if !ok {
		return "", fmt.Errorf("task %q: image %q: %w: prepare it first", rt.ID, rt.Image, runner.ErrNotFound)
	}
	id, err := r.check(ctx, img)
	if err != nil {
		return "", fmt.Errorf("task %q: %w", rt.ID, err)
	}
	h := runner.Handle(rt.ID)
	t := &task{Task: rt, name: r.name(h), over: make(chan struct{}), done: make(chan struct{})}
	t.capture = output.New(rt.Limits.OutputBytes, rt.Progress, func() { close(t.over) })
	if t.isolation, err = r.Probe(ctx); err != nil {
		return "", fmt.Errorf("task %q: %w", rt.ID, err)
	}
	c, host := r.spec(rt, id)
	if r.alter != nil {
		r.alter(c, host)
	}
	var net *network.NetworkingConfig
	if rt.LinkDir != "" {
		if group != nil || gVisor(r.cfg.Runtime) {
			return "", fmt.Errorf("task %q: %w: sockets are given to single tasks under the host's kernel: gVisor connects to none of the host's", rt.ID, runner.ErrUnavailable)
		}
		t.isolation = t.isolation.With("sockets-given")
	}
	if group != nil {
		net = group.join(c, host)
		t.isolation = t.isolation.Without("namespace-network").With("network-private")
	}
	stream, err := r.eng.create(ctx, t.name, c, host, net)
	if err != nil {
		return "", fmt.Errorf("task %q: %w", rt.ID, err)
	}
	// Following the container must go on when the caller's context ends: it ends with the container.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	exited, failed := r.eng.wait(life, t.name, false)
	if err := r.eng.start(ctx, t.name); err != nil {
		err = errors.Join(fmt.Errorf("task %q: starting container: %w", rt.ID, err), r.eng.remove(life, t.name), stream.Close())
		end()
		return "", err
	}
	if rt.Stdin != nil {
		t.told.Go(func() { stream.tell(rt.Stdin) }) // ends with the stream, which follow closes
	}
	r.take(life, end, t, stream, exited, failed, rt.Limits.Deadline)
	return h, nil
}

// Adopt implements runner.Adopter.
func (r *Runner) Adopt(ctx context.Context, rt runner.Task) (runner.Handle, error) {
	rt, err := rt.Check()
	if err != nil {
		return "", err
	}
	h := runner.Handle(rt.ID)
	if rt.Stdin != nil {
		return "", fmt.Errorf("task %q: adopting: what it was told is not known to be this: %w", rt.ID, runner.ErrOutputLost)
	}
	t := &task{Task: rt, name: r.name(h), adopted: true, over: make(chan struct{}), done: make(chan struct{})}
	t.capture = output.New(rt.Limits.OutputBytes, rt.Progress, func() { close(t.over) })
	if t.isolation, err = r.Probe(ctx); err != nil {
		return "", fmt.Errorf("task %q: %w", rt.ID, err)
	}
	if _, err := r.eng.find(ctx, t.name); err != nil {
		return "", fmt.Errorf("task %q: adopting: %w", rt.ID, err)
	}
	stream, err := r.eng.attach(ctx, t.name, false)
	if err != nil {
		return "", fmt.Errorf("task %q: adopting: %w", rt.ID, err)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	exited, failed := r.eng.wait(life, t.name, true)
	// Looked at after attaching, so that what it says now is read by us.
	there, err := r.eng.find(ctx, t.name)
	if err != nil || !there.running || there.labels[labelPrint] != rt.Fingerprint() {
		end()
		if err == nil {
			err = runner.ErrOutputLost
		}
		return "", errors.Join(fmt.Errorf("task %q: adopting: %w", rt.ID, err), stream.Close())
	}
	r.take(life, end, t, stream, exited, failed, rt.Limits.Deadline-time.Since(there.started))
	return h, nil
}

// take makes a running container this process's.
func (r *Runner) take(life context.Context, end func(), t *task, stream io.ReadCloser, exited <-chan container.WaitResponse, failed <-chan error, left time.Duration) {
	r.mu.Lock()
	r.tasks[runner.Handle(t.ID)] = t
	r.mu.Unlock()
	go func() { // Wait and Remove wait for it
		defer end()
		defer close(t.done)
		exit, err := r.follow(life, t, stream, exited, failed, left)
		if t.result, t.err = t.conclude(life, r.eng, exit, err); t.err != nil {
			// How it ended is not known, nor whether its output is whole. The container, if it is there, is nobody's now.
			r.mu.Lock()
			delete(r.tasks, runner.Handle(t.ID))
			r.mu.Unlock()
		}
	}()
}

// follow reads a container's output and keeps its limits until it has ended.
func (r *Runner) follow(ctx context.Context, t *task, stream io.ReadCloser, exited <-chan container.WaitResponse, failed <-chan error, left time.Duration) (exit int, err error) {
	read := make(chan struct{})
	go func() { // ends with the stream, which is closed below
		defer close(read)
		split(t.capture.Stdout(), t.capture.Stderr(), stream)
		t.capture.Flush()
	}()
	deadline := time.NewTimer(left)
	defer deadline.Stop()
	over := t.over
	for running := true; running; {
		select {
		case w := <-exited:
			exit, running = int(w.StatusCode), false
			if w.Error != nil {
				err = errors.Join(err, errors.New(w.Error.Message))
			}
		case e := <-failed:
			err, running = errors.Join(err, e), false
		case <-deadline.C:
			err = r.kill(ctx, t, runner.Deadline)
			running = err == nil // an engine that does not kill does not tell of the end either
		case <-over:
			over = nil // said once
			err = r.kill(ctx, t, runner.Output)
			running = err == nil
		}
	}
	// The engine closes the stream a moment after the end. Should it not, what is there must do.
	grace := time.AfterFunc(5*time.Second, func() { _ = stream.Close() })
	<-read
	grace.Stop()
	_ = stream.Close()
	t.told.Wait()
	return exit, err
}

// killedExit is the exit code of what SIGKILL ended, which a worker cannot send.
const killedExit = 128 + 9

// conclude makes the result of a container that has ended.
func (t *task) conclude(ctx context.Context, eng *engine, exit int, err error) (runner.Result, error) {
	state, inspect := eng.inspect(ctx, t.name)
	if err = errors.Join(err, inspect); err != nil {
		return runner.Result{}, fmt.Errorf("following container %q: %w", t.name, err)
	}
	t.mu.Lock()
	cause := t.cause
	t.mu.Unlock()
	if cause == "" && state.oom {
		cause = runner.OOM
	}
	if cause == "" && exit == killedExit {
		if cause = runner.Outside; eng.saidOOM(ctx, t.name, state.started) {
			cause = runner.OOM
		}
	}
	select {
	case <-t.over: // it may have ended by itself before it could be killed, but what was kept is not all
		if cause == "" || cause == runner.Outside {
			cause = runner.Output
		}
	default:
	}
	return runner.Result{Exit: exit, Killed: cause, Stdout: t.capture.Output(), Stderr: t.capture.Tail(runner.MaxTail),
		Started: state.started, Ended: state.stopped, Isolation: t.isolation, Adopted: t.adopted}, nil
}

// kill ends a task; the first cause stays.
func (r *Runner) kill(ctx context.Context, t *task, cause string) error {
	select {
	case <-t.done:
		return nil
	default:
	}
	t.mu.Lock()
	if t.cause == "" {
		t.cause = cause
	}
	t.mu.Unlock()
	if err := r.eng.kill(ctx, t.name); err != nil {
		return fmt.Errorf("killing container %q: %w", t.name, err)
	}
	return nil
}
