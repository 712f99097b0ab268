package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/sandbox"
)

// DriverConfig adjusts a Driver. The zero value is fine.
type DriverConfig struct {
	AtOnce int                        // jobs at the same time; 0 = 2
	Look   time.Duration              // how often the record is searched for unfinished jobs; 0 = 10 s
	Rest   time.Duration              // how long a job rests that could not be brought to its end, first; 0 = 1 s
	Note   func(sandbox.Job, error)   // hears of every change of a job, and why it did not end in a release; may be nil
	Why    func(error) (string, bool) // puts an error in words for people, if it is for them; nil = none is
}

// Driver brings jobs to their end in one process: those that Wake names, and those that a crash or an earlier failure
// left unfinished. One that cannot be ended now, because custodians are away say, rests a while and is tried again.
type Driver struct {
	lab  *Lab
	cfg  DriverConfig
	wake chan struct{}

	mu    sync.Mutex
	due   map[sandbox.JobID]*turn
	order []sandbox.JobID // of due, oldest first
}

// turn is a job that is to be driven.
type turn struct {
	running  bool
	failures int
	notUntil time.Time
}

// submitTime is how long a job may be queued while its submission is under way. One queued for longer was left behind.
const submitTime = 5 * time.Minute

// maxRest bounds how long a job rests.
const maxRest = time.Minute

// NewDriver makes a driver for a lab.
func NewDriver(l *Lab, cfg DriverConfig) *Driver {
	if cfg.AtOnce == 0 {
		cfg.AtOnce = 2
	}
	if cfg.Look == 0 {
		cfg.Look = 10 * time.Second
	}
	if cfg.Rest == 0 {
		cfg.Rest = time.Second
	}
	if cfg.Note == nil {
		cfg.Note = func(sandbox.Job, error) {}
	}
	return &Driver{lab: l, cfg: cfg, wake: make(chan struct{}, 1), due: map[sandbox.JobID]*turn{}}
}

// Wake says that a job is ready to run.
func (d *Driver) Wake(id sandbox.JobID) {
	d.add(id)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *Driver) add(id sandbox.JobID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.due[id] == nil {
		d.due[id] = &turn{}
		d.order = append(d.order, id)
	}
}

// Run drives jobs until ctx ends, and returns when the last one has stopped where it can be taken up again.
func (d *Driver) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(d.cfg.AtOnce + 1)
	g.Go(func() error {
		look := time.NewTicker(d.cfg.Look)
		defer look.Stop()
		retry := time.NewTicker(d.cfg.Rest)
		defer retry.Stop()
		for search := true; ; {
			if search {
				if err := d.search(gctx); err != nil && gctx.Err() == nil {
					d.lab.cfg.Logger.ErrorContext(gctx, "looking for unfinished jobs", "error", err)
				}
			}
			for {
				id, ok := d.next()
				if !ok {
					break
				}
				if !g.TryGo(func() error { d.drive(gctx, id); return nil }) {
					d.back(id)
					break
				}
			}
			search = false
			select {
			case <-d.wake:
			case <-retry.C:
			case <-look.C:
				search = true
			case <-gctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// search finds what others left unfinished.
func (d *Driver) search(ctx context.Context) error {
	jobs, err := d.lab.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.State != sandbox.Queued || d.lab.cfg.Clock().Sub(j.Updated) > submitTime {
			d.add(j.ID)
		}
	}
	return nil
}

// next takes the oldest job that is due.
func (d *Driver) next() (sandbox.JobID, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.lab.cfg.Clock()
	for _, id := range d.order {
		if t := d.due[id]; !t.running && !now.Before(t.notUntil) {
			t.running = true
			return id, true
		}
	}
	return "", false
}

// back gives a job back that next took and nobody drives.
func (d *Driver) back(id sandbox.JobID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due[id].running = false
}

func (d *Driver) drive(ctx context.Context, id sandbox.JobID) {
	job, err := d.lab.Run(ctx, id, func(j sandbox.Job) {
		if !j.State.Ended() { // its end is told with its reason, below
			d.cfg.Note(j, nil)
		}
	})
	if errors.Is(err, sandbox.ErrNotFound) && job.ID == "" || job.State.Ended() {
		d.done(id)
		var ended *EndedError
		if errors.As(err, &ended) {
			err = nil // by somebody else, who said why
		}
		if job.ID != "" {
			d.cfg.Note(job, err)
		}
		return
	}
	if ctx.Err() != nil {
		d.back(id)
		return
	}
	rest := d.rest(id)
	d.lab.cfg.Logger.WarnContext(ctx, "job rests", "job", id, "state", job.State, "rest", rest, "error", err)
	d.lab.report(ctx, &job, d.waiting(err), 0, func(j sandbox.Job) { d.cfg.Note(j, nil) })
}

// waiting says what a job waits for.
func (d *Driver) waiting(err error) string {
	if d.cfg.Why != nil {
		if why, ok := d.cfg.Why(err); ok {
			return "waiting: " + why
		}
	}
	return "waiting: something failed, it is tried again"
}

func (d *Driver) done(id sandbox.JobID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.due, id)
	for i, have := range d.order {
		if have == id {
			d.order = append(d.order[:i], d.order[i+1:]...)
			break
		}
	}
	d.nudge()
}

// rest puts a job off, longer each time.
func (d *Driver) rest(id sandbox.JobID) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.due[id]
	length := min(d.cfg.Rest<<min(t.failures, 10), maxRest)
	t.running, t.failures, t.notUntil = false, t.failures+1, d.lab.cfg.Clock().Add(length)
	d.nudge()
	return length
}

// nudge has the next job taken: a place is free.
func (d *Driver) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// String tells how much there is to do, for logs.
func (d *Driver) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("%d jobs due", len(d.due))
}
