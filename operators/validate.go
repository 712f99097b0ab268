package operators

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// MaxLicenseYears is the longest validity of a licence.
	MaxLicenseYears = 5
	// MinCohortFloor is the least number of people per released cell that an application may ask for.
	MinCohortFloor = 10
	// ApprovalsNeeded is the number of different officials who must approve a scenario.
	ApprovalsNeeded = 2
)

func invalid(subject, format string, a ...any) Reason {
	return Reason{Rule: ErrInvalid, Subject: subject, Text: fmt.Sprintf(format, a...)}
}

// Validate checks a licence by itself: who, a validity of at most five years, and the two files that art. 31 asks for.
// It returns a *DeniedError with every fault.
func (l *License) Validate() error { return Deny(l.problems()...) }

func (l *License) problems() (out []Reason) {
	if blank(l.Operator) {
		out = append(out, invalid("operator", "licence names no operator"))
	}
	if !l.NotBefore.Before(l.NotAfter.Time) {
		out = append(out, invalid("not_after", "licence ends at %s, not after its beginning at %s", text(l.NotAfter), text(l.NotBefore)))
	}
	if l.NotAfter.After(l.NotBefore.AddDate(MaxLicenseYears, 0, 0)) {
		out = append(out, invalid("not_after", "licence runs from %s to %s: at most %d years", text(l.NotBefore), text(l.NotAfter), MaxLicenseYears))
	}
	if blank(l.SecurityReview) {
		out = append(out, invalid("security_review", "licence names no security review (art. 31)"))
	}
	if blank(l.Agreement) {
		out = append(out, invalid("agreement", "licence names no confidentiality agreement (art. 31)"))
	}
	return out
}

// Validate checks an application by itself: what is asked, in the one order that has one digest, and the bounds on
// budget, cohort and margin. It returns a *DeniedError with every fault.
func (s *Scenario) Validate() error { return Deny(s.problems()...) }

func (s *Scenario) problems() (out []Reason) {
	for _, f := range []struct{ name, value string }{{"name", s.Name}, {"operator", s.Operator}, {"purpose", s.Purpose}} {
		if blank(f.value) {
			out = append(out, invalid(f.name, "application has no %s", f.name)) // art. 18: the purpose must be stated
		}
	}
	if len(s.Datasets) == 0 {
		out = append(out, invalid("datasets", "application asks for no dataset"))
	}
	for i, d := range s.Datasets {
		if i > 0 && s.Datasets[i-1].Dataset >= d.Dataset {
			out = append(out, invalid(d.Dataset, "datasets are not sorted, or %q is asked for twice", d.Dataset))
		}
		out = append(out, d.problems()...)
	}
	if s.EpsilonMicro <= 0 {
		out = append(out, invalid("epsilon_micro", "privacy budget %d is not positive", s.EpsilonMicro))
	}
	if s.JobEpsilonMicro <= 0 || s.JobEpsilonMicro > s.EpsilonMicro {
		out = append(out, invalid("job_epsilon_micro", "budget per job %d is not between 1 and the whole budget %d", s.JobEpsilonMicro, s.EpsilonMicro))
	}
	if s.MinCohort < MinCohortFloor {
		out = append(out, invalid("min_cohort", "cells of %d people: at least %d", s.MinCohort, MinCohortFloor))
	}
	if s.MarginMilli < 0 {
		out = append(out, invalid("margin_milli", "suppression margin %d is negative", s.MarginMilli))
	}
	if len(s.Workers) == 0 {
		out = append(out, invalid("workers", "application names no worker program"))
	}
	for i, w := range s.Workers {
		if w.IsZero() || i > 0 && slices.Compare(s.Workers[i-1][:], w[:]) >= 0 {
			out = append(out, invalid("workers", "worker programs are not sorted, or one is given twice or is empty"))
			break
		}
	}
	if !s.NotAfter.After(s.Made.Time) {
		out = append(out, invalid("not_after", "application ends at %s, not after it was made at %s", text(s.NotAfter), text(s.Made)))
	}
	return out
}

// problems checks that columns and uses are known, sorted and not repeated.
func (d DatasetUse) problems() (out []Reason) {
	if blank(d.Dataset) {
		out = append(out, invalid("dataset", "a dataset has no name"))
	}
	if len(d.Columns) == 0 {
		out = append(out, invalid(d.Dataset, "no column of dataset %q is named", d.Dataset))
	}
	for i, c := range d.Columns {
		if blank(c.Column) {
			out = append(out, invalid(d.Dataset, "a column of dataset %q has no name", d.Dataset))
		}
		if i > 0 && d.Columns[i-1].Column >= c.Column {
			out = append(out, invalid(d.Dataset, "columns of dataset %q are not sorted, or %q is given twice", d.Dataset, c.Column))
		}
		if len(c.Uses) == 0 {
			out = append(out, invalid(d.Dataset, "column %q of dataset %q has no use", c.Column, d.Dataset))
		}
		for j, u := range c.Uses {
			if u != UseGroup && u != UseFilter && u != UseAggregate && u != UseJoin {
				out = append(out, invalid(d.Dataset, "column %q of dataset %q has unknown use %q", c.Column, d.Dataset, u))
			}
			if j > 0 && c.Uses[j-1] >= u {
				out = append(out, invalid(d.Dataset, "uses of column %q of dataset %q are not sorted, or one is given twice", c.Column, d.Dataset))
				break
			}
		}
	}
	return out
}

// Validate checks a consent by itself. It returns a *DeniedError with every fault.
func (c *Consent) Validate() error { return Deny(c.problems()...) }

func (c *Consent) problems() (out []Reason) {
	if c.Scenario.IsZero() {
		out = append(out, invalid("scenario", "consent names no scenario"))
	}
	out = append(out, c.Use.problems()...)
	if c.EpsilonMicro <= 0 {
		out = append(out, invalid("epsilon_micro", "consented privacy budget %d is not positive", c.EpsilonMicro))
	}
	return out
}

// Validate checks a decision by itself. Whoever says no must say why; a restriction without a reason still binds
// (Authorize counts it), it is only not accepted for the record. It returns a *DeniedError with every fault.
func (d *Decision) Validate() error { return Deny(d.problems()...) }

func (d *Decision) problems() (out []Reason) {
	if d.Subject.IsZero() {
		out = append(out, invalid("subject", "decision is about nothing"))
	}
	if !slices.Contains([]Verdict{Approve, Refuse, Suspend, Resume, Revoke}, d.Verdict) {
		out = append(out, invalid("verdict", "unknown verdict %q", d.Verdict))
	}
	if d.Verdict != Approve && blank(d.Reason) {
		out = append(out, invalid("reason", "a decision to %s needs a reason", d.Verdict))
	}
	return out
}

// Within reports whether every use that d allows is one that asked allows too.
func (d DatasetUse) Within(asked DatasetUse) bool {
	if d.Dataset != asked.Dataset {
		return false
	}
	for _, c := range d.Columns {
		for _, u := range c.Uses {
			if !asked.May(c.Column, u) {
				return false
			}
		}
	}
	return true
}

// Intersect keeps the uses that both allow, in d's order, and drops columns with none left.
func (d DatasetUse) Intersect(other DatasetUse) DatasetUse {
	out := DatasetUse{Dataset: d.Dataset, Columns: []ColumnUse{}}
	for _, c := range d.Columns {
		var uses []Use
		for _, u := range c.Uses {
			if other.May(c.Column, u) {
				uses = append(uses, u)
			}
		}
		if len(uses) > 0 {
			out.Columns = append(out.Columns, ColumnUse{Column: c.Column, Uses: uses})
		}
	}
	return out
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

// text shows an instant as it stands in the artefact.
func text(t Time) string { return t.UTC().Format(time.RFC3339) }
