package custodian_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/pki/pkitest"
	"yingzhou.dev/lab/internal/rpc"
)

// fake is a custodian that notes what arrives and answers what a test wants.
type fake struct {
	enclavev1.UnimplementedCustodianServiceServer
	err    error
	answer any // of the response's type
	got    any // last request
	until  time.Duration
	lead   func(grpc.ServerStreamingServer[enclavev1.LeadResponse]) error
}

func respond[R any](ctx context.Context, f *fake, req any) (*R, error) {
	f.got, f.until = req, 0
	if at, ok := ctx.Deadline(); ok {
		f.until = time.Until(at)
	}
	if f.err != nil {
		return nil, f.err
	}
	if r, ok := f.answer.(*R); ok {
		return r, nil
	}
	return new(R), nil
}

func (f *fake) Accept(ctx context.Context, r *enclavev1.AcceptRequest) (*enclavev1.AcceptResponse, error) {
	return respond[enclavev1.AcceptResponse](ctx, f, r)
}
func (f *fake) Retire(ctx context.Context, r *enclavev1.RetireRequest) (*enclavev1.RetireResponse, error) {
	return respond[enclavev1.RetireResponse](ctx, f, r)
}
func (f *fake) Dispose(ctx context.Context, r *enclavev1.DisposeRequest) (*enclavev1.DisposeResponse, error) {
	return respond[enclavev1.DisposeResponse](ctx, f, r)
}
func (f *fake) Rotate(ctx context.Context, r *enclavev1.RotateRequest) (*enclavev1.RotateResponse, error) {
	return respond[enclavev1.RotateResponse](ctx, f, r)
}
func (f *fake) Recheck(ctx context.Context, r *enclavev1.RecheckRequest) (*enclavev1.RecheckResponse, error) {
	return respond[enclavev1.RecheckResponse](ctx, f, r)
}
func (f *fake) GetStatus(ctx context.Context, r *enclavev1.GetStatusRequest) (*enclavev1.GetStatusResponse, error) {
	return respond[enclavev1.GetStatusResponse](ctx, f, r)
}
func (f *fake) Lead(r *enclavev1.LeadRequest, s grpc.ServerStreamingServer[enclavev1.LeadResponse]) error {
	f.got = r
	return f.lead(s)
}

// lab is a custodian "cust-a" on the network, and an authority for its callers.
type lab struct {
	*fake
	t       *testing.T
	ca      *pkitest.CA
	address string
	stop    func()
}

func served(t *testing.T) *lab {
	t.Helper()
	n := &lab{fake: &fake{}, t: t, ca: pkitest.New(t, "test", nil)}
	s, err := rpc.NewServer(n.ca.Source(t, "custodian", "cust-a").Server(), rpc.Config{Methods: custodian.Methods(), Logger: slog.New(slog.DiscardHandler), Status: refusal.Status,
		Identify: func(c *x509.Certificate) (rpc.Peer, error) {
			name, err := pki.FromCert(c)
			return rpc.Peer{Name: name.Party, Role: name.Role}, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	enclavev1.RegisterCustodianServiceServer(s, n.fake)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	n.stop = s.Stop
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// as is a client of the custodian, for a caller with a role.
func (n *lab) as(role string) *custodian.Client {
	n.t.Helper()
	conn, err := rpc.Dial(n.address, n.ca.Source(n.t, role, role+"-1").Client(pki.Name{Lab: "test", Role: "custodian", Party: "cust-a"}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return custodian.New("cust-a", conn)
}

func signed(kind string, body any) canon.Signed {
	return canon.Signed{Kind: kind, Body: canon.MustMarshal(body), Sigs: []canon.Signature{{By: "x", Sig: []byte("s")}}}
}

func keyset() (canon.Signed, enclave.Digest) {
	c := canon.Sum([]byte("piece"))
	return signed(enclave.KindKeyset, enclave.Keyset{Dataset: "water", Custodians: []string{"cust-a", "cust-b", "cust-c"}, Pieces: []enclave.Piece{{Without: []int{0}, Commitment: c}}}), c
}

func bundle() *enclave.Bundle {
	none := canon.Signed{Body: []byte{}, Sigs: []canon.Signature{}}
	return &enclave.Bundle{Format: enclave.KindBundle, Roster: none, Statements: []canon.Signed{}, Grant: none, Keysets: []canon.Signed{}, Manifest: none, Plan: none, Receipt: none,
		Release: signed(enclave.KindRelease, map[string]string{"job": "job-1"}), Proofs: []enclave.LogProof{}}
}

// calls is every call of the client that a custodian can refuse, with the roles that it is for.
func calls(c *custodian.Client) map[string]struct {
	roles string
	call  func(context.Context) error
} {
	type row = struct {
		roles string
		call  func(context.Context) error
	}
	ks, _ := keyset()
	return map[string]row{
		"Accept":  {"steward", func(ctx context.Context) error { return c.Accept(ctx, ks, 0, []byte("sealed"), nil) }},
		"Retire":  {"steward", func(ctx context.Context) error { return c.Retire(ctx, ks, nil) }},
		"Dispose": {"steward lab", func(ctx context.Context) error { _, err := c.Dispose(ctx, ks, nil); return err }},
		"Rotate":  {"custodian", func(ctx context.Context) error { return c.Rotate(ctx, ks.Digest()) }},
		"Recheck": {"lab auditor", func(ctx context.Context) error { _, err := c.Recheck(ctx, bundle(), ""); return err }},
		"Status":  {"lab custodian auditor official steward", func(ctx context.Context) error { _, err := c.Status(ctx); return err }},
		"Lead":    {"lab", func(ctx context.Context) error { _, err := c.Lead(ctx, bundle(), nil); return err }},
	}
}

// Every method has a row; what each is for is said here a second time, so that a slip in the table is noticed.
func TestWhoMayAskWhat(t *testing.T) {
	g := grpc.NewServer()
	enclavev1.RegisterCustodianServiceServer(g, &fake{})
	for _, fault := range custodian.Methods().Faults(g.GetServiceInfo()) {
		t.Error(fault)
	}
	for _, method := range []string{enclavev1.CustodianService_Commit_FullMethodName, enclavev1.CustodianService_Share_FullMethodName, enclavev1.CustodianService_Endorse_FullMethodName,
		enclavev1.CustodianService_GetEvidence_FullMethodName, enclavev1.CustodianService_Records_FullMethodName, enclavev1.CustodianService_Rotate_FullMethodName} {
		if roles := custodian.Methods()[method].Roles; !slices.Equal(roles, []string{"custodian"}) {
			t.Errorf("%s, which is between custodians, is for %q", method, roles)
		}
	}
	n := served(t)
	n.err = refusal.New(refusal.ErrDossier, "reached")
	n.lead = func(grpc.ServerStreamingServer[enclavev1.LeadResponse]) error { return n.err }
	for _, role := range []string{"lab", "custodian", "auditor", "official", "steward", "analyst", "node", "witness"} {
		for name, c := range calls(n.as(role)) {
			err := c.call(t.Context())
			reached := errors.Is(err, refusal.ErrDossier)
			if want := slices.Contains(strings.Fields(c.roles), role); reached != want || err == nil {
				t.Errorf("a %s asks for %s: %v", role, name, err)
			}
		}
	}
}

// A custodian's refusal arrives as what it was; its failures say nothing; a custodian that is away is named, and asking
// again may help. No call may hang longer than its row says.
func TestErrors(t *testing.T) {
	n := served(t)
	n.lead = func(grpc.ServerStreamingServer[enclavev1.LeadResponse]) error { return n.err }
	for _, role := range []string{"steward", "lab", "custodian", "auditor"} {
		for name, c := range calls(n.as(role)) {
			if !slices.Contains(strings.Fields(c.roles), role) {
				continue
			}
			n.err = &refusal.Refusal{Custodian: "cust-a", Rule: refusal.ErrReplaced, Text: "epoch 1", Cause: enclave.ErrLogProof}
			var r *refusal.Refusal
			if err := c.call(t.Context()); !errors.As(err, &r) || !errors.Is(err, refusal.ErrReplaced) || r.Custodian != "cust-a" || !refusal.Final(err) {
				t.Errorf("%s: a refusal arrives as %v", name, err)
			}
			if row := custodian.Methods()["/lab.v1.CustodianService/"+map[string]string{"Status": "GetStatus"}[name]+name]; name != "Status" && name != "Lead" && (n.until <= 0 || n.until > row.Deadline) {
				t.Errorf("%s may take %v, its row says %v", name, n.until, row.Deadline)
			}
			n.err = errors.New("opening /var/lib/keyring: permission denied")
			if err := c.call(t.Context()); err == nil || strings.Contains(err.Error(), "/var/lib") || !strings.Contains(err.Error(), "cust-a") || refusal.Final(err) {
				t.Errorf("%s: a failure arrives as %v", name, err)
			}
			done, cancel := context.WithCancel(t.Context())
			cancel()
			if err := c.call(done); !errors.Is(err, context.Canceled) {
				t.Errorf("%s after its caller has gone: %v", name, err)
			}
		}
	}
	lab := n.as("lab")
	n.stop()
	for name, c := range calls(lab) {
		var away *refusal.UnavailableError
		if err := c.call(t.Context()); strings.Contains(c.roles, "lab") && (!errors.As(err, &away) || !strings.Contains(away.What, "cust-a") || refusal.Final(err)) {
			t.Errorf("%s of a custodian that is away: %v", name, err)
		}
	}
}

func TestAcceptConfirmsTheCommitment(t *testing.T) {
	n := served(t)
	ks, commitment := keyset()
	roster := signed("yingzhou.roster.v1", map[string]string{"lab": "test"})
	c := n.as("steward")
	n.answer = &enclavev1.AcceptResponse{Commitment: commitment[:]}
	if err := c.Accept(t.Context(), ks, 0, []byte("sealed"), &roster); err != nil {
		t.Fatal(err)
	}
	if got := n.got.(*enclavev1.AcceptRequest); !bytes.Equal(got.GetKeyset(), canon.MustMarshal(ks)) || !bytes.Equal(got.GetRoster(), canon.MustMarshal(roster)) || string(got.GetSealed()) != "sealed" {
		t.Errorf("arrived %v", got)
	}
	for what, answer := range map[string][]byte{"another": bytes.Repeat([]byte{1}, 32), "none": nil, "a short": commitment[:31]} {
		n.answer = &enclavev1.AcceptResponse{Commitment: answer}
		if err := c.Accept(t.Context(), ks, 0, []byte("sealed"), nil); err == nil || !strings.Contains(err.Error(), "another commitment") {
			t.Errorf("%s commitment: %v", what, err)
		}
	}
	n.got = nil
	for _, piece := range []int{-1, 1} {
		if err := c.Accept(t.Context(), ks, piece, nil, nil); err == nil {
			t.Errorf("piece %d of one is dealt", piece)
		}
	}
	if err := c.Accept(t.Context(), signed(enclave.KindPlan, map[string]string{}), 0, nil, nil); err == nil {
		t.Error("a plan is dealt as a keyset")
	}
	if n.got != nil {
		t.Errorf("the custodian was asked: %v", n.got)
	}
}

func TestDisposeRetireRotate(t *testing.T) {
	n := served(t)
	order, roster := signed(enclave.KindDisposalOrder, map[string]string{"dataset": "water"}), signed("yingzhou.roster.v1", map[string]string{"lab": "test"})
	word := signed(enclave.KindDestruction, map[string]string{"by": "cust-a"})
	n.answer = &enclavev1.DisposeResponse{Destruction: canon.MustMarshal(word)}
	got, err := n.as("lab").Dispose(t.Context(), order, &roster)
	if err != nil || got.Digest() != word.Digest() {
		t.Errorf("%v, %v", got, err)
	}
	if req := n.got.(*enclavev1.DisposeRequest); !bytes.Equal(req.GetOrder(), canon.MustMarshal(order)) || !bytes.Equal(req.GetRoster(), canon.MustMarshal(roster)) {
		t.Errorf("arrived %v", req)
	}
	for what, answer := range map[string][]byte{"nothing": nil, "no JSON": []byte("done"), "spaces": []byte(`{ "kind": "" }`)} {
		n.answer = &enclavev1.DisposeResponse{Destruction: answer}
		if _, err := n.as("lab").Dispose(t.Context(), order, nil); err == nil || !strings.Contains(err.Error(), `word of custodian "cust-a"`) {
			t.Errorf("%s as a word: %v", what, err)
		}
	}
	ks, _ := keyset()
	if err := n.as("steward").Retire(t.Context(), ks, &roster); err != nil {
		t.Error(err)
	}
	if req := n.got.(*enclavev1.RetireRequest); !bytes.Equal(req.GetKeyset(), canon.MustMarshal(ks)) || !bytes.Equal(req.GetRoster(), canon.MustMarshal(roster)) {
		t.Errorf("arrived %v", req)
	}
	d := ks.Digest()
	if err := n.as("custodian").Rotate(t.Context(), d); err != nil {
		t.Error(err)
	}
	if req := n.got.(*enclavev1.RotateRequest); !bytes.Equal(req.GetLineage(), d[:]) {
		t.Errorf("arrived %v", req)
	}
}

func TestLead(t *testing.T) {
	n := served(t)
	c := n.as("lab")
	stage := func(s string) *enclavev1.LeadResponse {
		return &enclavev1.LeadResponse{Event: &enclavev1.LeadResponse_Stage{Stage: s}}
	}
	rel, proof := signed(enclave.KindRelease, map[string]string{"job": "job-1"}), enclave.LogProof{Entry: []byte("{}"), Path: []enclave.Digest{}, Checkpoint: "c"}
	outcome := func(rel, proof []byte) *enclavev1.LeadResponse {
		return &enclavev1.LeadResponse{Event: &enclavev1.LeadResponse_Outcome{Outcome: &enclavev1.Outcome{Release: rel, Table: []byte("table"), Proof: proof}}}
	}
	send := func(messages ...*enclavev1.LeadResponse) {
		n.lead = func(s grpc.ServerStreamingServer[enclavev1.LeadResponse]) error {
			for _, m := range messages {
				if err := s.Send(m); err != nil {
					return err
				}
			}
			return nil
		}
	}
	send(stage("commit"), &enclavev1.LeadResponse{}, stage("counts"), outcome(canon.MustMarshal(rel), canon.MustMarshal(proof)))
	var stages []string
	out, err := c.Lead(t.Context(), bundle(), func(s string) { stages = append(stages, s) })
	if err != nil || out.Release.Digest() != rel.Digest() || string(out.Table) != "table" || out.Proof.Checkpoint != "c" || !slices.Equal(stages, []string{"commit", "counts"}) {
		t.Errorf("%+v after %q: %v", out, stages, err)
	}
	if !bytes.Equal(n.got.(*enclavev1.LeadRequest).GetBundle(), canon.MustMarshal(bundle())) {
		t.Error("another dossier arrived")
	}
	for what, messages := range map[string][]*enclavev1.LeadResponse{
		"nothing": nil, "stages only": {stage("commit")}, "a release that is none": {outcome([]byte("x"), canon.MustMarshal(proof))}, "a proof that is none": {outcome(canon.MustMarshal(rel), nil)},
	} {
		send(messages...)
		if out, err := c.Lead(t.Context(), bundle(), nil); err == nil || !strings.Contains(err.Error(), `"cust-a"`) {
			t.Errorf("%s gives %+v, %v", what, out, err)
		}
	}
}

func TestRecheckAndStatus(t *testing.T) {
	n := served(t)
	c := n.as("auditor")
	n.answer = &enclavev1.RecheckResponse{EvidenceBy: "cust-b"}
	by, err := c.Recheck(t.Context(), bundle(), "cust-b")
	if err != nil || by != "cust-b" || n.got.(*enclavev1.RecheckRequest).GetOf() != "cust-b" {
		t.Errorf("by %q, asked %v: %v", by, n.got, err)
	}
	n.err = rpc.Errorf(codes.NotFound, "not endorsed")
	if _, err := c.Recheck(t.Context(), bundle(), "cust-b"); !errors.Is(err, enclave.ErrNotFound) || !strings.Contains(err.Error(), `"cust-b"`) {
		t.Errorf("of one that did not endorse it: %v", err)
	}
	n.err = nil
	n.answer = &enclavev1.GetStatusResponse{Name: "cust-a", LogSize: 7}
	if st, err := c.Status(t.Context()); err != nil || st.GetLogSize() != 7 || c.Name() != "cust-a" {
		t.Errorf("%v, %v", st, err)
	}
	n.answer = &enclavev1.GetStatusResponse{Name: "cust-b"}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), `calls itself "cust-b"`) {
		t.Errorf("a custodian of another name: %v", err)
	}
}
