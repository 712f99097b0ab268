package refusal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave/refusal"
)

// over is what a caller gets of an error.
func over(t *testing.T, err error) error {
	t.Helper()
	st, ok := refusal.Status(err)
	if !ok {
		t.Fatalf("%v does not travel", err)
	}
	return refusal.FromStatus("custodian \"b\"", st.Err())
}

func TestEveryRuleSurvivesTheWire(t *testing.T) {
	seen := map[string]bool{}
	for _, rule := range refusal.Rules() {
		r := refusal.New(rule, "plan %s", "abc").Because(fmt.Errorf("because of %q", "x"))
		r.Custodian = "cust-a"
		got := over(t, fmt.Errorf("on the way: %w", r))
		var back *refusal.Refusal
		if !errors.Is(got, rule) || !errors.As(got, &back) || back.Custodian != "cust-a" || back.Text != "plan abc" || got.Error() != r.Error() {
			t.Errorf("%v arrives as %v", r, got)
		}
		for _, other := range refusal.Rules() {
			if other != rule && errors.Is(got, other) {
				t.Errorf("%v arrives as %v as well", rule, other)
			}
		}
		seen[rule.Error()] = true
	}
	if len(seen) != 21 {
		t.Errorf("%d rules, want 21: give a new one a number on the wire", len(seen))
	}
}

func TestFactsSurviveTheWire(t *testing.T) {
	cross := &refusal.CrossCheckError{By: "cust-c", Accused: []string{"cust-b"}, Piece: 2, Term: 7}
	r := refusal.New(refusal.ErrCrossCheck, "%q", cross.Accused).Because(cross)
	r.Custodian = "cust-c"
	quorum := &refusal.QuorumError{Have: 1, Need: 2, Causes: []error{r, &refusal.UnavailableError{What: "custodian \"cust-a\"", Cause: errors.New("10.0.0.1: refused")}, errors.New("plain")}}
	got := over(t, quorum)
	var q *refusal.QuorumError
	var c *refusal.CrossCheckError
	var away *refusal.UnavailableError
	if !errors.As(got, &q) || q.Have != 1 || q.Need != 2 || len(q.Causes) != 3 {
		t.Fatalf("arrives as %v", got)
	}
	if !errors.Is(got, refusal.ErrCrossCheck) || !errors.As(got, &c) || c.By != "cust-c" || c.Accused[0] != "cust-b" || c.Piece != 2 || c.Term != 7 {
		t.Errorf("arrives as %v", got)
	}
	if !errors.As(got, &away) || away.Error() != "custodian \"cust-a\" cannot be reached" {
		t.Errorf("what is unavailable arrives as %v", away)
	}
}

func TestWhatHasNoFormDoesNotTravel(t *testing.T) {
	for _, err := range []error{errors.New("disk at /var/lib is full"), &refusal.Refusal{Rule: errors.New("made up")}} {
		if st, ok := refusal.Status(err); ok {
			t.Errorf("%v travels as %v", err, st)
		}
	}
	if err := refusal.FromStatus("x", nil); err != nil {
		t.Error(err)
	}
	plain := errors.New("plain")
	if err := refusal.FromStatus("x", plain); !errors.Is(err, plain) {
		t.Error(err)
	}
	var away *refusal.UnavailableError
	if err := refusal.FromStatus("custodian \"b\"", status.Error(codes.Unavailable, "no route")); !errors.As(err, &away) {
		t.Error(err)
	}
	if err := refusal.FromStatus("x", status.Error(codes.DeadlineExceeded, "")); !errors.As(err, &away) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := refusal.FromStatus("x", status.Error(codes.Canceled, "")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := refusal.FromStatus("x", status.Error(codes.Internal, "internal error; request 7")); errors.As(err, &away) || err.Error() != "x: internal error; request 7" {
		t.Error(err)
	}
}

func TestFinal(t *testing.T) {
	no := refusal.New(refusal.ErrBudget, "spent")
	away := &refusal.UnavailableError{What: "custodian"}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"a refusal":                  {fmt.Errorf("x: %w", no), true},
		"no error":                   {nil, false},
		"plain":                      {errors.New("disk"), false},
		"away":                       {away, false},
		"refused for want of a peer": {refusal.New(refusal.ErrLedger, "behind").Because(&refusal.UnavailableError{What: "a peer", Cause: errors.Join(away)}), false},
		"withheld":                   {refusal.New(refusal.ErrUnauthorized, "x").Because(&refusal.WithheldError{Statement: "s"}), false},
		"all refuse":                 {&refusal.QuorumError{Need: 2, Causes: []error{no, no, no}}, true},
		"two of three refuse":        {&refusal.QuorumError{Have: 1, Need: 2, Causes: []error{no, no}}, true},
		"one refuses, one is away":   {&refusal.QuorumError{Have: 1, Need: 2, Causes: []error{no, away}}, false},
		"two refuse, one is away":    {&refusal.QuorumError{Need: 2, Causes: []error{no, no, away}}, true},
		"one lacks a statement":      {&refusal.QuorumError{Have: 1, Need: 2, Causes: []error{no, refusal.New(refusal.ErrUnauthorized, "x").Because(&refusal.WithheldError{})}}, false},
	} {
		if got := refusal.Final(c.err); got != c.want {
			t.Errorf("%s: final is %v", name, got)
		}
		if c.err == nil {
			continue
		}
		if st, ok := refusal.Status(c.err); ok { // and over the wire
			if got := refusal.Final(refusal.FromStatus("x", st.Err())); got != c.want {
				t.Errorf("%s: over the wire final is %v", name, got)
			}
		}
	}
}
