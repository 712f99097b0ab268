package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/pki/pkitest"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		text string
		want pki.Name
	}{
		{"lab:///pudong/analyst/chen.yu", pki.Name{Lab: "pudong", Role: "analyst", Party: "chen.yu"}},
		{"lab:///%E6%B5%A6%E4%B8%9C/steward/lin%20hua", pki.Name{Lab: "浦东", Role: "steward", Party: "lin hua"}},
	} {
		got, err := pki.ParseName(c.text)
		if err != nil || got != c.want || got.String() != c.text {
			t.Errorf("%s is read as %+v and written as %s: %v", c.text, got, got, err)
		}
	}
	for _, bad := range []string{"", "lab:///a/b", "lab:///a/b/c/d", "lab:///a//c", "lab://host/a/b/c", "lab:/a/b/c", "lab:a/b/c", "https:///a/b/c", "lab:///a/b/c?x", "lab:///a/b/c#x",
		"lab:///a/../c", "lab:///a/b/%2F", "lab:///a/%62/c", "LAB:///a/b/c", "lab:///a/b/c%", "lab://u@/a/b/c"} {
		if n, err := pki.ParseName(bad); !errors.Is(err, pki.ErrName) {
			t.Errorf("%q is read as %+v: %v", bad, n, err)
		}
	}
}

func TestNamesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringN(1, 12, -1)
		n := pki.Name{Lab: part.Draw(t, "lab"), Role: part.Draw(t, "role"), Party: part.Draw(t, "party")}
		if n.Check() != nil {
			t.Skip()
		}
		if got, err := pki.ParseName(n.String()); err != nil || got != n {
			t.Fatalf("%+v is written as %s and read as %+v: %v", n, n, got, err)
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add("lab:///pudong/analyst/chen.yu")
	f.Add("lab:///%E6%B5%A6/steward/a%20b")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := pki.ParseName(s); err == nil && (n.String() != s || n.Check() != nil) {
			t.Errorf("%q is read as %+v and written as %q", s, n, n)
		}
	})
}

// dial runs one handshake over loopback and returns what each side said, and the name that the server saw.
func dial(t *testing.T, server, client *tls.Config) (saw pki.Name, serverErr, clientErr error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var c net.Conn
		if c, serverErr = l.Accept(); serverErr != nil {
			return
		}
		defer c.Close()
		tc := c.(*tls.Conn)
		if serverErr = tc.HandshakeContext(t.Context()); serverErr == nil {
			saw, serverErr = pki.FromCert(tc.ConnectionState().PeerCertificates[0])
			tc.Write([]byte{1})
		}
	}()
	c, clientErr := tls.Dial("tcp", l.Addr().String(), client)
	if clientErr == nil {
		_, clientErr = io.ReadFull(c, make([]byte, 1)) // in TLS 1.3 a server's refusal of the client comes after its handshake
		c.Close()
	}
	<-done
	return saw, serverErr, clientErr
}

func TestHandshake(t *testing.T) {
	ca := pkitest.New(t, "浦东", nil)
	other := pkitest.New(t, "elsewhere", nil)
	server := ca.Source(t, "lab", "lab")
	good := ca.Source(t, "custodian", "notary")
	if saw, s, c := dial(t, server.Server(), good.Client(pki.Name{Role: "lab"})); s != nil || c != nil || saw != good.Name() {
		t.Fatalf("server saw %s: %v, %v", saw, s, c)
	}
	for _, c := range []struct {
		what   string
		client *pki.Source
		want   pki.Name
		err    string
	}{
		{"another role", good, pki.Name{Role: "custodian"}, "the server is lab:"},
		{"another party", good, pki.Name{Role: "lab", Party: "lab2"}, "the server is lab:"},
		{"a client whose certificate is over", ca.Expired(t, "custodian", "notary"), pki.Name{Role: "lab"}, "expired"},
		{"a client of an unknown authority", ca.Foreign(t, "custodian", "notary"), pki.Name{Role: "lab"}, "unknown authority"},
		{"a client of another lab", other.Source(t, "custodian", "notary"), pki.Name{Role: "lab"}, "unknown authority"},
	} {
		_, s, e := dial(t, server.Server(), c.client.Client(c.want))
		if e == nil || !strings.Contains(errors.Join(s, e).Error(), c.err) {
			t.Errorf("%s: server says %v, client says %v, want %q", c.what, s, e, c.err)
		}
	}
	if _, s, _ := dial(t, server.Server(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}); s == nil {
		t.Error("a client without a certificate is let in")
	}
	old := good.Client(pki.Name{Role: "lab"})
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, s, _ := dial(t, server.Server(), old); s == nil {
		t.Error("TLS 1.2 is spoken")
	}
	if _, _, c := dial(t, ca.Expired(t, "lab", "lab").Server(), good.Client(pki.Name{Role: "lab"})); c == nil || !strings.Contains(c.Error(), "expired") {
		t.Errorf("a server whose certificate is over: %v", c)
	}
	if _, _, c := dial(t, ca.Foreign(t, "lab", "lab").Server(), good.Client(pki.Name{Role: "lab"})); c == nil || !strings.Contains(c.Error(), "unknown authority") {
		t.Errorf("a server of an unknown authority: %v", c)
	}
}

func TestReload(t *testing.T) {
	ca := pkitest.New(t, "pudong", nil)
	dir := ca.Dir(t, "lab", "lab")
	s, err := pki.Open("pudong", pki.FilesIn(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	config := s.Server() // as a listener holds it: it is not made again
	before := s.Expires()
	client := ca.Source(t, "analyst", "chen.yu")
	if err := ca.IssueTo(dir, s.Name(), pki.IssueOptions{Now: time.Now(), Valid: 2 * pki.DefaultValid}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err != nil || !s.Expires().After(before) {
		t.Fatalf("renewed until %v, was %v: %v", s.Expires(), before, err)
	}
	if err := os.WriteFile(filepath.Join(dir, pki.KeyFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err == nil {
		t.Fatal("a torn key is loaded")
	}
	if _, se, ce := dial(t, config, client.Client(pki.Name{Role: "lab"})); se != nil || ce != nil {
		t.Errorf("after a reload that failed: %v, %v", se, ce)
	}
	// The authority changes: who has a certificate of the old one is out, though the listener's configuration is the same.
	next := pkitest.New(t, "pudong", nil)
	if err := next.IssueTo(dir, s.Name(), pki.IssueOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, se, _ := dial(t, config, client.Client(pki.Name{Role: "lab"})); se == nil {
		t.Error("a client of the authority before is let in")
	}
}

func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	a, err := pki.NewAuthority("pudong", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err == nil {
		t.Error("an authority is written over another")
	}
	b, err := pki.LoadAuthority("pudong", dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a.PEM(), b.PEM()); diff != "" {
		t.Error(diff)
	}
	if _, err := pki.LoadAuthority("elsewhere", dir); !errors.Is(err, pki.ErrName) {
		t.Errorf("the authority of another lab: %v", err)
	}
	now := time.Now()
	for _, c := range []struct {
		name  pki.Name
		valid time.Duration
	}{
		{pki.Name{Lab: "elsewhere", Role: "lab", Party: "lab"}, 0},
		{pki.Name{Lab: "pudong", Role: "", Party: "lab"}, 0},
		{pki.Name{Lab: "pudong", Role: "lab", Party: "a/b"}, 0},
		{pki.Name{Lab: "pudong", Role: "lab", Party: "lab"}, pki.MaxValid + 1},
		{pki.Name{Lab: "pudong", Role: "lab", Party: "lab"}, -1},
	} {
		if _, _, err := b.Issue(c.name, pki.IssueOptions{Now: now, Valid: c.valid}); err == nil {
			t.Errorf("a certificate for %+v, valid %v", c.name, c.valid)
		}
	}
	cert, key, err := b.Issue(pki.Name{Lab: "pudong", Role: "lab", Party: "lab"}, pki.IssueOptions{Now: now, Hosts: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	if leaf.IsCA || leaf.NotAfter.Sub(now) > pki.DefaultValid {
		t.Errorf("it is an authority (%v) or valid until %v", leaf.IsCA, leaf.NotAfter)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadAuthority("pudong", dir); err == nil {
		t.Error("a key that is not the authority's is loaded")
	}
}
