package gate_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/pki/pkitest"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox/gate"
)

// peer is a custodian that leads and destroys as a test wants.
type peer struct {
	enclavev1.UnimplementedCustodianServiceServer
	name string
	stop func()

	mu    sync.Mutex
	err   error
	asked int
	last  *enclavev1.DisposeRequest
}

func (p *peer) set(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.asked = err, 0
}

func (p *peer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *peer) ask() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	return p.err
}

func signed(kind, by string) canon.Signed {
	return canon.Signed{Kind: kind, Body: canon.MustMarshal(map[string]string{"by": by}), Sigs: []canon.Signature{}}
}

func (p *peer) Lead(_ *enclavev1.LeadRequest, s grpc.ServerStreamingServer[enclavev1.LeadResponse]) error {
	if err := p.ask(); err != nil {
		return err
	}
	if err := s.Send(&enclavev1.LeadResponse{Event: &enclavev1.LeadResponse_Stage{Stage: "commit"}}); err != nil {
		return err
	}
	return s.Send(&enclavev1.LeadResponse{Event: &enclavev1.LeadResponse_Outcome{Outcome: &enclavev1.Outcome{Release: canon.MustMarshal(signed(enclave.KindRelease, p.name)), Table: []byte(p.name),
		Proof: canon.MustMarshal(enclave.LogProof{Entry: []byte{}, Path: []enclave.Digest{}})}}})
}

func (p *peer) Dispose(_ context.Context, r *enclavev1.DisposeRequest) (*enclavev1.DisposeResponse, error) {
	if err := p.ask(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = r
	return &enclavev1.DisposeResponse{Destruction: canon.MustMarshal(signed(enclave.KindDestruction, p.name))}, nil
}

// three makes a gate of three custodians on the network.
func three(t *testing.T) (*gate.Gate, []*peer) {
	t.Helper()
	ca := pkitest.New(t, "test", nil)
	src := ca.Source(t, "lab", "lab")
	var peers []*peer
	var clients []*custodian.Client
	for _, name := range []string{"cust-a", "cust-b", "cust-c"} {
		p := &peer{name: name}
		s, err := rpc.NewServer(ca.Source(t, "custodian", name).Server(), rpc.Config{Methods: custodian.Methods(), Logger: slog.New(slog.DiscardHandler), Status: refusal.Status,
			Identify: func(c *x509.Certificate) (rpc.Peer, error) {
				n, err := pki.FromCert(c)
				return rpc.Peer{Name: n.Party, Role: n.Role}, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		enclavev1.RegisterCustodianServiceServer(s, p)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(context.Background(), l) }()
		p.stop = s.Stop
		t.Cleanup(func() {
			s.Stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		conn, err := rpc.Dial(l.Addr().String(), src.Client(pki.Name{Lab: "test", Role: "custodian", Party: name}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		peers, clients = append(peers, p), append(clients, custodian.New(name, conn))
	}
	g, err := gate.New(clients...)
	if err != nil {
		t.Fatal(err)
	}
	return g, peers
}

func bundle() *enclave.Bundle {
	none := canon.Signed{Body: []byte{}, Sigs: []canon.Signature{}}
	return &enclave.Bundle{Format: enclave.KindBundle, Roster: none, Statements: []canon.Signed{}, Grant: none, Keysets: []canon.Signed{}, Manifest: none, Plan: none, Receipt: none, Release: none, Proofs: []enclave.LogProof{}}
}

// Custodians lead in turn; one that is away is passed over; a refusal that stands ends it; with nobody there it waits.
func TestRelease(t *testing.T) {
	if _, err := gate.New(); err == nil {
		t.Error("a gate of nobody")
	}
	g, peers := three(t)
	led := map[string]int{}
	for range 6 {
		var stages []string
		out, err := g.Release(t.Context(), bundle(), func(s string) { stages = append(stages, s) })
		if err != nil || len(stages) != 1 || out.Release.Digest() != signed(enclave.KindRelease, string(out.Table)).Digest() {
			t.Fatalf("%+v after %q: %v", out, stages, err)
		}
		led[string(out.Table)]++
	}
	if fmt.Sprint(led) != "map[cust-a:2 cust-b:2 cust-c:2]" {
		t.Errorf("turns were taken %v", led)
	}
	for _, passing := range []error{&refusal.UnavailableError{What: "the keys"}, errors.New("a bug"), &refusal.QuorumError{Have: 1, Need: 2, Causes: []error{&refusal.UnavailableError{What: "cust-c"}}}} {
		peers[0].set(passing)
		for range 3 {
			if out, err := g.Release(t.Context(), bundle(), nil); err != nil || string(out.Table) == "cust-a" {
				t.Errorf("with cust-a at %v: %+v, %v", passing, out, err)
			}
		}
	}
	// A refusal: nobody else is asked, whoever comes first.
	for _, p := range peers {
		p.set(&refusal.Refusal{Custodian: p.name, Rule: refusal.ErrBudget, Text: "spent"})
	}
	_, err := g.Release(t.Context(), bundle(), nil)
	if reason, final := g.Refused(err); !final || !strings.Contains(reason, "budget") || peers[0].count()+peers[1].count()+peers[2].count() != 1 {
		t.Errorf("a refusal is %v: %q, %v", err, reason, final)
	}
	for _, p := range peers {
		p.stop()
	}
	_, err = g.Release(t.Context(), bundle(), nil)
	if reason, final := g.Refused(err); err == nil || final {
		t.Errorf("with nobody there: %v, %q", err, reason)
	}
	for _, p := range peers {
		if !strings.Contains(err.Error(), p.name) {
			t.Errorf("%v does not name %s", err, p.name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Release(ctx, bundle(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller has gone: %v", err)
	}
}

// Each custodian is asked by its name; what people are told of a failure names it and no address.
func TestDestroy(t *testing.T) {
	g, peers := three(t)
	order, roster := signed(enclave.KindDisposalOrder, "steward"), signed("yingzhou.roster.v1", "root")
	for _, p := range peers {
		word, err := g.Destroy(t.Context(), p.name, order, roster)
		if err != nil || word.Digest() != signed(enclave.KindDestruction, p.name).Digest() || p.count() != 1 {
			t.Errorf("%s: %+v, %v", p.name, word, err)
		}
		if string(p.last.GetOrder()) != string(canon.MustMarshal(order)) || string(p.last.GetRoster()) != string(canon.MustMarshal(roster)) {
			t.Errorf("%s was given %v", p.name, p.last)
		}
	}
	if _, err := g.Destroy(t.Context(), "cust-d", order, roster); err == nil || !strings.Contains(err.Error(), `"cust-d"`) {
		t.Errorf("a custodian that nobody knows: %v", err)
	}
	peers[1].set(&refusal.Refusal{Custodian: "cust-b", Rule: refusal.ErrNotLogged, Text: "disposal"})
	if _, err := g.Destroy(t.Context(), "cust-b", order, roster); !errors.Is(err, refusal.ErrNotLogged) || !strings.Contains(err.Error(), `custodian "cust-b" refuses: not in the log`) {
		t.Errorf("a refusal: %v", err)
	}
	peers[2].stop()
	var away *refusal.UnavailableError
	if _, err := g.Destroy(t.Context(), "cust-c", order, roster); !errors.As(err, &away) || err.Error() != `custodian "cust-c" cannot be reached` {
		t.Errorf("one that is away: %v", err)
	}
}
