package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"yingzhou.dev/lab/sandbox/runner"
)

// Wait returns the task's result, as often as it is asked.
func (r *Runner) Wait(ctx context.Context, h runner.Handle) (runner.Result, error) {
	t, err := r.task(ctx, h)
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
func (r *Runner) Logs(ctx context.Context, h runner.Handle, w io.Writer, max int64) error {
	t, err := r.task(ctx, h)
	if err != nil {
		return err
	}
	_, err = w.Write(t.capture.Tail(max))
	return err
}

// Kill ends the task, also one that an earlier process started.
func (r *Runner) Kill(ctx context.Context, h runner.Handle) error {
	t, err := r.task(ctx, h)
	switch {
	case errors.Is(err, runner.ErrOutputLost):
		return r.eng.kill(ctx, r.name(h))
	case err != nil:
		return err
	}
	return r.kill(ctx, t, runner.Cancelled)
}

// Remove ends the task and removes its container, also one that an earlier process started.
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	t, err := r.task(ctx, h)
	switch {
	case errors.Is(err, runner.ErrNotFound):
		return nil
	case err == nil:
		// Killed first, so that whoever waits gets a whole result before its container is gone.
		if err := r.kill(ctx, t, runner.Cancelled); err != nil {
			return err
		}
		select {
		case <-t.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case !errors.Is(err, runner.ErrOutputLost):
		return err
	}
	gone := r.eng.remove(ctx, r.name(h))
	// The task has ended and is forgotten even if its container stays, because the engine is away. What stays is then like
	// what an earlier process left: found by List, and removed when the task is run again.
	r.mu.Lock()
	delete(r.tasks, h)
	r.mu.Unlock()
	if gone != nil {
		return fmt.Errorf("removing container of task %q: %w", h, gone)
	}
	return nil
}

// List returns the tasks with these labels, also those that an earlier process of this instance left.
func (r *Runner) List(ctx context.Context, labels map[string]string) ([]runner.Handle, error) {
	want := maps.Clone(labels)
	if want == nil {
		want = map[string]string{}
	}
	want[labelInstance] = r.cfg.Instance
	found, err := r.eng.list(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	list := make([]runner.Handle, 0, len(found))
	for _, l := range found {
		list = append(list, runner.Handle(l[labelTask]))
	}
	slices.Sort(list)
	return list, nil
}

// task returns what this process started. For a container of an earlier process the error wraps runner.ErrOutputLost.
func (r *Runner) task(ctx context.Context, h runner.Handle) (*task, error) {
	r.mu.Lock()
	t, ok := r.tasks[h]
	r.mu.Unlock()
	if ok {
		return t, nil
	}
	there, err := r.eng.exists(ctx, r.name(h))
	switch {
	case err != nil:
		return nil, fmt.Errorf("task %q: %w", h, err)
	case there:
		return nil, fmt.Errorf("task %q: %w", h, runner.ErrOutputLost)
	}
	return nil, fmt.Errorf("task %q: %w", h, runner.ErrNotFound)
}

// CPUTime implements runner.Meter.
func (r *Runner) CPUTime(ctx context.Context, h runner.Handle) (time.Duration, error) {
	used, err := r.eng.cpuTime(ctx, r.name(h))
	if err != nil {
		return 0, fmt.Errorf("measuring task %q: %w", h, err)
	}
	return used, nil
}
