package registry

import (
	"slices"

	"yingzhou.dev/lab/operators"
)

// subject is what a decision is about. Exactly one of the pointers is set.
type subject struct {
	license  *operators.Filed[operators.License]
	scenario *operators.Filed[operators.Scenario]
	consent  *operators.Filed[operators.Consent]

	operator string // whose people may not decide in its favour
	owner    string // agency whose stewards may revoke; consents only
	standing operators.Standing
}

// find looks the subject up among the genuine statements, also those that do not count: they can still be revoked.
func find(d *operators.Docket, digest operators.Digest) (subject, bool) {
	if s, ok := d.Scenario(digest); ok {
		return subject{scenario: &s, operator: s.Body.Operator, standing: d.ScenarioStanding(s)}, true
	}
	if i := slices.IndexFunc(d.Licenses, func(l operators.Filed[operators.License]) bool { return l.Digest == digest }); i >= 0 {
		l := d.Licenses[i]
		return subject{license: &l, operator: l.Body.Operator, standing: d.OperatorStanding(l.Body.Operator)}, true
	}
	if i := slices.IndexFunc(d.Consents, func(c operators.Filed[operators.Consent]) bool { return c.Digest == digest }); i >= 0 {
		c := d.Consents[i]
		sub := subject{consent: &c, owner: d.Owners[c.Body.Use.Dataset]}
		if s, ok := d.Scenario(c.Body.Scenario); ok {
			sub.operator, sub.standing = s.Body.Operator, d.ConsentStanding(s, c.Body.Use.Dataset)
		}
		return sub, true
	}
	return subject{}, false
}

// suspension is the one in force on this very statement, not on another of its group.
func (s subject) suspension(digest operators.Digest) *operators.Filed[operators.Decision] {
	for _, v := range s.standing.Suspended {
		if v.Body.Subject == digest {
			return &v
		}
	}
	return nil
}

func (o *objections) decision(d *operators.Docket, v operators.Filed[operators.Decision]) {
	o.validate(v.Body.Validate())
	sub, ok := find(d, v.Body.Subject)
	if !ok {
		o.add(operators.ErrUnknown, v.Body.Subject.String(), "check the digest", "%s is no licence, application or consent on record", v.Body.Subject.Short())
		return
	}
	if v.By.Role == operators.RoleSteward {
		o.steward(sub, v)
	}
	switch v.Body.Verdict {
	case operators.Approve:
		o.approve(d, sub, v)
	case operators.Refuse:
		if sub.scenario == nil {
			o.add(operators.ErrInvalid, v.Body.Subject.String(), "revoke it instead", "only an application can be refused")
		}
		o.notEnded(sub, v)
	case operators.Suspend:
		if sub.consent != nil {
			o.add(operators.ErrInvalid, v.Body.Subject.String(), "revoke it, or suspend the scenario", "a consent cannot be suspended")
		}
		o.notEnded(sub, v)
		if s := sub.suspension(v.Body.Subject); s != nil {
			o.add(operators.ErrRepeated, s.Digest.String(), "nothing to do", "already suspended by %q since %s", s.By.Name, stamp(s.Body.Made))
		}
	case operators.Resume:
		o.resume(sub, v)
	case operators.Revoke:
		o.notEnded(sub, v)
	}
}

// steward narrows what a steward may decide: to revoke a consent for the own agency's data.
func (o *objections) steward(sub subject, v operators.Filed[operators.Decision]) {
	if v.Body.Verdict != operators.Revoke || sub.consent == nil {
		o.add(operators.ErrRole, v.By.Name, "an official of the bureau decides this", "a steward may only revoke a consent, not %s this", v.Body.Verdict)
	} else if v.By.Body != sub.owner {
		o.add(operators.ErrOwner, v.By.Name, "a steward of the owner may revoke it", "%q of %q cannot revoke a consent of %q", v.By.Name, v.By.Body, sub.owner)
	}
}

func (o *objections) approve(d *operators.Docket, sub subject, v operators.Filed[operators.Decision]) {
	if sub.scenario == nil {
		o.add(operators.ErrInvalid, v.Body.Subject.String(), "name the application's digest", "only an application can be approved")
		return
	}
	s := *sub.scenario
	o.open(d, s)
	for _, p := range d.ApprovalProblems(s, v) {
		if p.Rule != operators.ErrRole { // said by steward, in better words
			*o = append(*o, p)
		}
	}
	for _, use := range s.Body.Datasets { // officials approve what the owners have consented to
		if in, _ := d.ConsentsFor(s, use.Dataset); len(in) == 0 {
			o.add(operators.ErrNoConsent, use.Dataset, "wait for a steward of the owner to consent", "owner %q of dataset %q has not consented yet",
				d.Owners[use.Dataset], use.Dataset)
		}
	}
	in, _ := d.ApprovalsOf(s)
	for _, have := range in {
		if have.By.Name == v.By.Name {
			o.add(operators.ErrRepeated, have.Digest.String(), "a different official must give the other approval", "%q has approved scenario %q already, at %s",
				v.By.Name, s.Body.Name, stamp(have.Body.Made))
		}
	}
}

func (o *objections) resume(sub subject, v operators.Filed[operators.Decision]) {
	if v.By.Body == sub.operator {
		o.add(operators.ErrSelfApproval, v.By.Name, "an official of the bureau must resume it", "%q cannot resume for the own body %q", v.By.Name, sub.operator)
	}
	if s := sub.suspension(v.Body.Subject); s == nil {
		o.add(operators.ErrRepeated, v.Body.Subject.String(), "nothing to do", "it is not suspended")
	} else if !v.Body.Made.After(s.Body.Made.Time) { // in the same second the suspension wins
		o.add(operators.ErrStale, s.Digest.String(), "resume it again", "dated %s, not after the suspension at %s", stamp(v.Body.Made), stamp(s.Body.Made))
	}
	o.notEnded(sub, v)
}

// notEnded objects to deciding about what is over already.
func (o *objections) notEnded(sub subject, v operators.Filed[operators.Decision]) {
	e := sub.standing.Ended
	if e == nil {
		return
	}
	// Licences and consents end as a group: one made since is a new beginning.
	var made operators.Time
	switch {
	case sub.license != nil:
		made = sub.license.Body.Made
	case sub.consent != nil:
		made = sub.consent.Body.Made
	}
	if made.After(e.Body.Made.Time) {
		return
	}
	o.add(operators.ErrRepeated, e.Digest.String(), "that is final", "ended already: %s by %q at %s", e.Body.Verdict, e.By.Name, stamp(e.Body.Made))
}
