// Package vaulttest runs real Vault and OpenBao servers for tests: on loopback, with storage in a temporary folder and
// an audit device that writes a file. LAB_VAULT and LAB_BAO name the programs, which may be the development servers of
// deploy/devvault and deploy/devbao (.ci/setup builds them) or stock ones; without them the tests that need one are
// skipped and say so.
package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave/vault"
)

// Kind is a make of server.
type Kind string

// Kinds, each with the variable that names its program.
const (
	Vault   Kind = "LAB_VAULT"
	OpenBao Kind = "LAB_BAO"
)

// Server is one server that this test owns. It is unsealed and has an audit device until the test changes that.
type Server struct {
	t       testing.TB
	program string
	dir     string
	Address string
	Audit   string // file of the audit device
	root    string
	unseal  string

	cmd   *exec.Cmd
	ended chan error
}

// template is a server's storage as it was once it had been set up with the custodian "cust": making its 4096-bit key
// for imports takes seconds, which every test would take again.
type template struct {
	sync.Mutex
	dir, root, unseal string
}

var templates = map[Kind]*template{Vault: {}, OpenBao: {}}

// Start starts a server, or skips the test. A custodian called "cust" is set up in it already, though Custodian is
// still to be called for it.
func Start(t testing.TB, kind Kind) *Server {
	t.Helper()
	program := os.Getenv(string(kind))
	if program == "" {
		t.Skipf("%s names no server program: .ci/setup builds one, or name a stock one", kind)
	}
	s := newServer(t, kind, program)
	from := templates[kind]
	from.Lock()
	defer from.Unlock()
	if from.dir == "" {
		s.make(from)
		return s
	}
	s.check(os.CopyFS(s.storage(), os.DirFS(from.dir)))
	s.root, s.unseal = from.root, from.unseal
	s.start()
	s.Unseal()
	s.EnableAudit()
	// Each server has a signing key of its own.
	const sign = "transit-cust/keys/sign"
	s.Root(http.MethodPost, sign+"/config", map[string]any{"deletion_allowed": true}, nil)
	s.Root(http.MethodDelete, sign, nil, nil)
	s.Root(http.MethodPost, sign, map[string]any{"type": "ed25519"}, nil)
	return s
}

func newServer(t testing.TB, kind Kind, program string) *Server {
	t.Helper()
	s := &Server{t: t, program: program, dir: t.TempDir()}
	s.Audit = filepath.Join(s.dir, "audit.log")
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	s.check(err)
	s.Address = "http://" + listen.Addr().String()
	config := fmt.Sprintf("storage \"file\" {\n path = %q\n}\nlistener \"tcp\" {\n address = %q\n tls_disable = true\n}\ndisable_mlock = true\napi_addr = %q\n",
		s.storage(), listen.Addr(), s.Address)
	if kind == OpenBao {
		config += "unsafe_allow_api_audit_creation = true\n"
	}
	s.check(os.WriteFile(s.config(), []byte(config), 0o600))
	s.check(listen.Close())
	t.Cleanup(s.Kill)
	return s
}

// make initialises the server, sets it up and keeps a copy.
func (s *Server) make(into *template) {
	s.t.Helper()
	s.start()
	var made struct {
		Keys  []string `json:"keys"`
		Token string   `json:"root_token"`
	}
	s.Root(http.MethodPost, "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &made)
	s.unseal, s.root = made.Keys[0], made.Token
	s.Unseal()
	s.EnableAudit()
	s.Custodian("cust")
	s.DisableAudit() // it is of this server's folder
	s.Kill()
	dir, err := os.MkdirTemp("", "vaulttest-") // for all tests of the program
	s.check(err)
	s.check(os.CopyFS(dir, os.DirFS(s.storage())))
	into.dir, into.root, into.unseal = dir, s.root, s.unseal
	s.start()
	s.Unseal()
	s.EnableAudit()
}

// Clean removes what Start keeps between tests: for TestMain, after m.Run.
func Clean() error {
	var err error
	for _, t := range templates {
		if t.dir != "" {
			err = errors.Join(err, os.RemoveAll(t.dir))
		}
	}
	return err
}

func (s *Server) storage() string { return filepath.Join(s.dir, "storage") }
func (s *Server) config() string  { return filepath.Join(s.dir, "server.hcl") }

func (s *Server) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("vault for tests: %v", err)
	}
}

func (s *Server) start() {
	s.t.Helper()
	out, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	s.check(err)
	defer out.Close()
	s.cmd = exec.Command(s.program, "server", "-config="+s.config())
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	s.check(s.cmd.Start())
	s.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(s.cmd, s.ended)
	s.wait(func(status int) bool { return status != 0 })
}

// LogFile is where the server's own log goes.
func (s *Server) LogFile() string { return filepath.Join(s.dir, "server.log") }

// wait asks for the server's health until it is as wanted.
func (s *Server) wait(ready func(status int) bool) {
	s.t.Helper()
	ctx, stop := context.WithTimeout(s.t.Context(), time.Minute)
	defer stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status := 0
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Address+"/v1/sys/health", nil)
		s.check(err)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			status = resp.StatusCode
			resp.Body.Close()
		}
		if ready(status) {
			return
		}
		select {
		case err := <-s.ended:
			log, _ := os.ReadFile(s.LogFile())
			s.t.Fatalf("vault for tests: the server ended (%v): %s", err, log)
		case <-ctx.Done():
			s.t.Fatal("vault for tests: the server does not get ready")
		case <-tick.C:
		}
	}
}

// Kill ends the server as a power cut would.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.ended
	s.cmd = nil
}

// Backup copies the server's storage as it is.
func (s *Server) Backup() {
	s.t.Helper()
	s.check(os.CopyFS(filepath.Join(s.dir, "backup"), os.DirFS(s.storage())))
}

// Restore puts back what Backup copied; the server comes up unsealed.
func (s *Server) Restore() {
	s.t.Helper()
	s.Kill()
	s.check(errors.Join(os.RemoveAll(s.storage()), os.CopyFS(s.storage(), os.DirFS(filepath.Join(s.dir, "backup")))))
	s.start()
	s.Unseal()
}

// Restart starts a killed server again; it comes up sealed.
func (s *Server) Restart() { s.start() }

// Seal and Unseal do so through the API.
func (s *Server) Seal() { s.Root(http.MethodPut, "sys/seal", nil, nil) }

// Unseal returns when the server is active.
func (s *Server) Unseal() {
	s.t.Helper()
	s.Root(http.MethodPut, "sys/unseal", map[string]any{"key": s.unseal}, nil)
	s.wait(func(status int) bool { return status == http.StatusOK })
}

// EnableAudit gives the server its audit device, DisableAudit takes it.
func (s *Server) EnableAudit() {
	s.t.Helper()
	s.Root(http.MethodPut, "sys/audit/file", map[string]any{"type": "file", "options": map[string]any{"file_path": s.Audit}}, nil)
}

// DisableAudit leaves the server without an audit device.
func (s *Server) DisableAudit() { s.Root(http.MethodDelete, "sys/audit/file", nil, nil) }

// Root calls the API as root and insists on success.
func (s *Server) Root(method, path string, in, out any) {
	s.t.Helper()
	status, data := s.Call(s.root, method, path, in)
	if status >= 300 {
		s.t.Fatalf("vault for tests: %s %s: status %d: %s", method, path, status, data)
	}
	if out != nil {
		s.check(json.Unmarshal(data, out))
	}
}

// RootToken is root's, for calls that are to fail.
func (s *Server) RootToken() string { return s.root }

// Call calls the API with a token.
func (s *Server) Call(token, method, path string, in any) (status int, answer []byte) {
	s.t.Helper()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		s.check(err)
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(s.t.Context()), method, s.Address+"/v1/"+path, body)
	s.check(err)
	req.Header.Set("X-Vault-Token", token)
	resp, err := http.DefaultClient.Do(req)
	s.check(err)
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	s.check(err)
	return resp.StatusCode, answer
}

// Custodian sets a custodian up with deploy/vault/setup.sh, on mounts of its own, and returns its configuration. env adds
// variables for the script, as NAME=value.
func (s *Server) Custodian(name string, env ...string) vault.Config {
	s.t.Helper()
	return s.setUp("custodian", name, env...)
}

// ControlPlane does the same for the control plane: its signing keys and the data keys of its blob store.
func (s *Server) ControlPlane(env ...string) vault.Config {
	s.t.Helper()
	return s.setUp("lab", "plane", env...)
}

// Agency does the same for an agency.
func (s *Server) Agency(name string) vault.Config {
	s.t.Helper()
	return s.setUp("agency", name)
}

func (s *Server) setUp(kind, name string, env ...string) vault.Config {
	s.t.Helper()
	out := filepath.Join(s.dir, name)
	cfg := vault.Config{Address: s.Address, Transit: "transit-" + name, KV: "kv-" + name,
		RoleIDFile: filepath.Join(out, "role-id"), SecretIDFile: filepath.Join(out, "secret-id"),
		Timeout: 5 * time.Second, Patience: 10 * time.Second}
	cmd := exec.CommandContext(s.t.Context(), script(), kind, name, out)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "VAULT_ADDR=" + s.Address, "VAULT_TOKEN=" + s.root,
		"TRANSIT=" + cfg.Transit, "KV=" + cfg.KV, "AUDIT_FILE=" + s.Audit}, env...)
	if said, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("vault for tests: setup.sh: %v: %s", err, said)
	}
	return cfg
}

// Client is a client of one custodian.
func (s *Server) Client(cfg vault.Config) *vault.Client {
	s.t.Helper()
	c, err := vault.New(cfg)
	s.check(err)
	return c
}

// Token logs in as a custodian and returns the token, to try what it may do.
func (s *Server) Token(cfg vault.Config) string {
	s.t.Helper()
	role, err1 := os.ReadFile(cfg.RoleIDFile)
	secret, err2 := os.ReadFile(cfg.SecretIDFile)
	s.check(errors.Join(err1, err2))
	var out struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	s.Root(http.MethodPost, "auth/approle/login", map[string]string{"role_id": strings.TrimSpace(string(role)), "secret_id": strings.TrimSpace(string(secret))}, &out)
	return out.Auth.Token
}

// script finds deploy/vault/setup.sh of this source tree.
func script() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "deploy", "vault", "setup.sh")
}
