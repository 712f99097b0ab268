package process

import (
	"context"
	"fmt"
	"io"
	"slices"

	"yingzhou.dev/lab/sandbox/runner"
)

// Start runs a task. Its handle is its ID.
func (r *Runner) Start(ctx context.Context, rt runner.Task) (runner.Handle, error) {
	rt, err := rt.Check()
	if err != nil {
		return "", err
	}
	h := runner.Handle(rt.ID)
	t := &task{Task: rt, level: r.level, done: make(chan struct{})}
	r.mu.Lock()
	program, ok := r.programs[rt.Image]
	if !ok {
		r.mu.Unlock()
		return "", fmt.Errorf("task %q: image %q: %w: prepare it first", rt.ID, rt.Image, runner.ErrNotFound)
	}
	if _, taken := r.tasks[h]; taken {
		r.mu.Unlock()
		return "", fmt.Errorf("task %q: %w", rt.ID, runner.ErrExists)
	}
	r.tasks[h] = t
	r.mu.Unlock()

	launched := make(chan error, 1)
	go t.run(ctx, r, program, launched) // ends with the worker; Wait and Remove wait for it
	if err := <-launched; err != nil {  // not for long: ctx and startTimeout end it
		<-t.done
		r.forget(h)
		return "", fmt.Errorf("task %q: %w", rt.ID, err)
	}
	return h, nil
}

// Wait returns the task's result, as often as it is asked.
func (r *Runner) Wait(ctx context.Context, h runner.Handle) (runner.Result, error) {
	t, err := r.task(h)
	if err != nil {
		return runner.Result{}, err
	}
	select {
	case <-t.done:
		return t.result, t.err
	case <-ctx.Done():
		return runner.Result{}, context.Cause(ctx)
	}
}

// Logs writes the end of standard error.
func (r *Runner) Logs(_ context.Context, h runner.Handle, w io.Writer, max int64) error {
	t, err := r.task(h)
	if err != nil {
		return err
	}
	_, err = w.Write(t.capture.Tail(max))
	return err
}

// Kill ends the task.
func (r *Runner) Kill(_ context.Context, h runner.Handle) error {
	t, err := r.task(h)
	if err != nil {
		return err
	}
	t.end()
	return nil
}

// Remove ends the task and forgets it.
func (r *Runner) Remove(_ context.Context, h runner.Handle) error { return r.remove(h) }

func (r *Runner) remove(h runner.Handle) error {
	t, err := r.task(h)
	if err != nil {
		return nil // gone already
	}
	t.end()
	<-t.done // SIGKILL cannot be put off
	r.forget(h)
	return nil
}

// end kills a task that has not ended.
func (t *task) end() {
	select {
	case <-t.done:
	default:
		t.kill(runner.Cancelled)
	}
}

// List returns the tasks with these labels.
func (r *Runner) List(_ context.Context, labels map[string]string) ([]runner.Handle, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []runner.Handle{}
	for h, t := range r.tasks {
		if runner.Matches(t.Labels, labels) {
			list = append(list, h)
		}
	}
	slices.Sort(list)
	return list, nil
}

func (r *Runner) task(h runner.Handle) (*task, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tasks[h]
	if !ok {
		return nil, fmt.Errorf("task %q: %w", h, runner.ErrNotFound)
	}
	return t, nil
}

func (r *Runner) forget(h runner.Handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tasks, h)
}
