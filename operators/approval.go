package operators

import (
	"fmt"
	"slices"
)

// ApprovalsOf lists the approvals of a scenario that count, one per official and oldest first, and why any others do not.
//
// An approval covers what its official could see: it counts only if it was made no earlier than the application and
// than the last change of a consent in force. A new consent therefore asks the officials anew.
func (d *Docket) ApprovalsOf(s Filed[Scenario]) (in []Filed[Decision], out []Reason) {
	since := d.coverFrom(s)
	for _, v := range d.Decisions {
		if v.Body.Subject != s.Digest || v.Body.Verdict != Approve {
			continue
		}
		if why := approvalProblems(s, v, since); len(why) > 0 {
			out = append(out, why...)
			continue
		}
		if !slices.ContainsFunc(in, func(a Filed[Decision]) bool { return a.By.Name == v.By.Name }) {
			in = append(in, v)
		}
	}
	return in, out
}

// ApprovalProblems says why an approval does not count for the scenario it names; none if it does.
func (d *Docket) ApprovalProblems(s Filed[Scenario], v Filed[Decision]) []Reason {
	return approvalProblems(s, v, d.coverFrom(s))
}

// coverFrom is the instant from which an approval has seen everything that it approves.
func (d *Docket) coverFrom(s Filed[Scenario]) Time {
	since := s.Body.Made
	for _, asked := range s.Body.Datasets {
		in, _ := d.ConsentsFor(s, asked.Dataset)
		for _, c := range in {
			if c.Body.Made.After(since.Time) {
				since = c.Body.Made
			}
		}
	}
	return since
}

func approvalProblems(s Filed[Scenario], v Filed[Decision], since Time) (out []Reason) {
	who, id := v.By.Name, v.Digest.String()
	// Nobody approves their own: neither the applicant nor a colleague at the operator, in whatever role.
	if who == s.Body.By || v.By.Body == s.Body.Operator {
		out = append(out, Reason{ErrSelfApproval, id, fmt.Sprintf("approval of scenario %q is by %q of the operator itself", s.Body.Name, who),
			"an official of the bureau must approve"})
	}
	if v.By.Role != RoleOfficial {
		out = append(out, Reason{ErrRole, id, fmt.Sprintf("approval of scenario %q is by %q, who is %s", s.Body.Name, who, v.By.Role),
			"an official of the bureau must approve"})
	}
	if v.By.Absent {
		out = append(out, Reason{ErrAbsent, id, fmt.Sprintf("approval of scenario %q is by %q, who has left", s.Body.Name, who),
			"another official must approve"})
	}
	if v.Body.Made.Before(since.Time) {
		out = append(out, Reason{ErrStale, id, fmt.Sprintf("approval of scenario %q by %q at %s does not cover what changed at %s",
			s.Body.Name, who, text(v.Body.Made), text(since)), "the official must look again and approve anew"})
	}
	return out
}
