package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/plan"
)

// Every method of every service has a row, every row a method, and every row roles and a deadline.
func TestTable(t *testing.T) {
	g := grpc.NewServer()
	(&Server{}).register(g)
	for _, fault := range Methods().Faults(g.GetServiceInfo()) {
		t.Error(fault)
	}
	known := roles(operators.RoleSteward, operators.RoleAnalyst, operators.RoleOfficial, operators.RoleAuditor, operators.RoleCustodian, operators.RoleNode, operators.RoleLab)
	for name, row := range Methods() {
		for _, r := range row.Roles {
			if !strings.Contains(strings.Join(known, " "), r) {
				t.Errorf("%s is for role %q, which there is not", name, r)
			}
		}
	}
	missing := Methods()
	delete(missing, labv1.JobService_SubmitJob_FullMethodName)
	if faults := missing.Faults(g.GetServiceInfo()); len(faults) != 1 {
		t.Errorf("a method without a row gives %q", faults)
	}
}

// What changes the record, or shows more than a role should see, is for the roles that it is for: a second opinion beside
// the table, so that a slip in it is noticed.
func TestTableSecondOpinion(t *testing.T) {
	for method, want := range map[string]string{
		labv1.CatalogService_RegisterKeyset_FullMethodName:   "steward",
		labv1.CatalogService_PublishManifest_FullMethodName:  "steward",
		labv1.CatalogService_UploadBlob_FullMethodName:       "steward",
		labv1.CatalogService_OrderDisposal_FullMethodName:    "steward official",
		labv1.JobService_SubmitJob_FullMethodName:            "analyst",
		labv1.JobService_CancelJob_FullMethodName:            "analyst",
		labv1.ReleaseService_GetRelease_FullMethodName:       "analyst",
		labv1.LabService_PutRoster_FullMethodName:            "official",
		labv1.OperatorService_RecordStatement_FullMethodName: "steward analyst official",
	} {
		if got := strings.Join(Methods()[method].Roles, " "); got != want {
			t.Errorf("%s is for %q, want %q", method, got, want)
		}
	}
	for _, method := range []string{labv1.AuditService_GetReceipt_FullMethodName, labv1.AuditService_ListEntries_FullMethodName} {
		if strings.Contains(strings.Join(Methods()[method].Roles, " "), "analyst") {
			t.Errorf("%s shows operators what others do", method)
		}
	}
}

func TestStatus(t *testing.T) {
	denied := operators.Deny(operators.Reason{Rule: operators.ErrExpired, Subject: "崇明数科", Text: "ended", Hint: "renew"}, operators.Reason{Rule: operators.ErrNoConsent, Text: "no consent"})
	refused := &plan.RefusedError{Reasons: []plan.Reason{{Code: plan.CodeColumn, Pos: plan.Pos{Line: 1, Col: 8}, Text: "no column", Hint: "another"}}}
	quorum := &refusal.QuorumError{Have: 1, Need: 2, Causes: []error{&refusal.UnavailableError{What: `custodian "a"`}}}
	for _, c := range []struct {
		err     error
		code    codes.Code
		kind    labv1.Problem_Kind
		reasons int
		text    string
	}{
		{fmt.Errorf("submitting: %w", denied), codes.PermissionDenied, labv1.Problem_DENIED, 2, "ended"},
		{fmt.Errorf("submitting: %w", refused), codes.InvalidArgument, labv1.Problem_REFUSED, 1, "no column"},
		{fmt.Errorf("job: %w", sandbox.ErrNotFound), codes.NotFound, labv1.Problem_NOT_FOUND, 0, "job: not found"},
		{enclave.ErrNotFound, codes.NotFound, labv1.Problem_NOT_FOUND, 0, ""},
		{sandbox.ErrConflict, codes.Aborted, labv1.Problem_CONFLICT, 0, ""},
		{sandbox.ErrInvalid, codes.InvalidArgument, labv1.Problem_INVALID, 0, ""},
		{enclave.ErrBlob, codes.DataLoss, labv1.Problem_DAMAGED, 0, ""},
		{fmt.Errorf("x: %w", canon.ErrSignature), codes.OK, 0, 0, ""}, // no rule of the operators: not for the caller
		{fmt.Errorf("x: %w", operators.ErrSignature), codes.PermissionDenied, labv1.Problem_DENIED, 1, ""},
		{&lab.EndedError{Job: sandbox.Job{ID: "job-1", State: sandbox.Failed, Reason: "why"}}, codes.FailedPrecondition, labv1.Problem_ENDED, 0, "why"},
		{quorum, codes.Unavailable, labv1.Problem_UNOPENED, 1, "1 custodians agree"},
		{fmt.Errorf("x: %w", &refusal.Refusal{Custodian: "a", Rule: refusal.ErrBudget, Text: "spent"}), codes.FailedPrecondition, labv1.Problem_UNOPENED, 1, "spent"},
		{fmt.Errorf("write /var/lib/secret/path: %w", unix.ENOSPC), codes.ResourceExhausted, 0, 0, "disk is full"},
		{fmt.Errorf("dial 10.0.0.1: %w", sandbox.ErrUnavailable), codes.Unavailable, 0, 0, "try again"},
		{errors.New("pq: password authentication failed"), codes.OK, 0, 0, ""},
		{context.Canceled, codes.OK, 0, 0, ""},
		{rpc.Errorf(codes.NotFound, "rpc's own"), codes.OK, 0, 0, ""},
	} {
		st, ok := Status(c.err)
		if ok != (c.code != codes.OK) || ok && st.Code() != c.code {
			t.Errorf("%v is mapped to %v, %v; want %v", c.err, st, ok, c.code)
			continue
		}
		if !ok {
			continue
		}
		if !strings.Contains(st.Message(), c.text) || strings.Contains(st.Message(), "/var/lib") || strings.Contains(st.Message(), "10.0.0.1") {
			t.Errorf("%v says %q", c.err, st.Message())
		}
		var p *labv1.Problem
		for _, d := range st.Details() {
			if d, ok := d.(*labv1.Problem); ok {
				p = d
			}
		}
		if c.kind != labv1.Problem_KIND_UNSPECIFIED && (p.GetKind() != c.kind || len(p.GetReasons()) != c.reasons) {
			t.Errorf("%v has problem %v", c.err, p)
		}
	}
	st, _ := Status(&refusedJob{"job-1", denied})
	if p, ok := st.Details()[0].(*labv1.Problem); !ok || p.GetJob() != "job-1" || p.GetReasons()[0].GetHint() != "renew" {
		t.Errorf("a refused job is told as %v", st.Details())
	}
}

// The JSON of an error has gRPC's code, text and details.
func TestFailureInJSON(t *testing.T) {
	st, err := status.New(codes.PermissionDenied, "no").WithDetails(&labv1.Problem{Kind: labv1.Problem_DENIED, Reasons: []*labv1.Reason{{Rule: "expired", Text: "ended"}}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(failure(st))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"code":"permission_denied"`, `"message":"no"`, `"type":"lab.v1.Problem"`, `"rule":"expired"`} {
		if !strings.Contains(strings.ReplaceAll(string(out), `": "`, `":"`), want) {
			t.Errorf("%s lacks %s", out, want)
		}
	}
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		if connectCodes[c] == "" || httpStatus(c) < 400 {
			t.Errorf("code %v is %q and HTTP status %d", c, connectCodes[c], httpStatus(c))
		}
	}
}

// An operator sees its own record and nobody else's, whatever the order of arrival.
func TestConcerning(t *testing.T) {
	seal := func(kind string, v any) enclave.Signed {
		return enclave.Signed{Kind: kind, Body: canon.MustMarshal(v), Sigs: []canon.Signature{}}
	}
	ours, theirs := seal(operators.KindScenario, operators.Scenario{Name: "a", Operator: "ours", Datasets: []operators.DatasetUse{}, Workers: []enclave.Digest{}}), seal(operators.KindScenario, operators.Scenario{Name: "b", Operator: "theirs", Datasets: []operators.DatasetUse{}, Workers: []enclave.Digest{}})
	consent := seal(operators.KindConsent, operators.Consent{Scenario: ours.Digest(), Use: operators.DatasetUse{Columns: []operators.ColumnUse{}}})
	revoked := seal(operators.KindDecision, operators.Decision{Subject: consent.Digest(), Verdict: operators.Revoke})
	all := []enclave.Signed{
		revoked, consent, ours, theirs,
		seal(operators.KindConsent, operators.Consent{Scenario: theirs.Digest(), Use: operators.DatasetUse{Columns: []operators.ColumnUse{}}}),
		seal(operators.KindDecision, operators.Decision{Subject: theirs.Digest(), Verdict: operators.Approve}),
		seal(operators.KindLicense, operators.License{Operator: "theirs"}),
		seal(operators.KindLicense, operators.License{Operator: "ours"}),
	}
	var kinds []string
	for _, s := range concerning("ours", all) {
		kinds = append(kinds, s.Kind)
	}
	if got := strings.Join(kinds, " "); got != "yingzhou.decision.v1 yingzhou.consent.v1 yingzhou.scenario.v1 yingzhou.license.v1" {
		t.Errorf("an operator sees %s", got)
	}
}
