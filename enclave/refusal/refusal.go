// Package refusal holds a custodian's reasoned no: the rules that it may refuse by, the errors with the facts that callers
// branch on, and their form on the wire. Whoever asks custodians over the network links this and not package release,
// which can open data.
//
// On the wire an error is a Failure in the details of a gRPC status. Rules, names and texts are kept, so errors.Is and
// errors.As answer at the caller as they would have in the custodian's own process. An error without a form here does not
// travel: rpc makes it opaque.
package refusal

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
	ErrLedger           = errors.New("ledger is damaged or contradicts a peer's copy")
	ErrReplaced         = errors.New("keyset was replaced by a refresh")
	ErrDisposed         = errors.New("dataset was disposed of")
	ErrBatch            = errors.New("batch cannot be released")
	ErrAggregator       = errors.New("the other aggregator disagrees")
	ErrNotPrepared      = errors.New("batch has not been prepared")
	ErrPiece            = errors.New("key piece is not for this custodian or not as its owner committed")
)

// Rules lists every rule, for tests and documentation.
func Rules() []error {
	return []error{ErrDossier, ErrUnauthorized, ErrPlanMismatch, ErrForeignKeyset, ErrReceipt, ErrOutput, ErrNotLogged, ErrLogFork, ErrBudget,
		ErrOpenings, ErrSecondCiphertext, ErrNotCommitted, ErrCrossCheck, ErrRelease, ErrLedger, ErrPiece, ErrReplaced, ErrDisposed,
		ErrBatch, ErrAggregator, ErrNotPrepared}
}

// Refusal is a custodian's reasoned no. Text names artefacts by digest, never a value.
type Refusal struct {
	Custodian string // "" when anyone checks, outside a custodian
	Rule      error  // one of the Err… rules
	Text      string // what exactly, and what would help
	Cause     error  // may be nil
}

// New makes a refusal by a rule. The text says what exactly is wrong.
func New(rule error, format string, args ...any) *Refusal {
	return &Refusal{Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// Because adds a cause and returns the refusal.
func (r *Refusal) Because(err error) *Refusal {
	r.Cause = err
	return r
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

// QuorumError says that too few custodians took part, and what each of the others said.
type QuorumError struct {
	Have, Need int
	Causes     []error
}

func (e *QuorumError) Error() string {
	return fmt.Sprintf("%d custodians agree, %d are needed: %v", e.Have, e.Need, errors.Join(e.Causes...))
}

func (e *QuorumError) Unwrap() []error { return e.Causes }

// CrossCheckError names the custodian, or the two between whom it lies, whose share of a piece differs from another
// holder's. A share is a function of the piece, so one of the holders altered it.
type CrossCheckError struct {
	By      string   // who compared
	Accused []string // one name if By holds the piece itself
	Piece   int
	Term    int
}

func (e *CrossCheckError) Error() string {
	return fmt.Sprintf("share of piece %d for term %d given by %q is not what %q has", e.Piece, e.Term, e.Accused, e.By)
}

// UnavailableError says that something could not be reached: nothing was decided, and trying again may help.
type UnavailableError struct {
	What  string // what, in words for people
	Cause error  // may be nil; stays in the process
}

func (e *UnavailableError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s cannot be reached: %v", e.What, e.Cause)
	}
	return e.What + " cannot be reached"
}

func (e *UnavailableError) Unwrap() error { return e.Cause }

// WithheldError names a statement that is in the log and not in the dossier. Where it was logged a moment ago, asking
// again with a newer dossier helps; where it was kept back on purpose, nothing does.
type WithheldError struct{ Statement string }

func (e *WithheldError) Error() string { return "statement " + e.Statement + " is withheld" }

// SplitViewError carries two checkpoints of one log, both signed and witnessed, of which neither extends the other. They
// prove by themselves that two histories were shown.
type SplitViewError struct {
	Seen, Offered string // signed notes; Seen may be empty
	Text          string
}

func (e *SplitViewError) Error() string { return e.Text }

// Unwrap makes the error an ErrLogFork.
func (e *SplitViewError) Unwrap() error { return ErrLogFork }

// Final says whether an error is a refusal that asking again cannot change. A withheld statement is not: a newer dossier
// may show it. What rests on somebody who could not be reached is not. A missing quorum is only if it would be missing
// even with all of those.
func Final(err error) bool {
	var withheld *WithheldError
	var away *UnavailableError
	var quorum *QuorumError
	var refused *Refusal
	switch {
	case errors.As(err, &withheld):
		return false
	case errors.As(err, &quorum):
		possible := quorum.Have
		for _, cause := range quorum.Causes {
			if !Final(cause) {
				possible++
			}
		}
		return possible < quorum.Need
	case errors.As(err, &away):
		return false
	}
	return errors.As(err, &refused)
}
