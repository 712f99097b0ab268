package signer_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/signer"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/internal/canon"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := vaulttest.Clean(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// servers runs a test on Vault and on OpenBao.
func servers(t *testing.T, run func(t *testing.T, s *vaulttest.Server)) {
	t.Parallel() // most of the time goes into waiting for servers
	for name, kind := range map[string]vaulttest.Kind{"vault": vaulttest.Vault, "openbao": vaulttest.OpenBao} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, vaulttest.Start(t, kind))
		})
	}
}

const text = "yingzhou.lab/test\n1\nAAAA\n"

// opened is a signer of statements and one of notes, both of the control plane's log key.
func opened(t *testing.T, c *vault.Client) (*signer.Signer, *signer.Note) {
	t.Helper()
	made, err := signer.Read(t.Context(), c, "lab", "log")
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := made.NoteKey("yingzhou.lab/test")
	if err != nil {
		t.Fatal(err)
	}
	n, err := signer.OpenNote(c, "log", vkey)
	if err != nil {
		t.Fatal(err)
	}
	return signer.Open(c, "lab", "log", made.Verify()), n
}

func TestSigns(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		cfg := s.ControlPlane()
		c := s.Client(cfg)
		own, notes := opened(t, c)
		if err := errors.Join(own.Ready(t.Context()), notes.Ready(t.Context())); err != nil {
			t.Error(err)
		}
		sig, err := own.Sign("kind", []byte("body"))
		if err != nil {
			t.Fatal(err)
		}
		if err := (canon.Signed{Kind: "kind", Body: []byte("body"), Sigs: []canon.Signature{sig}}).Verify("lab", own.Verify()); err != nil {
			t.Error(err)
		}
		signed, err := note.Sign(&note.Note{Text: text}, notes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(signed, note.VerifierList(notes.Verifier())); err != nil {
			t.Errorf("a checkpoint signed in transit does not verify: %v", err)
		}
		if _, err := signer.Read(t.Context(), c, "lab", "nothing"); !errors.Is(err, vault.ErrDenied) && !errors.Is(err, vault.ErrNotFound) {
			t.Errorf("a signing key that is not there gives %v", err)
		}
		for _, vkey := range []string{"", "name", "yingzhou.lab/test+00000000+AAAA", strings.Repeat("+", 9)} {
			if _, err := signer.OpenNote(c, "log", vkey); err == nil {
				t.Errorf("note key %q is taken", vkey)
			}
		}
		// An operator of the Vault rotates the key: the roster does not know the new one.
		s.Root(http.MethodPost, cfg.Transit+"/keys/log/rotate", nil, nil)
		refused(t, own, notes, signer.ErrKey)
	})
}

// refused insists that nothing is signed, for one reason.
func refused(t *testing.T, own *signer.Signer, notes *signer.Note, want error) {
	t.Helper()
	if sig, err := own.Sign("kind", []byte("body")); !errors.Is(err, want) || sig.Sig != nil {
		t.Errorf("signing gives %d bytes, %v; want %v", len(sig.Sig), err, want)
	}
	if signed, err := note.Sign(&note.Note{Text: text}, notes); !errors.Is(err, want) || signed != nil {
		t.Errorf("signing a note gives %q, %v; want %v", signed, err, want)
	}
	if err := notes.Ready(t.Context()); !errors.Is(err, want) {
		t.Errorf("it is ready with %v, want %v", err, want)
	}
}

// Whatever is the matter with the Vault, nothing is signed and the error says what; once that is over, the same signer
// signs again.
func TestFailsClosedAndRecovers(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		cfg := s.ControlPlane("TOKEN_TTL=1h")
		target, err := url.Parse(s.Address)
		if err != nil {
			t.Fatal(err)
		}
		var slow atomic.Bool
		proxy := httputil.NewSingleHostReverseProxy(target)
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slow.Load() {
				<-r.Context().Done() // answers when nobody listens any more
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		defer front.Close()
		cfg.Patience, cfg.Logger = time.Second, slog.New(slog.DiscardHandler)
		direct, slowly := cfg, cfg
		slowly.Address = front.URL
		own, notes := opened(t, s.Client(direct))
		slowOwn, slowNotes := opened(t, s.Client(slowly))
		works := func() {
			t.Helper()
			if _, err := own.Sign("kind", []byte("body")); err != nil {
				t.Error(err)
			}
			if err := slowNotes.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		}
		works()
		s.Seal()
		refused(t, own, notes, vault.ErrSealed)
		s.Unseal()
		works()
		slow.Store(true)
		refused(t, slowOwn, slowNotes, vault.ErrSlow)
		slow.Store(false)
		works()
		s.DisableAudit()
		refused(t, own, notes, vault.ErrNoAudit)
		s.EnableAudit()
		works()
		s.Kill()
		refused(t, own, notes, vault.ErrUnreachable)
		s.Restart()
		s.Unseal()
		works()
		// The secret-id is revoked, and the tokens that were had with it; then the operator writes a new one.
		s.Root(http.MethodDelete, "auth/approle/role/lab-plane", nil, nil)
		s.Root(http.MethodPut, "sys/leases/revoke-prefix/auth/approle/login", nil, nil)
		refused(t, own, notes, vault.ErrLogin)
		s.ControlPlane("TOKEN_TTL=1h")
		works()
	})
}

// What labd's AppRole may not do, it is refused with 403.
func TestLeastPrivilegeOfTheControlPlane(t *testing.T) {
	servers(t, func(t *testing.T, s *vaulttest.Server) {
		cfg, cust := s.ControlPlane(), s.Custodian("cust")
		own, others := cfg.Transit+"/", cust.Transit+"/"
		type m = map[string]any
		s.Root(http.MethodPost, cfg.KV+"/data/labd", m{"data": m{"dsn": "host=/nowhere"}}, nil)
		s.Root(http.MethodPost, cfg.KV+"/data/other", m{"data": m{"dsn": "host=/nowhere"}}, nil)
		token := s.Token(cfg)
		for _, c := range []struct {
			method, path string
			in           any
		}{
			{"POST", own + "sign/lab", m{"input": "aGVsbG8="}},
			{"POST", own + "sign/node", m{"input": "aGVsbG8="}},
			{"POST", own + "sign/log", m{"input": "aGVsbG8="}},
			{"GET", own + "keys/log", nil},
			{"POST", own + "keys/blobs-0", m{"type": "aes256-gcm96", "derived": true}},
			{"GET", cfg.KV + "/data/labd", nil},
			{"GET", "sys/audit", nil},
		} {
			if status, said := s.Call(token, c.method, c.path, c.in); status >= 300 {
				t.Errorf("%s %s %v gives %d: %s", c.method, c.path, c.in, status, said)
			}
		}
		for _, key := range []string{"lab", "node", "log"} {
			for _, c := range []struct {
				method, path string
				in           any
			}{
				{"DELETE", own + "keys/" + key, nil},
				{"POST", own + "keys/" + key, m{"type": "aes256-gcm96", "derived": true}},
				{"POST", own + "keys/" + key + "/config", m{"deletion_allowed": true}},
				{"POST", own + "keys/" + key + "/config", m{"exportable": true}},
				{"POST", own + "keys/" + key + "/rotate", nil},
				{"POST", own + "keys/" + key + "/trim", m{"min_available_version": 1}},
				{"POST", own + "keys/" + key + "/import", m{"ciphertext": "x", "type": "ed25519"}},
				{"GET", own + "export/signing-key/" + key, nil},
				{"GET", own + "backup/" + key, nil},
			} {
				if status, said := s.Call(token, c.method, c.path, c.in); status != http.StatusForbidden {
					t.Errorf("%s %s %v gives %d, want 403: %s", c.method, c.path, c.in, status, said)
				}
			}
		}
		for _, c := range []struct {
			method, path string
			in           any
		}{
			{"POST", own + "sign/blobs-0", m{"input": "aGVsbG8="}},
			{"POST", own + "encrypt/blobs-0", m{"plaintext": "aGVsbG8="}},
			{"POST", own + "keys/new", m{"type": "aes256-gcm96", "derived": true, "exportable": true}},
			{"POST", own + "keys/new", m{"type": "ed25519"}},
			{"POST", cfg.KV + "/data/labd", m{"data": m{"dsn": "host=/elsewhere"}}},
			{"DELETE", cfg.KV + "/metadata/labd", nil},
			{"GET", cfg.KV + "/data/other", nil},
			{"LIST", cfg.KV + "/metadata/", nil},
			{"POST", others + "sign/sign", m{"input": "aGVsbG8="}},
			{"GET", others + "keys/sign", nil},
			{"LIST", cust.KV + "/metadata/pieces", nil},
			{"PUT", "sys/audit/second", m{"type": "file", "options": m{"file_path": "/dev/null"}}},
			{"DELETE", "sys/audit/file", nil},
			{"PUT", "sys/policies/acl/lab-plane", m{"policy": ""}},
			{"GET", "auth/approle/role/lab-plane/role-id", nil},
			{"POST", "auth/approle/role/lab-plane/secret-id", nil},
			{"POST", "auth/token/create", nil},
			{"PUT", "sys/seal", nil},
		} {
			if status, said := s.Call(token, c.method, c.path, c.in); status != http.StatusForbidden {
				t.Errorf("%s %s %v gives %d, want 403: %s", c.method, c.path, c.in, status, said)
			}
		}
	})
}
