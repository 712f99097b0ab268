package sandbox

import (
	"fmt"
	"strings"
)

// State is how far a job has come.
type State string

const (
	Queued    State = "queued"    // submitted; not yet authorised
	Planned   State = "planned"   // authorised, its plan signed and logged; waits for a worker
	Running   State = "running"   // a worker evaluates the plan over sealed blobs
	Computed  State = "computed"  // the receipt is logged; waits for the custodians
	Opening   State = "opening"   // custodians are asked; the budget may be charged from here on
	Released  State = "released"  // a quorum signed the release
	Refused   State = "refused"   // a rule said no; Job.Reason says which
	Failed    State = "failed"    // something broke; Job.Reason says what
	Cancelled State = "cancelled" // by the operator
)

// Event is what moves a job on.
type Event string

const (
	Plan    Event = "plan"    // brings Change.Plan
	Start   Event = "start"   // counts an attempt
	Restart Event = "restart" // the worker or the control plane died; nothing had been opened
	Compute Event = "compute" // brings Change.Receipt
	Open    Event = "open"    //
	Release Event = "release" // brings Change.Release
	Refuse  Event = "refuse"  // brings Change.Reason
	Fail    Event = "fail"    // brings Change.Reason
	Cancel  Event = "cancel"  //
)

// Transition is one line of the table.
type Transition struct {
	From  State
	Event Event
	To    State
}

// Transitions is the whole table: what is not here does not happen. A job that is opening cannot be cancelled, because
// its budget may be spent already and finishing costs nothing. It has no restart either: shares are deterministic, so
// after a crash the custodians are simply asked again.
func Transitions() []Transition {
	return []Transition{
		{Queued, Plan, Planned},
		{Planned, Start, Running},
		{Running, Restart, Planned},
		{Running, Compute, Computed},
		{Computed, Open, Opening},
		{Opening, Release, Released},

		{Queued, Refuse, Refused},
		{Planned, Refuse, Refused}, // a licence, consent or approval ended meanwhile
		{Computed, Refuse, Refused},
		{Opening, Refuse, Refused}, // by the custodians

		{Queued, Fail, Failed},
		{Planned, Fail, Failed},
		{Running, Fail, Failed},
		{Computed, Fail, Failed},
		{Opening, Fail, Failed},

		{Queued, Cancel, Cancelled},
		{Planned, Cancel, Cancelled},
		{Running, Cancel, Cancelled},
		{Computed, Cancel, Cancelled},
	}
}

// States lists every state in the order of a job's life.
func States() []State {
	return []State{Queued, Planned, Running, Computed, Opening, Released, Refused, Failed, Cancelled}
}

// Next is the state that an event leads to. One that the table lacks is ErrConflict.
func Next(s State, e Event) (State, error) {
	for _, t := range Transitions() {
		if t.From == s && t.Event == e {
			return t.To, nil
		}
	}
	return "", fmt.Errorf("%w: nothing leads from state %q by event %q", ErrConflict, s, e)
}

// CanCancel reports whether the operator may still cancel.
func (s State) CanCancel() bool {
	_, err := Next(s, Cancel)
	return err == nil
}

// Ended reports whether nothing follows.
func (s State) Ended() bool {
	for _, t := range Transitions() {
		if t.From == s {
			return false
		}
	}
	return true
}

// Diagram draws the table for docs/ARCHITECTURE.md, in Mermaid.
func Diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> queued\n")
	for _, t := range Transitions() {
		fmt.Fprintf(&b, "    %s --> %s: %s\n", t.From, t.To, t.Event)
	}
	for _, s := range States() {
		if s.Ended() {
			fmt.Fprintf(&b, "    %s --> [*]\n", s)
		}
	}
	return b.String()
}
