package refusal

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
)

// wireRules pairs rules with their numbers. A number is never reused.
func wireRules() map[enclavev1.Rule]error {
	return map[enclavev1.Rule]error{
		enclavev1.Rule_RULE_DOSSIER: ErrDossier, enclavev1.Rule_RULE_UNAUTHORIZED: ErrUnauthorized, enclavev1.Rule_RULE_PLAN_MISMATCH: ErrPlanMismatch,
		enclavev1.Rule_RULE_FOREIGN_KEYSET: ErrForeignKeyset, enclavev1.Rule_RULE_RECEIPT: ErrReceipt, enclavev1.Rule_RULE_OUTPUT: ErrOutput,
		enclavev1.Rule_RULE_NOT_LOGGED: ErrNotLogged, enclavev1.Rule_RULE_LOG_FORK: ErrLogFork, enclavev1.Rule_RULE_BUDGET: ErrBudget,
		enclavev1.Rule_RULE_OPENINGS: ErrOpenings, enclavev1.Rule_RULE_SECOND_CIPHERTEXT: ErrSecondCiphertext, enclavev1.Rule_RULE_NOT_COMMITTED: ErrNotCommitted,
		enclavev1.Rule_RULE_CROSS_CHECK: ErrCrossCheck, enclavev1.Rule_RULE_RELEASE: ErrRelease, enclavev1.Rule_RULE_LEDGER: ErrLedger,
		enclavev1.Rule_RULE_PIECE: ErrPiece, enclavev1.Rule_RULE_REPLACED: ErrReplaced, enclavev1.Rule_RULE_DISPOSED: ErrDisposed,
		enclavev1.Rule_RULE_BATCH: ErrBatch, enclavev1.Rule_RULE_AGGREGATOR: ErrAggregator, enclavev1.Rule_RULE_NOT_PREPARED: ErrNotPrepared,
	}
}

// Remote is an error of another process whose type did not travel with it.
type Remote struct{ Text string }

func (e *Remote) Error() string { return e.Text }

// encode gives the form of an error that has one. Only the error itself counts, not what it wraps: its text must stay.
func encode(err error) (*enclavev1.Failure, bool) {
	switch e := err.(type) {
	case *QuorumError:
		q := &enclavev1.QuorumFailure{Have: int32(e.Have), Need: int32(e.Need)}
		for _, c := range e.Causes {
			q.Causes = append(q.Causes, encodeCause(c))
		}
		return &enclavev1.Failure{Kind: &enclavev1.Failure_Quorum{Quorum: q}}, true
	case *Refusal:
		r := &enclavev1.Refusal{Custodian: e.Custodian, Text: e.Text}
		for number, rule := range wireRules() {
			if errors.Is(e.Rule, rule) {
				r.Rule = number
			}
		}
		if r.Rule == enclavev1.Rule_RULE_UNSPECIFIED {
			return nil, false
		}
		if e.Cause != nil {
			r.Cause = encodeCause(e.Cause)
		}
		return &enclavev1.Failure{Kind: &enclavev1.Failure_Refusal{Refusal: r}}, true
	case *CrossCheckError:
		return &enclavev1.Failure{Kind: &enclavev1.Failure_CrossCheck{CrossCheck: &enclavev1.CrossCheckFailure{By: e.By, Accused: e.Accused, Piece: int32(e.Piece), Term: int32(e.Term)}}}, true
	case *UnavailableError:
		return &enclavev1.Failure{Kind: &enclavev1.Failure_Unavailable{Unavailable: e.What}}, true
	case *WithheldError:
		return &enclavev1.Failure{Kind: &enclavev1.Failure_Withheld{Withheld: e.Statement}}, true
	case *SplitViewError:
		return &enclavev1.Failure{Kind: &enclavev1.Failure_SplitView{SplitView: &enclavev1.SplitViewFailure{Seen: e.Seen, Offered: e.Offered, Text: e.Text}}}, true
	}
	return nil, false
}

// encodeCause keeps the facts of a cause, or else its text. The text is a custodian's own, about artefacts.
func encodeCause(err error) *enclavev1.Failure {
	if f, ok := encode(err); ok {
		return f
	}
	return &enclavev1.Failure{Kind: &enclavev1.Failure_Text{Text: err.Error()}}
}

func decode(f *enclavev1.Failure) error {
	switch k := f.GetKind().(type) {
	case *enclavev1.Failure_Quorum:
		e := &QuorumError{Have: int(k.Quorum.GetHave()), Need: int(k.Quorum.GetNeed())}
		for _, c := range k.Quorum.GetCauses() {
			e.Causes = append(e.Causes, decode(c))
		}
		return e
	case *enclavev1.Failure_Refusal:
		r := &Refusal{Custodian: k.Refusal.GetCustodian(), Rule: wireRules()[k.Refusal.GetRule()], Text: k.Refusal.GetText()}
		if r.Rule == nil { // of a later version
			r.Rule = &Remote{Text: fmt.Sprintf("rule %d", k.Refusal.GetRule())}
		}
		if k.Refusal.GetCause() != nil {
			r.Cause = decode(k.Refusal.GetCause())
		}
		return r
	case *enclavev1.Failure_CrossCheck:
		c := k.CrossCheck
		return &CrossCheckError{By: c.GetBy(), Accused: c.GetAccused(), Piece: int(c.GetPiece()), Term: int(c.GetTerm())}
	case *enclavev1.Failure_Unavailable:
		return &UnavailableError{What: k.Unavailable}
	case *enclavev1.Failure_Withheld:
		return &WithheldError{Statement: k.Withheld}
	case *enclavev1.Failure_SplitView:
		return &SplitViewError{Seen: k.SplitView.GetSeen(), Offered: k.SplitView.GetOffered(), Text: k.SplitView.GetText()}
	case *enclavev1.Failure_Text:
		return &Remote{Text: k.Text}
	default:
		return &Remote{Text: "an error of unknown form"}
	}
}

// Status gives the gRPC status of an error that a caller may see. Of a wrapped error the one inside counts that says
// most: a missing quorum before the refusals that caused it.
func Status(err error) (*status.Status, bool) {
	var quorum *QuorumError
	var refused *Refusal
	var crossed *CrossCheckError
	var away *UnavailableError
	code := codes.FailedPrecondition
	var found error
	switch {
	case errors.As(err, &quorum):
		found, code = quorum, codes.Unavailable
		if errors.As(err, &refused) {
			code = codes.FailedPrecondition
		}
	case errors.As(err, &refused):
		found = refused
	case errors.As(err, &crossed):
		found = crossed
	case errors.As(err, &away):
		found, code = away, codes.Unavailable
	default:
		return nil, false
	}
	f, ok := encode(found)
	if !ok {
		return nil, false
	}
	st, derr := status.New(code, decode(f).Error()).WithDetails(f)
	if derr != nil { // a text that is not UTF-8, say
		return nil, false
	}
	return st, true
}

// FromStatus reads the error that a gRPC call returned. who answered, or did not, is named in errors without a form.
func FromStatus(who string, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range st.Details() {
		if f, ok := d.(*enclavev1.Failure); ok {
			return decode(f)
		}
	}
	switch st.Code() {
	case codes.Unavailable:
		return &UnavailableError{What: who, Cause: &Remote{Text: st.Message()}}
	case codes.DeadlineExceeded:
		return &UnavailableError{What: who, Cause: context.DeadlineExceeded}
	case codes.Canceled:
		return fmt.Errorf("%s: %w", who, context.Canceled)
	default:
		return fmt.Errorf("%s: %w", who, &Remote{Text: st.Message()})
	}
}
