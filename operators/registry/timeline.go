package registry

import (
	"fmt"
	"slices"

	"yingzhou.dev/lab/operators"
)

// Event is one statement in the history of a scenario. A statement that does not count is shown with the reason, so
// that nobody wonders where an approval went.
type Event struct {
	At        operators.Time   `json:"at,omitzero"` // zero for a statement that was set aside unread
	Statement operators.Digest `json:"statement"`
	By        string           `json:"by,omitempty"`
	Body      string           `json:"body,omitempty"` // whom By acts for
	What      string           `json:"what"`
	Reason    string           `json:"reason,omitempty"` // given by whoever decided
	Counts    bool             `json:"counts"`
	Note      string           `json:"note,omitempty"` // why it does not count
}

// timeline tells everything said about a scenario, its consents and, from the application on, its operator's licences.
func timeline(d *operators.Docket, s operators.Filed[operators.Scenario]) []Event {
	out := []Event{{At: s.Body.Made, Statement: s.Digest, By: s.By.Name, Body: s.By.Body, What: fmt.Sprintf("applied for scenario %q", s.Body.Name),
		Counts: soundApplication(s)}}
	if !out[0].Counts {
		out[0].Note = "the application cannot be granted"
	}
	consents := map[operators.Digest]string{} // digest → dataset
	for _, c := range d.Consents {
		if c.Body.Scenario == s.Digest {
			consents[c.Digest] = c.Body.Use.Dataset
			e := Event{At: c.Body.Made, Statement: c.Digest, By: c.By.Name, Body: c.By.Body, What: fmt.Sprintf("consented to the use of dataset %q", c.Body.Use.Dataset)}
			out = append(out, e.judged(d.ConsentProblems(s, c)))
		}
	}
	decisions := len(out) // where they begin
	licenses := map[operators.Digest]bool{}
	for _, l := range d.Licenses {
		licenses[l.Digest] = l.Body.Operator == s.Body.Operator
	}
	for _, v := range d.Decisions {
		dataset, consent := consents[v.Body.Subject]
		e := Event{At: v.Body.Made, Statement: v.Digest, By: v.By.Name, Body: v.By.Body, Reason: v.Body.Reason}
		switch {
		case v.Body.Subject == s.Digest && v.Body.Verdict == operators.Approve:
			e.What = "approved the scenario"
			e = e.judged(approval(d, s, v))
		case v.Body.Subject == s.Digest:
			e.What = past(v.Body.Verdict) + " the scenario"
			e = e.judged(verdict(v, s.Body.Operator, ""))
		case consent:
			e.What = fmt.Sprintf("%s the consent for dataset %q", past(v.Body.Verdict), dataset)
			e = e.judged(verdict(v, s.Body.Operator, d.Owners[dataset]))
		case licenses[v.Body.Subject] && !v.Body.Made.Before(s.Body.Made.Time):
			e.What = fmt.Sprintf("%s the licence of operator %q", past(v.Body.Verdict), s.Body.Operator)
			e = e.judged(verdict(v, s.Body.Operator, ""))
		default:
			continue
		}
		out = append(out, e)
	}
	// Statements carry whole seconds. Within one, what is said comes after what it is said about.
	byDigest := func(a, b Event) int { return slices.Compare(a.Statement[:], b.Statement[:]) }
	slices.SortFunc(out[1:decisions], byDigest)
	slices.SortFunc(out[decisions:], byDigest)
	slices.SortStableFunc(out, func(a, b Event) int { return a.At.Compare(b.At.Time) })
	for _, aside := range d.SetAside {
		if aside.About == s.Digest {
			out = append(out, Event{Statement: aside.Digest, What: "a statement was set aside", Note: aside.Err.Error()})
		}
	}
	return out
}

func (e Event) judged(why []operators.Reason) Event {
	e.Counts = len(why) == 0
	for i, r := range why {
		if i > 0 {
			e.Note += "; "
		}
		e.Note += r.Text
	}
	return e
}

// approval adds to the rules the plain case of an official who approves twice.
func approval(d *operators.Docket, s operators.Filed[operators.Scenario], v operators.Filed[operators.Decision]) []operators.Reason {
	if why := d.ApprovalProblems(s, v); len(why) > 0 {
		return why
	}
	in, _ := d.ApprovalsOf(s)
	if slices.ContainsFunc(in, func(a operators.Filed[operators.Decision]) bool { return a.Digest == v.Digest }) {
		return nil
	}
	return []operators.Reason{{Rule: operators.ErrRepeated, Subject: v.Digest.String(), Text: fmt.Sprintf("%q had approved before", v.By.Name)}}
}

func verdict(v operators.Filed[operators.Decision], operator, owner string) []operators.Reason {
	if operators.MayDecide(v, operator, owner) {
		return nil
	}
	return []operators.Reason{{Rule: operators.ErrRole, Subject: v.Digest.String(), Text: fmt.Sprintf("%q of %q cannot decide this", v.By.Name, v.By.Body)}}
}

func past(v operators.Verdict) string {
	switch v {
	case operators.Approve:
		return "approved"
	case operators.Refuse:
		return "refused"
	case operators.Suspend:
		return "suspended"
	case operators.Resume:
		return "resumed"
	case operators.Revoke:
		return "revoked"
	}
	return fmt.Sprintf("said %q about", string(v))
}
