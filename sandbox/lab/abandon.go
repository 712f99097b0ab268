package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox"
)

// abandonedAfter is how old a job must be for which no submission can be under way any more: calls have a deadline of a
// minute, and whoever lost an answer asks again within seconds.
const abandonedAfter = 5 * time.Minute

var errAbandoned = errors.New("the lab stopped while the job was being submitted: submit it again")

// Abandon ends jobs that are queued and that nobody submits any more, because their process stopped in between and whoever
// asked has gone too. No queue hands them out: they have no plan. It returns how many there were.
func (l *Lab) Abandon(ctx context.Context) (n int, err error) {
	jobs, err := l.cfg.Store.Jobs(ctx, sandbox.JobFilter{States: []sandbox.State{sandbox.Queued}})
	if err != nil {
		return 0, fmt.Errorf("ending abandoned jobs: %w", err)
	}
	for _, job := range jobs {
		if l.cfg.Clock().Sub(job.Created) < abandonedAfter {
			continue
		}
		after, err := l.end(ctx, job, sandbox.Fail, enclave.EntryFailure, errAbandoned)
		switch {
		case after.State.Ended():
			n++
			l.cfg.Watch(after, &EndedError{after})
		case errors.Is(err, sandbox.ErrConflict): // somebody was quicker
		default:
			return n, fmt.Errorf("ending abandoned jobs: %w", err)
		}
	}
	return n, nil
}
