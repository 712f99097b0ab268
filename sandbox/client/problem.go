package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/plan"
)

// ErrUnavailable means that the lab cannot be reached or is stopping: nothing was decided, and trying again may help.
var ErrUnavailable = errors.New("the lab cannot be reached")

// Error is an error of the control plane. It unwraps to what the same refusal or failure is in the control plane's own
// process, as far as a caller may know it.
type Error struct {
	Code  codes.Code
	Text  string
	Job   sandbox.JobID // that was refused, where one was recorded
	cause error         // may be nil
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.cause }

// problem reads the error of a call back into the lab's own errors.
func problem(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Code: st.Code(), Text: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *labv1.Problem:
			e.Job = sandbox.JobID(d.GetJob())
			if e.cause == nil {
				e.cause = cause(d, st.Message())
			}
		case *enclavev1.Failure:
			e.cause = refusal.FromStatus("the lab", err)
		}
	}
	if e.cause == nil {
		switch st.Code() {
		case codes.Canceled:
			e.cause = context.Canceled
		case codes.DeadlineExceeded:
			e.cause = context.DeadlineExceeded
		case codes.Unavailable:
			e.cause = ErrUnavailable
			e.Text = fmt.Sprintf("%v: %s", ErrUnavailable, st.Message())
		case codes.PermissionDenied:
			e.cause = operators.ErrRole
		}
	}
	return e
}

func cause(p *labv1.Problem, text string) error {
	switch p.GetKind() {
	case labv1.Problem_DENIED:
		d := &operators.DeniedError{}
		for _, r := range p.GetReasons() {
			d.Reasons = append(d.Reasons, operators.Reason{Rule: operators.Rule(r.GetRule()), Subject: r.GetSubject(), Text: r.GetText(), Hint: r.GetHint()})
		}
		return d
	case labv1.Problem_REFUSED:
		d := &plan.RefusedError{}
		for _, r := range p.GetReasons() {
			d.Reasons = append(d.Reasons, plan.Reason{Code: plan.Code(r.GetRule()), Pos: plan.Pos{Line: int(r.GetLine()), Col: int(r.GetColumn())}, Text: r.GetText(), Hint: r.GetHint()})
		}
		return d
	case labv1.Problem_NOT_FOUND:
		return sandbox.ErrNotFound
	case labv1.Problem_CONFLICT:
		return sandbox.ErrConflict
	case labv1.Problem_INVALID:
		return sandbox.ErrInvalid
	case labv1.Problem_DAMAGED:
		return enclave.ErrBlob
	}
	return nil
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }
