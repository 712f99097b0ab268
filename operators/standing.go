package operators

import (
	"cmp"
	"slices"
)

// Standing is what decisions have made of a licence, scenario or consent.
type Standing struct {
	Ended     *Filed[Decision]  // latest refusal or revocation: for good
	Suspended []Filed[Decision] // per statement the earliest suspension that nobody has resumed, oldest first
}

// standing weighs the decisions about a group of statements that stand or fall together. The rules:
//
//   - An official's refusal, suspension or revocation always counts, also after that official has left.
//   - A steward's revocation counts for consents of the steward's own agency (owner; empty for other statements).
//   - Resuming counts from an active official who is not of the operator's body.
//   - Suspend and resume take effect in the order of Made, per statement; made in the same second, the suspension wins.
//   - Ended is ended, whatever comes later.
func (d *Docket) standing(group []Digest, operator, owner string) Standing {
	var counting []Filed[Decision]
	for _, v := range d.Decisions {
		if slices.Contains(group, v.Body.Subject) && MayDecide(v, operator, owner) {
			counting = append(counting, v)
		}
	}
	slices.SortStableFunc(counting, func(a, b Filed[Decision]) int {
		return cmp.Or(a.Body.Made.Compare(b.Body.Made.Time), restrictiveLast(a.Body.Verdict)-restrictiveLast(b.Body.Verdict))
	})
	var st Standing
	for _, v := range counting {
		same := func(o Filed[Decision]) bool { return o.Body.Subject == v.Body.Subject }
		switch v.Body.Verdict {
		case Refuse, Revoke:
			st.Ended = &v
		case Suspend:
			if !slices.ContainsFunc(st.Suspended, same) {
				st.Suspended = append(st.Suspended, v)
			}
		case Resume:
			st.Suspended = slices.DeleteFunc(st.Suspended, same)
		}
	}
	return st
}

// MayDecide reports whether a refusal, suspension, resumption or revocation counts for a statement that concerns this
// operator and, if it is a consent, this owner of the dataset. Approvals are counted by ApprovalsOf.
func MayDecide(v Filed[Decision], operator, owner string) bool {
	switch v.Body.Verdict {
	case Refuse, Suspend:
		return v.By.Role == RoleOfficial
	case Revoke:
		return v.By.Role == RoleOfficial || owner != "" && v.By.Role == RoleSteward && v.By.Body == owner
	case Resume:
		return v.By.Role == RoleOfficial && !v.By.Absent && v.By.Body != operator
	default:
		return false
	}
}

func restrictiveLast(v Verdict) int {
	if v == Resume {
		return 0
	}
	return 1
}

// covers reports whether the end of the group is also the end of a statement made then: only a later one is a new start.
func (s Standing) covers(made Time) bool {
	return s.Ended != nil && !made.After(s.Ended.Body.Made.Time)
}

// OperatorStanding weighs the decisions on all licences of an operator together. Revoking one ends every licence made
// up to then, and suspending one suspends the operator: nobody escapes a decision by holding a second licence.
func (d *Docket) OperatorStanding(operator string) Standing {
	var group []Digest
	for _, l := range d.Licenses {
		if l.Body.Operator == operator {
			group = append(group, l.Digest)
		}
	}
	return d.standing(group, operator, "")
}

// ScenarioStanding weighs the decisions on a scenario.
func (d *Docket) ScenarioStanding(s Filed[Scenario]) Standing {
	return d.standing([]Digest{s.Digest}, s.Body.Operator, "")
}

// ConsentStanding weighs the decisions on all consents that a scenario was given for one dataset together. Revoking one
// ends every consent made up to then, so that withdrawing a narrow consent never revives a wide one before it.
func (d *Docket) ConsentStanding(s Filed[Scenario], dataset string) Standing {
	var group []Digest
	for _, c := range d.Consents {
		if c.Body.Scenario == s.Digest && c.Body.Use.Dataset == dataset {
			group = append(group, c.Digest)
		}
	}
	return d.standing(group, s.Body.Operator, d.Owners[dataset])
}
