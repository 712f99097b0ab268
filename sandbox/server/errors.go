package server

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/plan"
)

// problems maps the lab's sentinels, the most telling first.
var problems = []struct {
	is   error
	kind labv1.Problem_Kind
	code codes.Code
}{
	{sandbox.ErrNotFound, labv1.Problem_NOT_FOUND, codes.NotFound},
	{enclave.ErrNotFound, labv1.Problem_NOT_FOUND, codes.NotFound},
	{sandbox.ErrConflict, labv1.Problem_CONFLICT, codes.Aborted},
	{sandbox.ErrInvalid, labv1.Problem_INVALID, codes.InvalidArgument},
	{enclave.ErrBlob, labv1.Problem_DAMAGED, codes.DataLoss},
	{sandbox.ErrDamaged, labv1.Problem_DAMAGED, codes.DataLoss},
	{audit.ErrDamaged, labv1.Problem_DAMAGED, codes.DataLoss},
	{sandbox.ErrCancelled, labv1.Problem_ENDED, codes.FailedPrecondition},
}

// Status maps every error that a caller is meant to see. What it does not know is no business of the caller's: rpc makes
// it an internal error with a request id.
func Status(err error) (*status.Status, bool) {
	var known *rpc.Error
	if errors.As(err, &known) {
		return nil, false // rpc's own
	}
	p := &labv1.Problem{}
	var refused *refusedJob
	if errors.As(err, &refused) {
		p.Job = string(refused.id)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) { // the text would name a path
		return status.New(codes.ResourceExhausted, "the lab's disk is full"), true
	}
	if errors.Is(err, sandbox.ErrUnavailable) {
		return status.New(codes.Unavailable, "the lab's database does not answer, try again"), true
	}
	st, unopened := refusal.Status(err) // with the details that the custodians gave
	if unopened {
		p.Kind, p.Reasons = labv1.Problem_UNOPENED, unopenedReasons(err)
	} else if code := classify(err, p); code == codes.OK {
		return nil, false
	} else {
		st = status.New(code, err.Error())
	}
	st, detailErr := st.WithDetails(p)
	return st, detailErr == nil
}

func unopenedReasons(err error) (out []*labv1.Reason) {
	var quorum *refusal.QuorumError
	if !errors.As(err, &quorum) {
		return []*labv1.Reason{{Text: err.Error()}}
	}
	for _, c := range quorum.Causes {
		out = append(out, &labv1.Reason{Text: c.Error()})
	}
	return out
}

// classify fills a problem and returns its code, or OK for an error that it does not know.
func classify(err error, p *labv1.Problem) codes.Code {
	var denied *operators.DeniedError
	var refused *plan.RefusedError
	var ended *lab.EndedError
	var rule operators.Rule
	switch {
	case errors.As(err, &denied):
		p.Kind, p.Reasons = labv1.Problem_DENIED, deniedReasons(denied)
		return codes.PermissionDenied
	case errors.As(err, &refused):
		p.Kind, p.Reasons = labv1.Problem_REFUSED, refusedReasons(refused)
		return codes.InvalidArgument
	case errors.As(err, &ended):
		p.Kind = labv1.Problem_ENDED
		return codes.FailedPrecondition
	}
	for _, m := range problems {
		if errors.Is(err, m.is) {
			p.Kind = m.kind
			return m.code
		}
	}
	if errors.As(err, &rule) { // a statement that is no good by itself
		p.Kind, p.Reasons = labv1.Problem_DENIED, []*labv1.Reason{{Rule: string(rule), Text: err.Error()}}
		return codes.PermissionDenied
	}
	return codes.OK
}

func deniedReasons(e *operators.DeniedError) (out []*labv1.Reason) {
	for _, r := range e.Reasons {
		out = append(out, &labv1.Reason{Rule: string(r.Rule), Subject: r.Subject, Text: r.Text, Hint: r.Hint})
	}
	return out
}

func refusedReasons(e *plan.RefusedError) (out []*labv1.Reason) {
	for _, r := range e.Reasons {
		out = append(out, &labv1.Reason{Rule: string(r.Code), Text: r.Text, Hint: r.Hint, Line: int32(r.Pos.Line), Column: int32(r.Pos.Col)})
	}
	return out
}

// refusedJob names the job that a refusal was recorded as.
type refusedJob struct {
	id sandbox.JobID
	error
}

func (e *refusedJob) Unwrap() error { return e.error }

// invalid is a mistake in a request.
func invalid(format string, args ...any) error {
	return rpc.Errorf(codes.InvalidArgument, format, args...)
}

// gone reports whether the caller left or ran out of time.
func gone(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
