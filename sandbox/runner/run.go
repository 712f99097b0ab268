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
// Cancelled and the error is the context's cause. Whatever happens, nothing of the task is left. A task of this ID that a
// process left which has crashed is removed and run again.
func Run(ctx context.Context, r Runner, t Task) (Result, error) {
	h, err := r.Start(ctx, t)
	if errors.Is(err, ErrExists) && errors.Is(r.Logs(ctx, Handle(t.ID), io.Discard, 0), ErrOutputLost) {
		if err = r.Remove(ctx, Handle(t.ID)); err == nil {
			h, err = r.Start(ctx, t)
		}
	}
	if err != nil {
		res := Result{}
		if ctx.Err() != nil {
			res.Killed = Cancelled
		}
		return res, fmt.Errorf("starting: %w", err)
	}
	failpoint.Hit(failpoint.TaskStarted)
	res, err := r.Wait(ctx, h)
	failpoint.Hit(failpoint.TaskWaited)
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
