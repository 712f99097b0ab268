// Package release is the custodians' side: each checks a job's whole dossier by itself, commits the privacy budget in
// its own durable ledger, and only then gives its shares; a gate combines them, applies disclosure control in two
// stages, gathers a quorum of signatures and seals the result to the operator.
//
// A custodian trusts nobody's word: it authorises from signed statements, rebuilds the plan from the query, computes
// the result ciphertexts from its own mirror of the blobs, and asks the log for proofs. It refuses to give a second
// share for a noise key under another ciphertext, to open above the cap or the budget, and to act on anything that is
// not in the log. Every refusal is typed, recorded in its ledger and announced in the log.
//
// Shares are one deterministic function of key, question and ciphertext (package he), so a retry, a restart or another
// quorum yields the same bytes. This matters: Lattigo's SECURITY.md warns that two different shares of one party for
// one ciphertext may leak its key.
package release

import (
	"errors"
	"fmt"
)

// Rules that a custodian may refuse by. Each is matched with errors.Is on a *Refusal.
var (
	ErrDossier          = errors.New("dossier is incomplete or contradicts itself")
	ErrUnauthorized     = errors.New("not authorised")
	ErrPlanMismatch     = errors.New("plan does not rebuild from its query")
	ErrForeignKeyset    = errors.New("data and keyset have different owners, or the keyset is not held here")
	ErrReceipt          = errors.New("receipt does not fit the plan")
	ErrOutput           = errors.New("output differs from the custodian's own execution")
	ErrNotLogged        = errors.New("not in the log")
	ErrLogFork          = errors.New("log does not extend what was seen before")
	ErrBudget           = errors.New("privacy budget is spent")
	ErrOpenings         = errors.New("keyset's cap on openings is reached")
	ErrSecondCiphertext = errors.New("another ciphertext was already committed for this question")
	ErrNotCommitted     = errors.New("not every active custodian has committed the charge")
	ErrCrossCheck       = errors.New("custodians gave different shares of one piece")
	ErrRelease          = errors.New("release differs from what the shares give")
	ErrReplaced         = errors.New("keyset was replaced by a refresh")
	ErrDisposed         = errors.New("dataset was disposed of")
	ErrLedger           = errors.New("ledger is damaged or contradicts a peer's copy")
)

// Refusal is a custodian's reasoned no. Text names artefacts by digest, never a value.
type Refusal struct {
	Custodian string // "" when anyone checks, outside a custodian
	Rule      error  // one of the Err… rules
	Text      string // what exactly, and what would help
	Cause     error  // may be nil
}

func (r *Refusal) Error() string {
	s := fmt.Sprintf("%v: %s", r.Rule, r.Text)
	if r.Custodian != "" {
		s = fmt.Sprintf("custodian %q refuses: %s", r.Custodian, s)
	}
	if r.Cause != nil {
		s += ": " + r.Cause.Error()
	}
	return s
}

// Unwrap lets errors.Is match the rule and its cause.
func (r *Refusal) Unwrap() []error {
	if r.Cause != nil {
		return []error{r.Rule, r.Cause}
	}
	return []error{r.Rule}
}

func refuse(rule error, format string, args ...any) *Refusal {
	return &Refusal{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

func (r *Refusal) because(err error) *Refusal {
	r.Cause = err
	return r
}
