package registry

import (
	"fmt"
	"slices"
	"time"

	"yingzhou.dev/lab/operators"
)

// objections collects reasons against a new statement.
type objections []operators.Reason

func (o *objections) add(rule operators.Rule, subject, hint, format string, a ...any) {
	*o = append(*o, operators.Reason{Rule: rule, Subject: subject, Text: fmt.Sprintf(format, a...), Hint: hint})
}

// validate takes over the reasons of a Validate method.
func (o *objections) validate(err error) {
	if denied, ok := err.(*operators.DeniedError); ok {
		*o = append(*o, denied.Reasons...)
	}
}

// check says why a new statement by this author would not count, or would only do harm. It returns nil or a
// *operators.DeniedError.
func check(d *operators.Docket, s operators.Signed, by operators.Party) error {
	var o objections
	var made operators.Time
	var err error
	switch s.Kind {
	case operators.KindLicense:
		var l operators.License
		if err = s.Open(s.Kind, &l); err == nil {
			made = l.Made
			o.license(d, &l, by)
		}
	case operators.KindScenario:
		var a operators.Scenario
		if err = s.Open(s.Kind, &a); err == nil {
			made = a.Made
			o.scenario(d, &a, by)
		}
	case operators.KindConsent:
		var c operators.Consent
		if err = s.Open(s.Kind, &c); err == nil {
			made = c.Made
			o.consent(d, operators.Filed[operators.Consent]{Digest: s.Digest(), Body: c, By: by})
		}
	case operators.KindDecision:
		var v operators.Decision
		if err = s.Open(s.Kind, &v); err == nil {
			made = v.Made
			o.decision(d, operators.Filed[operators.Decision]{Digest: s.Digest(), Body: v, By: by})
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", operators.ErrInvalid, err)
	}
	if made.After(d.Now.Add(operators.Skew)) {
		o.add(operators.ErrFuture, by.Name, "set the clock right", "statement is dated %s, later than now", stamp(made))
	}
	return operators.Deny(o...)
}

func (o *objections) license(d *operators.Docket, l *operators.License, by operators.Party) {
	o.validate(l.Validate())
	if by.Body == l.Operator {
		o.add(operators.ErrSelfApproval, by.Name, "an official of the bureau must issue it", "%q cannot license the own body %q", by.Name, l.Operator)
	}
	if !slices.ContainsFunc(d.Roster.WithRole(operators.RoleAnalyst), func(p operators.Party) bool { return p.Body == l.Operator }) {
		o.add(operators.ErrUnknown, l.Operator, "name its analysts in the roster first, or check the spelling", "operator %q has no analyst in the roster", l.Operator)
	}
	if !d.Now.Before(l.NotAfter.Time) {
		o.add(operators.ErrExpired, l.Operator, "give a later end", "licence would have ended already, at %s", stamp(l.NotAfter))
	}
	st := d.OperatorStanding(l.Operator)
	for _, v := range st.Suspended {
		o.add(operators.ErrSuspended, l.Operator, "resume or revoke that licence first", "operator %q is suspended since %s, a new licence would not change that",
			l.Operator, stamp(v.Body.Made))
	}
	if v := st.Ended; v != nil && !l.Made.After(v.Body.Made.Time) {
		o.add(operators.ErrRevoked, l.Operator, "issue it again", "licence would fall under the revocation of %s", stamp(v.Body.Made))
	}
}

func (o *objections) scenario(d *operators.Docket, a *operators.Scenario, by operators.Party) {
	o.validate(a.Validate())
	if by.Body != a.Operator {
		o.add(operators.ErrNotMember, by.Name, "an analyst of the operator must apply", "%q of %q cannot apply for operator %q", by.Name, by.Body, a.Operator)
	}
	if !d.Now.Before(a.NotAfter.Time) {
		o.add(operators.ErrExpired, a.Name, "give a later end", "scenario would have ended already, at %s", stamp(a.NotAfter))
	}
	_, why := d.License(a.Operator)
	*o = append(*o, why...)
	for _, use := range a.Datasets {
		if d.Owners[use.Dataset] == "" {
			o.add(operators.ErrUnknown, use.Dataset, "look it up in the catalogue", "dataset %q is not on record", use.Dataset)
		}
	}
}

func (o *objections) consent(d *operators.Docket, c operators.Filed[operators.Consent]) {
	s, ok := d.Scenario(c.Body.Scenario)
	if !ok {
		o.add(operators.ErrUnknown, c.Body.Scenario.String(), "check the digest", "scenario %s is not on record", c.Body.Scenario.Short())
		o.validate(c.Body.Validate())
		return
	}
	o.open(d, s)
	// Revoking ends the consents made up to then; this one is judged with that.
	*o = append(*o, d.ConsentProblems(s, c)...)
	in, _ := d.ConsentsFor(s, c.Body.Use.Dataset)
	for _, have := range in {
		if !c.Body.Use.Within(have.Body.Use) || c.Body.EpsilonMicro > have.Body.EpsilonMicro {
			o.add(operators.ErrWideConsent, have.Digest.String(), "revoke that one first, then consent anew",
				"consent %s by %q is in force for dataset %q and narrower", have.Digest.Short(), have.By.Name, c.Body.Use.Dataset)
		} else if have.Body.Use.Within(c.Body.Use) && c.Body.EpsilonMicro == have.Body.EpsilonMicro && !have.By.Absent {
			o.add(operators.ErrRepeated, have.Digest.String(), "nothing to do", "consent %s by %q says the same, and repeating it would undo the approvals",
				have.Digest.Short(), have.By.Name)
		}
	}
}

// open objects to a scenario that has ended, for whatever reason.
func (o *objections) open(d *operators.Docket, s operators.Filed[operators.Scenario]) {
	if v := d.ScenarioStanding(s).Ended; v != nil {
		rule := operators.ErrRevoked
		if v.Body.Verdict == operators.Refuse {
			rule = operators.ErrRefused
		}
		o.add(rule, s.Body.Name, "the operator must apply anew", "scenario %q was ended by %q at %s, for good", s.Body.Name, v.By.Name, stamp(v.Body.Made))
	}
	if !d.Now.Before(s.Body.NotAfter.Time) {
		o.add(operators.ErrExpired, s.Body.Name, "the operator must apply anew", "scenario %q ended at %s", s.Body.Name, stamp(s.Body.NotAfter))
	}
	if s.By.Absent {
		o.add(operators.ErrAbsent, s.By.Name, "another analyst must apply anew", "scenario %q was applied for by %q, who has left", s.Body.Name, s.By.Name)
	}
}

func stamp(t operators.Time) string { return t.UTC().Format(time.RFC3339) }
