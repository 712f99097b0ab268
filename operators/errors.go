package operators

import (
	"strings"

	"yingzhou.dev/lab/internal/canon"
)

// Rule is one of the rules that Authorize and the registry apply. It is an error, so that callers branch with
// errors.Is(err, operators.ErrExpired), and a short fixed word, so that it survives a trip over the wire and can be
// translated.
type Rule string

// The rules. A DeniedError matches every rule that one of its reasons names.
const (
	ErrRoster       Rule = "roster"        // the roster is not the lab's or breaks its own rules
	ErrSignature    Rule = "signature"     // not signed by the person it names, or that person is unknown
	ErrRole         Rule = "role"          // signed by somebody whose role does not allow it
	ErrAbsent       Rule = "absent"        // signed by somebody who has left
	ErrFuture       Rule = "future"        // dated later than now
	ErrInvalid      Rule = "invalid"       // malformed or outside the bounds of its kind
	ErrUnknown      Rule = "unknown"       // names something that is not on record
	ErrNotMember    Rule = "not-member"    // the person is not an active analyst of the operator
	ErrUnlicensed   Rule = "unlicensed"    // the operator has no licence in force
	ErrExpired      Rule = "expired"       // the licence or scenario has ended
	ErrSuspended    Rule = "suspended"     // the licence, scenario or consent is suspended
	ErrRevoked      Rule = "revoked"       // the licence, scenario or consent was revoked for good
	ErrRefused      Rule = "refused"       // the scenario was refused for good
	ErrNoConsent    Rule = "no-consent"    // a dataset's owner has not consented
	ErrWideConsent  Rule = "wide-consent"  // a consent allows what the scenario did not ask for
	ErrOwner        Rule = "owner"         // signed by a steward of an agency that does not own the dataset
	ErrNotApproved  Rule = "not-approved"  // fewer than two officials' approvals count
	ErrSelfApproval Rule = "self-approval" // signed by the applicant or by a person of the operator
	ErrStale        Rule = "stale"         // made before what it would have to cover
	ErrRepeated     Rule = "repeated"      // already said, and in force
)

var ruleTexts = map[Rule]string{
	ErrRoster:       "roster is not valid",
	ErrSignature:    "signature does not verify",
	ErrRole:         "role does not allow this",
	ErrAbsent:       "signer has left the lab",
	ErrFuture:       "statement is dated in the future",
	ErrInvalid:      "statement is not valid",
	ErrUnknown:      "not on record",
	ErrNotMember:    "not an active analyst of the operator",
	ErrUnlicensed:   "operator has no licence in force",
	ErrExpired:      "validity has ended",
	ErrSuspended:    "suspended",
	ErrRevoked:      "revoked",
	ErrRefused:      "refused",
	ErrNoConsent:    "owner's consent is missing",
	ErrWideConsent:  "consent is wider than what was asked",
	ErrOwner:        "dataset belongs to another agency",
	ErrNotApproved:  "two officials' approvals are missing",
	ErrSelfApproval: "nobody approves their own application",
	ErrStale:        "made before what it would have to cover",
	ErrRepeated:     "already on record",
}

// Error makes a Rule a sentinel.
func (r Rule) Error() string {
	if t, ok := ruleTexts[r]; ok {
		return t
	}
	return "rule " + string(r)
}

// Is makes ErrSignature and canon.ErrSignature one to callers.
func (r Rule) Is(target error) bool { return r == ErrSignature && target == canon.ErrSignature }

// Reason is one thing that stands in the way: which rule, about what, in plain words, and what to do about it.
type Reason struct {
	Rule    Rule   `json:"rule"`
	Subject string `json:"subject"` // dataset, body, person or digest concerned
	Text    string `json:"text"`
	Hint    string `json:"hint,omitempty"`
}

// Error gives the text and the hint.
func (r Reason) Error() string {
	if r.Hint == "" {
		return r.Text
	}
	return r.Text + " (" + r.Hint + ")"
}

// Unwrap makes errors.Is find the rule.
func (r Reason) Unwrap() error { return r.Rule }

// DeniedError says no, with every reason at once and in a fixed order. It carries names, digests and dates only.
type DeniedError struct {
	Reasons []Reason
}

// Error joins the reasons.
func (e *DeniedError) Error() string {
	texts := make([]string, len(e.Reasons))
	for i, r := range e.Reasons {
		texts[i] = r.Error()
	}
	return "denied: " + strings.Join(texts, "; ")
}

// Unwrap lists the reasons, so errors.Is matches any rule among them and errors.As finds a Reason.
func (e *DeniedError) Unwrap() []error {
	errs := make([]error, len(e.Reasons))
	for i, r := range e.Reasons {
		errs[i] = r
	}
	return errs
}

// Deny is nil without reasons, else a *DeniedError of them.
func Deny(reasons ...Reason) error {
	if len(reasons) == 0 {
		return nil
	}
	return &DeniedError{Reasons: reasons}
}
