package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"yingzhou.dev/lab/enclave"
)

// Job is one query on its way from submission to release.
type Job struct {
	ID           JobID
	Operator     string         // body that pays with its budget
	Analyst      string         // party that submitted
	Scenario     enclave.Digest // approved application it runs under
	Query        string         // the operator's SQL
	EpsilonMicro int64          // ε asked for, in 1e-6; 0 = the scenario's default

	State     State
	Stage     string // what is being done now, for people; never a data value
	Percent   int64  // of Stage, 0 to 100
	Plan      enclave.Digest
	Receipt   enclave.Digest
	Release   enclave.Digest
	Reason    string // why it was refused, failed or was cancelled; never a data value
	Isolation string // back end and protections of the worker
	Attempts  int64  // workers started

	Created time.Time // microseconds, UTC
	Updated time.Time // of the last change of state or progress
}

// Change asks for one transition. The digests, Isolation and Reason are kept where they are not zero.
type Change struct {
	From      State // state the caller saw
	Event     Event
	Plan      enclave.Digest
	Receipt   enclave.Digest
	Release   enclave.Digest
	Isolation string
	Reason    string
	At        time.Time
}

// Step is a transition that happened.
type Step struct {
	From   State
	Event  Event
	To     State
	Reason string
	At     time.Time
}

// Instant is t as records keep it: UTC, in whole microseconds.
func Instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Plain is a text as records keep it: UTF-8 without zero bytes, which databases refuse. What a program wrote before it
// died may be neither.
func Plain(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

// Check verifies a job about to be created.
func (j Job) Check() error {
	if _, err := ParseJobID(string(j.ID)); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	fresh := Job{ID: j.ID, Operator: j.Operator, Analyst: j.Analyst, Scenario: j.Scenario, Query: j.Query,
		EpsilonMicro: j.EpsilonMicro, State: Queued, Created: Instant(j.Created), Updated: Instant(j.Created)}
	switch {
	case j.Operator == "" || j.Analyst == "" || j.Query == "" || j.Scenario.IsZero() || j.Created.IsZero():
		return fmt.Errorf("job %s: %w: it lacks operator, analyst, query, scenario or time", j.ID, ErrInvalid)
	case Plain(j.Query) != j.Query:
		return fmt.Errorf("job %s: %w: its query is not text: it holds zero bytes or is not UTF-8", j.ID, ErrInvalid)
	case j.EpsilonMicro < 0:
		return fmt.Errorf("job %s: %w: it asks for a negative budget", j.ID, ErrInvalid)
	case j != fresh:
		return fmt.Errorf("job %s: %w: a new job is %s, without results, its times equal and in microseconds", j.ID, ErrInvalid, Queued)
	}
	return nil
}

// SameRequest reports whether two jobs ask for the same: then creating the second is a retry of the first.
func (j Job) SameRequest(o Job) bool {
	return j.ID == o.ID && j.Operator == o.Operator && j.Analyst == o.Analyst && j.Scenario == o.Scenario &&
		j.Query == o.Query && j.EpsilonMicro == o.EpsilonMicro
}

// Apply is the job after a change. moved is false where the job shows the change already, so that a caller that crashed
// after recording it may repeat it; of several that race, exactly one sees true. ErrConflict means that the job
// has gone elsewhere, ErrInvalid that the change lacks what its event must bring.
func (j Job) Apply(c Change) (after Job, moved bool, err error) {
	c.Reason, c.Isolation = Plain(c.Reason), Plain(c.Isolation)
	if err := c.check(); err != nil {
		return j, false, fmt.Errorf("job %s: %w", j.ID, err)
	}
	to, err := Next(c.From, c.Event)
	if err != nil {
		return j, false, fmt.Errorf("job %s: %w", j.ID, err)
	}
	after = j
	after.keep(c)
	if j.State == to && after == j {
		return j, false, nil
	}
	if j.State != c.From {
		return j, false, fmt.Errorf("job %s: %w: %q found it %s, not %s", j.ID, ErrConflict, c.Event, j.State, c.From)
	}
	after.State, after.Updated = to, Instant(c.At)
	after.Stage, after.Percent, after.Reason = "", 0, c.Reason // that of an earlier restart stays in its Step
	if c.Event == Start {
		after.Attempts++
	}
	return after, true, nil
}

func (j *Job) keep(c Change) {
	for _, f := range []struct {
		to   *enclave.Digest
		from enclave.Digest
	}{{&j.Plan, c.Plan}, {&j.Receipt, c.Receipt}, {&j.Release, c.Release}} {
		if !f.from.IsZero() {
			*f.to = f.from
		}
	}
	if c.Isolation != "" {
		j.Isolation = c.Isolation
	}
	if c.Reason != "" {
		j.Reason = c.Reason
	}
}

// check makes every event bring its own results and no other's.
func (c Change) check() error {
	if c.At.IsZero() {
		return fmt.Errorf("%w: event %q has no time", ErrInvalid, c.Event)
	}
	for _, f := range []struct {
		what  string
		there bool
		must  []Event
		may   []Event
	}{
		{"plan", !c.Plan.IsZero(), []Event{Plan}, nil},
		{"receipt", !c.Receipt.IsZero(), []Event{Compute}, nil},
		{"release", !c.Release.IsZero(), []Event{Release}, nil},
		{"reason", c.Reason != "", []Event{Refuse, Fail}, []Event{Cancel, Restart}},
		{"isolation", c.Isolation != "", nil, []Event{Start, Compute}},
	} {
		switch must := slices.Contains(f.must, c.Event); {
		case must && !f.there:
			return fmt.Errorf("%w: event %q needs a %s", ErrInvalid, c.Event, f.what)
		case f.there && !must && !slices.Contains(f.may, c.Event):
			return fmt.Errorf("%w: event %q brings no %s", ErrInvalid, c.Event, f.what)
		}
	}
	return nil
}
