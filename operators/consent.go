package operators

import (
	"fmt"
	"slices"
)

// terms is what the owners' consents leave of an application.
type terms struct {
	datasets []DatasetUse
	limits   []Limit
	consents []Digest
}

// terms intersects what was asked with every consent in force. A dataset of which nothing is left denies the whole
// application: half a question has another answer, not half of one.
func (d *Docket) terms(s Filed[Scenario]) (out terms, reasons []Reason) {
	for _, asked := range s.Body.Datasets {
		in, why := d.ConsentsFor(s, asked.Dataset)
		if len(in) == 0 {
			reasons = append(reasons, d.noConsent(s, asked.Dataset))
			reasons = append(reasons, why...)
			continue
		}
		granted, limit := asked, s.Body.EpsilonMicro
		for _, c := range in {
			granted = granted.Intersect(c.Body.Use)
			limit = min(limit, c.Body.EpsilonMicro)
			out.consents = append(out.consents, c.Digest)
		}
		if len(granted.Columns) == 0 {
			reasons = append(reasons, Reason{ErrNoConsent, asked.Dataset, fmt.Sprintf("the consents for dataset %q have no use in common", asked.Dataset),
				"a steward of the owner can revoke them and consent anew"})
			continue
		}
		out.datasets = append(out.datasets, granted)
		out.limits = append(out.limits, Limit{Dataset: asked.Dataset, EpsilonMicro: limit})
	}
	return out, reasons
}

func (d *Docket) noConsent(s Filed[Scenario], dataset string) Reason {
	owner := d.Owners[dataset]
	if owner == "" {
		return Reason{ErrUnknown, dataset, fmt.Sprintf("dataset %q has no known owner", dataset), "the agency must register its keyset first"}
	}
	return Reason{ErrNoConsent, dataset, fmt.Sprintf("owner %q has not consented to scenario %q using dataset %q", owner, s.Body.Name, dataset),
		"a data steward of the owner can consent"}
}

// ConsentsFor lists the consents in force that a scenario has for a dataset, and why any others do not count. Several may
// be in force; the narrowest of each use and budget holds. To widen one, its owner revokes and consents anew, which
// also asks the officials anew.
//
// The consent of a steward who has left permits nothing by itself but still narrows the others: a person's leaving must
// never widen a grant.
func (d *Docket) ConsentsFor(s Filed[Scenario], dataset string) (in []Filed[Consent], out []Reason) {
	st := d.ConsentStanding(s, dataset)
	active := false
	var left []Reason
	for _, c := range d.Consents {
		if c.Body.Scenario != s.Digest || c.Body.Use.Dataset != dataset {
			continue
		}
		switch why := d.consentProblems(s, c, st); {
		case len(why) == 0:
			in, active = append(in, c), true
		case len(why) == 1 && why[0].Rule == ErrAbsent:
			in, left = append(in, c), append(left, why...)
		default:
			out = append(out, why...)
		}
	}
	if !active {
		return nil, append(out, left...)
	}
	return in, out
}

// ConsentProblems says why a consent does not count for the scenario it names; none if it does.
func (d *Docket) ConsentProblems(s Filed[Scenario], c Filed[Consent]) []Reason {
	return d.consentProblems(s, c, d.ConsentStanding(s, c.Body.Use.Dataset))
}

func (d *Docket) consentProblems(s Filed[Scenario], c Filed[Consent], st Standing) (out []Reason) {
	name, id := c.Body.Use.Dataset, c.Digest.String()
	owner := d.Owners[name]
	if owner == "" || c.By.Body != owner {
		out = append(out, Reason{ErrOwner, id, fmt.Sprintf("consent for dataset %q is by %q of %q, not of its owner %q", name, c.By.Name, c.By.Body, owner),
			"a steward of the owner must consent"})
	}
	if c.By.Absent {
		out = append(out, Reason{ErrAbsent, id, fmt.Sprintf("consent for dataset %q is by %q, who has left", name, c.By.Name),
			"another steward of the owner must consent anew"})
	}
	out = append(out, c.Body.problems()...)
	i := slices.IndexFunc(s.Body.Datasets, func(a DatasetUse) bool { return a.Dataset == name })
	if i < 0 || !c.Body.Use.Within(s.Body.Datasets[i]) {
		out = append(out, Reason{ErrWideConsent, id, fmt.Sprintf("consent for dataset %q allows more than scenario %q asks for", name, s.Body.Name),
			"consent to what is asked, or to less"})
	}
	if c.Body.Made.Before(s.Body.Made.Time) {
		out = append(out, Reason{ErrStale, id, fmt.Sprintf("consent for dataset %q is dated before the application", name),
			"check the clock and consent anew"})
	}
	if st.covers(c.Body.Made) {
		out = append(out, Reason{ErrRevoked, id, fmt.Sprintf("consent for dataset %q was revoked by %q at %s", name, st.Ended.By.Name, text(st.Ended.Body.Made)),
			"a steward of the owner can consent anew"})
	}
	for _, v := range st.Suspended {
		out = append(out, Reason{ErrSuspended, id, fmt.Sprintf("consent for dataset %q is suspended by %q since %s", name, v.By.Name, text(v.Body.Made)),
			"an official of the bureau can resume it"})
	}
	return out
}
