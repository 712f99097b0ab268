package vault_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave/vault"
)

// against starts a server that answers logins itself and everything else as the test says. How real servers behave is
// tested in package keys/transit.
func against(t *testing.T, answer http.HandlerFunc) (*vault.Client, *atomic.Int64) {
	t.Helper()
	var logins atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/auth/approle/login" {
			n := logins.Add(1)
			fmt.Fprintf(w, `{"auth":{"client_token":"token-%d","lease_duration":3600}}`, n)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(srv.Close)
	c, err := vault.New(config(t, srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	return c, &logins
}

func config(t *testing.T, address string) vault.Config {
	t.Helper()
	dir := t.TempDir()
	cfg := vault.Config{Address: address, RoleIDFile: filepath.Join(dir, "role"), SecretIDFile: filepath.Join(dir, "secret"),
		Patience: 300 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range []string{cfg.RoleIDFile, cfg.SecretIDFile} {
		if err := os.WriteFile(f, []byte("id\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

func TestConfigIsRefused(t *testing.T) {
	for _, address := range []string{"", "vault.example:8200", "http://vault.example:8200", "https://user:pw@vault.example", "https://vault.example/v1", "ftp://127.0.0.1"} {
		if _, err := vault.New(config(t, address)); err == nil {
			t.Errorf("address %q is taken", address)
		}
	}
	for _, address := range []string{"https://vault.example:8200", "http://127.0.0.1:8200", "http://localhost:8200", "http://[::1]:8200/"} {
		if _, err := vault.New(config(t, address)); err != nil {
			t.Errorf("address %q: %v", address, err)
		}
	}
	cfg := config(t, "https://vault.example:8200")
	cfg.SecretIDFile = ""
	if _, err := vault.New(cfg); err == nil {
		t.Error("a configuration without credentials is taken")
	}
	cfg = config(t, "https://vault.example:8200")
	cfg.CAFile = cfg.RoleIDFile
	if _, err := vault.New(cfg); err == nil {
		t.Error("a file without certificates is taken for authorities")
	}
}

func TestErrorsByStatus(t *testing.T) {
	for status, want := range map[int]error{400: vault.ErrRejected, 404: vault.ErrNotFound, 403: vault.ErrDenied, 405: vault.ErrRejected,
		307: vault.ErrUnreachable, 429: vault.ErrUnreachable, 500: vault.ErrServer, 501: vault.ErrSealed, 502: vault.ErrUnreachable, 503: vault.ErrSealed} {
		c, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere") // must not be followed
			w.WriteHeader(status)
			fmt.Fprint(w, `{"errors":["why"]}`)
		})
		err := c.Write(t.Context(), "transit/x", nil, nil)
		var e *vault.Error
		if !errors.Is(err, want) || !errors.As(err, &e) || e.Status != status || len(e.Said) != 1 || e.Path != "transit/x" {
			t.Errorf("status %d gives %v, want %v", status, err, want)
		}
	}
}

// A server that is away is asked again; one that has answered is not.
func TestRepeats(t *testing.T) {
	for _, c := range []struct {
		status int
		again  bool
	}{{503, true}, {502, true}, {429, true}, {400, false}, {404, false}, {500, false}} {
		var asked atomic.Int64
		client, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) < 3 {
				w.WriteHeader(c.status)
				return
			}
			fmt.Fprint(w, `{"data":{"a":"b"}}`)
		})
		var out struct{ A string }
		err := client.Read(t.Context(), "x", &out)
		if c.again != (err == nil && out.A == "b") || !c.again && asked.Load() != 1 {
			t.Errorf("status %d: asked %d times, %v", c.status, asked.Load(), err)
		}
	}
}

// A refused token is replaced once; then the refusal is the policy's.
func TestLogsInAgain(t *testing.T) {
	client, logins := against(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "token-2" || r.URL.Path == "/v1/never" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := client.Write(t.Context(), "x", nil, nil); err != nil || logins.Load() != 2 {
		t.Errorf("%d logins, %v", logins.Load(), err)
	}
	if err := client.Write(t.Context(), "never", nil, nil); !errors.Is(err, vault.ErrDenied) || logins.Load() != 3 {
		t.Errorf("%d logins, %v", logins.Load(), err)
	}
}

func TestEnvironmentIsIgnored(t *testing.T) {
	for name, value := range map[string]string{"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "another", "VAULT_NAMESPACE": "other", "HTTP_PROXY": "http://127.0.0.1:1"} {
		t.Setenv(name, value)
	}
	client, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "token-1" || r.Header.Get("X-Vault-Namespace") != "" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := client.Write(t.Context(), "x", nil, nil); err != nil {
		t.Error(err)
	}
}

// What is not an answer is a fault of the server, and no part of it gets into the error.
func TestStrangeAnswers(t *testing.T) {
	for _, answer := range []string{"", "secret", `{"data":"secret"}`, `{"data":{"a":["secret"]}}`, `{}`, `[]`} {
		client, _ := against(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, answer) })
		var out struct{ A string }
		err := client.Read(t.Context(), "x", &out)
		if !errors.Is(err, vault.ErrServer) || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("answer %q gives %v", answer, err)
		}
	}
}
