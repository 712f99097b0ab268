package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"yingzhou.dev/lab/operators"
)

// State is where a scenario stands.
type State string

// States, from the first step to the last word.
const (
	Applied   State = "applied"   // waits for the owners' consents
	Consented State = "consented" // waits for the officials' approvals
	Approved  State = "approved"  // jobs may be submitted
	Blocked   State = "blocked"   // the operator's licence or the application itself stands in the way
	Suspended State = "suspended" // the scenario or the operator, until resumed
	Expired   State = "expired"   // past its end
	Refused   State = "refused"   // for good
	Revoked   State = "revoked"   // for good
)

// Status is what `scenario show` prints: where a scenario stands, what is missing, who can do it, and how it came here.
type Status struct {
	Scenario operators.Digest   `json:"scenario"`
	Body     operators.Scenario `json:"body"`
	State    State              `json:"state"`
	Grant    *operators.Grant   `json:"grant,omitempty"`   // when approved
	Reasons  []operators.Reason `json:"reasons,omitempty"` // otherwise, all of them
	Next     []Step             `json:"next,omitempty"`
	Timeline []Event            `json:"timeline"`
}

// Step is something that is missing and the people of the roster who can do it. Nobody in Who means that the roster has
// to change first.
type Step struct {
	Rule operators.Rule `json:"rule"` // which it would satisfy
	Do   string         `json:"do"`
	Who  []string       `json:"who,omitempty"`
}

// Status tells where a scenario stands at an instant. An unknown scenario matches operators.ErrUnknown.
func (r *Registry) Status(ctx context.Context, scenario operators.Digest, now time.Time) (*Status, error) {
	d, err := r.Docket(ctx, now)
	if err != nil {
		return nil, err
	}
	s, ok := d.Scenario(scenario)
	if !ok {
		return nil, operators.Deny(operators.Reason{Rule: operators.ErrUnknown, Subject: scenario.String(),
			Text: fmt.Sprintf("scenario %s is not on record", scenario.Short()), Hint: "check the digest"})
	}
	return status(d, s), nil
}

// List is the Status of every scenario, oldest first.
func (r *Registry) List(ctx context.Context, now time.Time) ([]*Status, error) {
	d, err := r.Docket(ctx, now)
	if err != nil {
		return nil, err
	}
	out := make([]*Status, 0, len(d.Scenarios))
	for _, s := range d.Scenarios {
		out = append(out, status(d, s))
	}
	return out, nil
}

func status(d *operators.Docket, s operators.Filed[operators.Scenario]) *Status {
	grant, reasons := d.Examine(s.Body.Operator, s.Digest)
	st := &Status{Scenario: s.Digest, Body: s.Body, Grant: grant, Reasons: reasons, Timeline: timeline(d, s)}
	st.State = state(d, s)
	st.Next = next(d, s, st.State)
	return st
}

func state(d *operators.Docket, s operators.Filed[operators.Scenario]) State {
	own, op := d.ScenarioStanding(s), d.OperatorStanding(s.Body.Operator)
	_, unlicensed := d.License(s.Body.Operator)
	approvals, _ := d.ApprovalsOf(s)
	switch {
	case own.Ended != nil && own.Ended.Body.Verdict == operators.Refuse:
		return Refused
	case own.Ended != nil:
		return Revoked
	case !d.Now.Before(s.Body.NotAfter.Time):
		return Expired
	case len(own.Suspended)+len(op.Suspended) > 0:
		return Suspended
	case len(unlicensed) > 0 || !soundApplication(s):
		return Blocked
	case len(withoutConsent(d, s)) > 0:
		return Applied
	case len(approvals) < operators.ApprovalsNeeded:
		return Consented
	}
	return Approved
}

// soundApplication reports whether the application itself can ever be granted.
func soundApplication(s operators.Filed[operators.Scenario]) bool {
	return !s.By.Absent && s.By.Body == s.Body.Operator && s.Body.Validate() == nil
}

// withoutConsent lists the datasets of which the owners' consents leave nothing.
func withoutConsent(d *operators.Docket, s operators.Filed[operators.Scenario]) (out []operators.DatasetUse) {
	for _, use := range s.Body.Datasets {
		in, _ := d.ConsentsFor(s, use.Dataset)
		left := use
		for _, c := range in {
			left = left.Intersect(c.Body.Use)
		}
		if len(in) == 0 || len(left.Columns) == 0 {
			out = append(out, use)
		}
	}
	return out
}

// next says in plain words what has to happen now. Steps that only make sense after others are not listed yet.
func next(d *operators.Docket, s operators.Filed[operators.Scenario], st State) (steps []Step) {
	officials := people(d, operators.RoleOfficial, func(p operators.Party) bool { return p.Body != s.Body.Operator })
	switch st {
	case Refused, Revoked, Expired:
		return []Step{{operators.ErrUnknown, "apply anew: this application is over", analysts(d, s.Body.Operator)}}
	case Suspended:
		for _, v := range append(d.ScenarioStanding(s).Suspended, d.OperatorStanding(s.Body.Operator).Suspended...) {
			steps = append(steps, Step{operators.ErrSuspended, fmt.Sprintf("resume %s, suspended by %q: %s", v.Body.Subject.Short(), v.By.Name, v.Body.Reason), officials})
		}
		return steps
	case Blocked:
		if !soundApplication(s) {
			steps = append(steps, Step{operators.ErrInvalid, "apply anew: this application cannot be granted", analysts(d, s.Body.Operator)})
		}
		if _, why := d.License(s.Body.Operator); len(why) > 0 {
			steps = append(steps, Step{operators.ErrUnlicensed, fmt.Sprintf("license operator %q: %s", s.Body.Operator, why[0].Text), officials})
		}
		return steps
	case Applied:
		for _, use := range withoutConsent(d, s) {
			steps = append(steps, consentStep(d, use.Dataset))
		}
		return steps
	case Consented:
		in, _ := d.ApprovalsOf(s)
		waiting := slices.DeleteFunc(officials, func(name string) bool {
			return slices.ContainsFunc(in, func(v operators.Filed[operators.Decision]) bool { return v.By.Name == name })
		})
		return []Step{{operators.ErrNotApproved, fmt.Sprintf("approve the scenario: %d of %d approvals are there", len(in), operators.ApprovalsNeeded), waiting}}
	}
	return nil
}

func consentStep(d *operators.Docket, dataset string) Step {
	owner := d.Owners[dataset]
	if owner == "" {
		return Step{operators.ErrUnknown, fmt.Sprintf("register the keyset of dataset %q, whose owner is not known", dataset), people(d, operators.RoleSteward, nil)}
	}
	return Step{operators.ErrNoConsent, fmt.Sprintf("consent to the use of dataset %q for %q", dataset, owner),
		people(d, operators.RoleSteward, func(p operators.Party) bool { return p.Body == owner })}
}

func analysts(d *operators.Docket, operator string) []string {
	return people(d, operators.RoleAnalyst, func(p operators.Party) bool { return p.Body == operator })
}

func people(d *operators.Docket, role operators.Role, keep func(operators.Party) bool) (names []string) {
	for _, p := range d.Roster.WithRole(role) {
		if keep == nil || keep(p) {
			names = append(names, p.Name)
		}
	}
	return names
}
