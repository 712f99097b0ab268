package runner

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
)

// Group is a job of several tasks that talk to each other over a network of their own and reach nothing else, such as the
// nodes of a multi-party computation.
//
// Every task sees the others under their names, in its /etc/hosts and at addresses that do not change. It may make and
// accept TCP connections there; who is who it must find out by itself: each task's inputs hold its own key and certificate
// and the authority that it trusts, and no task sees another's inputs.
type Group struct {
	ID      string // as Task.ID
	Members []Member
}

// Member is a task of a group.
type Member struct {
	Name string // host name, unique in the group
	Task Task   // its ID is unique among all tasks, not only the group's
}

// Grouper is implemented by back ends that can run groups.
type Grouper interface {
	// StartGroup returns when all tasks run on their network, or with none of them. Each is then a task as any other.
	StartGroup(ctx context.Context, g Group) ([]Handle, error)
	// RemoveGroup removes a group's network, and with it what is left of the group's tasks, also after a crash.
	RemoveGroup(ctx context.Context, id string) error
}

// MaxMembers bounds a group.
const MaxMembers = 8

var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// Check returns the group with its tasks' defaults filled in, or an error that wraps ErrInvalid.
func (g Group) Check() (Group, error) {
	fault := func(format string, args ...any) (Group, error) {
		return Group{}, fmt.Errorf("group %q: %w: %s", g.ID, ErrInvalid, fmt.Sprintf(format, args...))
	}
	if !validID.MatchString(g.ID) {
		return fault("its ID must match %s", validID)
	}
	if n := len(g.Members); n < 2 || n > MaxMembers {
		return fault("it has %d members, and may have 2 to %d", n, MaxMembers)
	}
	names, ids := map[string]bool{}, map[string]bool{}
	members := make([]Member, len(g.Members))
	for i, m := range g.Members {
		if !validName.MatchString(m.Name) || names[m.Name] || ids[m.Task.ID] {
			return fault("member %q: its name must match %s, and name and task ID must be its own", m.Name, validName)
		}
		names[m.Name], ids[m.Task.ID] = true, true
		t, err := m.Task.Check()
		if err != nil {
			return Group{}, fmt.Errorf("group %q: member %q: %w", g.ID, m.Name, err)
		}
		members[i] = Member{m.Name, t}
	}
	g.Members = members
	return g, nil
}

// RunGroup starts a group, waits for the end of all its tasks and removes everything. When one of them fails the others
// are killed, since they would wait for it. Results are in the order of the members. When ctx ends first, all are killed
// and the error is the context's cause.
func RunGroup(ctx context.Context, r Runner, g Group) (results []Result, err error) {
	grouper, ok := r.(Grouper)
	if !ok {
		return nil, fmt.Errorf("group %q: %w: this back end has no networks", g.ID, ErrUnavailable)
	}
	clean, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	handles, err := grouper.StartGroup(ctx, g)
	if err != nil {
		return nil, fmt.Errorf("starting: %w", err)
	}
	results, faults := make([]Result, len(handles)), make([]error, len(handles))
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	for i, h := range handles {
		group.Go(func() {
			res, err := r.Wait(run, h)
			if err != nil && run.Err() != nil {
				if err = r.Kill(clean, h); err == nil {
					res, err = r.Wait(clean, h)
				}
			}
			results[i], faults[i] = res, err
			if bad := errors.Join(err, res.Err()); bad != nil {
				stop(fmt.Errorf("member %q: %w", g.Members[i].Name, bad))
			}
		})
	}
	group.Wait()
	err = errors.Join(faults...)
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	for _, h := range handles {
		err = errors.Join(err, r.Remove(clean, h))
	}
	if err = errors.Join(err, grouper.RemoveGroup(clean, g.ID)); err != nil {
		err = fmt.Errorf("running group %q: %w", g.ID, err)
	}
	return results, err
}
