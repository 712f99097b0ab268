package operators

import (
	"fmt"
	"slices"
	"time"
)

// Request asks whether a person may use an operator's scenario now.
type Request struct {
	Operator string    // the operator's body
	Scenario Digest    //
	Analyst  string    // who submits; that this person really does is the caller's to check
	Now      time.Time //
}

// Authorize concludes from statements and a time what an operator may do. It is a pure function: the order and the
// number of copies of the statements change nothing, and everybody who runs it on the same record gets the same bytes.
// The error is a *DeniedError with all reasons at once, or matches ErrRoster when there is nothing to reason from.
func Authorize(s Statements, r Request) (*Grant, error) {
	d, err := OpenDocket(s, r.Now)
	if err != nil {
		return nil, err
	}
	return d.Authorize(r.Operator, r.Scenario, r.Analyst)
}

// Authorize is the function of that name on statements already verified.
func (d *Docket) Authorize(operator string, scenario Digest, analyst string) (*Grant, error) {
	grant, reasons := d.Examine(operator, scenario)
	reasons = append(reasons, d.member(operator, analyst)...)
	if len(reasons) > 0 {
		return nil, Deny(reasons...)
	}
	return grant, nil
}

func (d *Docket) member(operator, analyst string) []Reason {
	p, ok := d.Roster.Find(analyst)
	if ok && p.Role == RoleAnalyst && p.Body == operator && !p.Absent {
		return nil
	}
	return []Reason{{ErrNotMember, analyst, fmt.Sprintf("%q is not an active analyst of operator %q", analyst, operator),
		"have the lab's roster name this person"}}
}

// Examine concludes for the operator as a whole, whoever submits: a Grant and no reason, or nil and all reasons.
func (d *Docket) Examine(operator string, scenario Digest) (*Grant, []Reason) {
	license, reasons := d.License(operator)
	s, ok := d.Scenario(scenario)
	if !ok {
		reasons = append(reasons, Reason{ErrUnknown, scenario.String(), fmt.Sprintf("scenario %s is not on record", scenario.Short()),
			"apply first, or check the digest"})
		return nil, append(reasons, d.setAside(operator, scenario)...)
	}
	reasons = append(reasons, d.scenarioProblems(operator, s)...)
	terms, why := d.terms(s)
	reasons = append(reasons, why...)
	approvals, why := d.ApprovalsOf(s)
	if len(approvals) < ApprovalsNeeded {
		reasons = append(reasons, Reason{ErrNotApproved, s.Body.Name, fmt.Sprintf("scenario %q has %d of %d officials' approvals",
			s.Body.Name, len(approvals), ApprovalsNeeded), "different officials of the bureau must approve it"})
		reasons = append(reasons, why...)
	}
	if len(reasons) > 0 {
		return nil, append(reasons, d.setAside(operator, scenario)...)
	}
	g := &Grant{
		Operator: operator, Scenario: s.Digest, License: license.Digest,
		Consents: terms.consents, Datasets: terms.datasets, Limits: terms.limits,
		EpsilonMicro: s.Body.EpsilonMicro, JobEpsilonMicro: s.Body.JobEpsilonMicro,
		MinCohort: s.Body.MinCohort, MarginMilli: s.Body.MarginMilli,
		Workers: slices.Clone(s.Body.Workers), NotAfter: s.Body.NotAfter,
	}
	if license.Body.NotAfter.Before(g.NotAfter.Time) {
		g.NotAfter = license.Body.NotAfter
	}
	// The first two to approve: a third approval must not rename the grant under running jobs.
	for _, a := range approvals[:ApprovalsNeeded] {
		g.Approvals = append(g.Approvals, a.Digest)
	}
	sortDigests(g.Approvals)
	sortDigests(g.Consents)
	return g, nil
}

// License finds the licence that an operator works under: of those in force the oldest, so that a renewal does not
// rename the grant before it must. Without one it says what is wrong with the newest.
func (d *Docket) License(operator string) (Filed[License], []Reason) {
	st := d.OperatorStanding(operator)
	reasons := []Reason{{ErrUnlicensed, operator, fmt.Sprintf("operator %q has no licence", operator), "an official of the bureau issues one"}}
	for _, l := range d.Licenses {
		if l.Body.Operator != operator {
			continue
		}
		reasons = d.licenseProblems(l, st)
		if len(reasons) == 0 {
			return l, nil
		}
	}
	return Filed[License]{}, reasons
}

func (d *Docket) licenseProblems(l Filed[License], st Standing) (out []Reason) {
	op := l.Body.Operator
	for _, v := range st.Suspended {
		out = append(out, Reason{ErrSuspended, op, fmt.Sprintf("operator %q is suspended by %q since %s", op, v.By.Name, text(v.Body.Made)),
			"an official of the bureau can resume it"})
	}
	if st.covers(l.Body.Made) {
		out = append(out, Reason{ErrRevoked, op, fmt.Sprintf("licence of operator %q was revoked at %s", op, text(st.Ended.Body.Made)),
			"only a new licence lets the operator in again"})
	}
	if l.By.Absent {
		out = append(out, Reason{ErrAbsent, l.By.Name, fmt.Sprintf("licence of operator %q was issued by %q, who has left", op, l.By.Name),
			"another official must issue it anew"})
	}
	if l.By.Body == op {
		out = append(out, Reason{ErrSelfApproval, l.By.Name, fmt.Sprintf("licence of operator %q was issued by %q of the same body", op, l.By.Name),
			"an official of the bureau must issue it"})
	}
	out = append(out, l.Body.problems()...)
	if d.Now.Before(l.Body.NotBefore.Time) {
		out = append(out, Reason{ErrUnlicensed, op, fmt.Sprintf("licence of operator %q begins at %s", op, text(l.Body.NotBefore)), "wait until then"})
	}
	if !d.Now.Before(l.Body.NotAfter.Time) {
		out = append(out, Reason{ErrExpired, op, fmt.Sprintf("licence of operator %q ended at %s", op, text(l.Body.NotAfter)),
			"an official of the bureau can issue another"})
	}
	return out
}

func (d *Docket) scenarioProblems(operator string, s Filed[Scenario]) (out []Reason) {
	name := s.Body.Name
	if s.Body.Operator != operator {
		out = append(out, Reason{ErrNotMember, operator, fmt.Sprintf("scenario %q is operator %q's, not %q's", name, s.Body.Operator, operator),
			"apply for an own scenario"})
	}
	if s.By.Body != s.Body.Operator {
		out = append(out, Reason{ErrNotMember, s.By.Name, fmt.Sprintf("scenario %q of operator %q was applied for by %q of %q",
			name, s.Body.Operator, s.By.Name, s.By.Body), "an analyst of the operator must apply"})
	}
	if s.By.Absent {
		out = append(out, Reason{ErrAbsent, s.By.Name, fmt.Sprintf("scenario %q was applied for by %q, who has left", name, s.By.Name),
			"another analyst must apply anew"})
	}
	out = append(out, s.Body.problems()...)
	if !d.Now.Before(s.Body.NotAfter.Time) {
		out = append(out, Reason{ErrExpired, name, fmt.Sprintf("scenario %q ended at %s", name, text(s.Body.NotAfter)), "apply anew"})
	}
	st := d.ScenarioStanding(s)
	if v := st.Ended; v != nil {
		rule, done := ErrRevoked, "revoked"
		if v.Body.Verdict == Refuse {
			rule, done = ErrRefused, "refused"
		}
		out = append(out, Reason{rule, name, fmt.Sprintf("scenario %q was %s by %q at %s", name, done, v.By.Name, text(v.Body.Made)),
			"that is final: apply anew with the reason answered"})
	}
	for _, v := range st.Suspended {
		out = append(out, Reason{ErrSuspended, name, fmt.Sprintf("scenario %q is suspended by %q since %s", name, v.By.Name, text(v.Body.Made)),
			"an official of the bureau can resume it"})
	}
	return out
}

func sortDigests(ds []Digest) {
	slices.SortFunc(ds, func(a, b Digest) int { return slices.Compare(a[:], b[:]) })
}
