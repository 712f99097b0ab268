package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"yingzhou.dev/lab/internal/failpoint"
)

// cleaning bounds what Run does after its context has ended.
const cleaning = 30 * time.Second

// Run starts a task, waits for its end and removes it. When ctx ends first, the task is killed, the Result says
// Cancelled and the error is the context's cause; if the cause is ErrLeave it is left running instead, for the next
// process. Otherwise nothing of the task is left, whatever happens. A task of this ID that a process which has crashed left
// running is taken over if its back end can; if its output is lost, it is removed and run again.
func Run(ctx context.Context, r Runner, t Task) (Result, error) {
	h, err := start(ctx, r, t)
	if err != nil {
		res := Result{}
		if ctx.Err() != nil {
			res.Killed = Cancelled
		}
		return res, fmt.Errorf("starting: %w", err)
	}
	failpoint.Hit(failpoint.TaskStarted)
	return finish(ctx, r, t, h)
}

// start starts a task, or takes over the one that is there.
func start(ctx context.Context, r Runner, t Task) (Handle, error) {
	h, err := r.Start(ctx, t)
	if !errors.Is(err, ErrExists) || !errors.Is(r.Logs(ctx, Handle(t.ID), io.Discard, 0), ErrOutputLost) {
		return h, err
	}
	if a, ok := r.(Adopter); ok {
		h, err := a.Adopt(ctx, t)
		if !errors.Is(err, ErrOutputLost) && !errors.Is(err, ErrNotFound) {
			return h, err
		}
	}
	if err := r.Remove(ctx, Handle(t.ID)); err != nil {
		return "", err
	}
	return r.Start(ctx, t)
}

func finish(ctx context.Context, r Runner, t Task, h Handle) (Result, error) {
	res, err := r.Wait(ctx, h)
	failpoint.Hit(failpoint.TaskWaited)
	if errors.Is(err, ErrLeave) {
		return res, fmt.Errorf("task %q: %w", t.ID, err)
	}
	// An adopted task may have said part of its output to nobody. That it said nothing to us is no answer either.
	if err == nil && res.Adopted && len(res.Stdout) == 0 && res.Err() == nil {
		if err := r.Remove(ctx, h); err != nil {
			return res, fmt.Errorf("removing task %q: %w", t.ID, err)
		}
		return Run(ctx, r, t)
	}
	// A cancelled caller must not leave a worker running, so what cleans up has a context of its own.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaning)
	defer cancel()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
		var late error
		if late = r.Kill(clean, h); late == nil {
			res, late = r.Wait(clean, h)
		}
		err = errors.Join(err, late)
	}
	if err != nil {
		err = fmt.Errorf("running task %q: %w", t.ID, err)
	}
	if gone := r.Remove(clean, h); gone != nil {
		err = errors.Join(err, fmt.Errorf("removing task %q: %w", t.ID, gone))
	}
	failpoint.Hit(failpoint.TaskRemoved)
	return res, err
}
