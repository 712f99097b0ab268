// Package vault speaks to a HashiCorp Vault or an OpenBao server over its HTTP API: it logs in by AppRole, renews what
// expires, retries what is safe to repeat, and says in typed errors what is wrong. It knows requests and answers, not
// keys: package keys/transit is the custody built on it.
//
// It does not use the official client, for three reasons. Answers that carry a key are read into one buffer that is
// erased once it is decoded, where the official client makes strings of them, which cannot be. Nothing is taken from
// VAULT_… variables of the environment, which would let whoever starts a custodian redirect it. And what may be
// repeated is decided here, by what the call does.
//
// Everything fails closed: a server that is sealed, unreachable, slow or without an audit device yields an error and
// never an answer from memory. Each is asked again for a bounded time, and a later call finds the server back by itself.
package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that callers branch on. Each reaches them wrapped in an *Error, which says what was asked.
var (
	ErrSealed      = errors.New("vault is sealed: its operators must unseal it")
	ErrUnreachable = errors.New("vault cannot be reached")
	ErrSlow        = errors.New("vault did not answer in time")
	ErrLogin       = errors.New("vault does not accept the AppRole credentials: they expired or were revoked")
	ErrDenied      = errors.New("vault's policy does not allow this")
	ErrNoAudit     = errors.New("vault has no audit device, so keys are not used: enable one")
	ErrNotFound    = errors.New("vault has nothing under this path")
	ErrRejected    = errors.New("vault rejects the request")
	ErrServer      = errors.New("vault reports a fault of its own: an audit device that cannot be written is a common cause")
)

// Error is a request that did not succeed.
type Error struct {
	Op     string   // HTTP method
	Path   string   // below /v1/; names keys, never holds one
	Status int      // HTTP status, 0 if there was no answer
	Said   []string // Vault's own words
	Err    error    // one of the sentinels, possibly with a cause
}

func (e *Error) Error() string {
	s := fmt.Sprintf("vault: %s %s: %v", e.Op, e.Path, e.Err)
	if len(e.Said) > 0 {
		s += " (" + strings.Join(e.Said, "; ") + ")"
	}
	return s
}

// Unwrap lets errors.Is match the sentinel.
func (e *Error) Unwrap() error { return e.Err }

// Config says where a server is and as whom to log in. Address, RoleIDFile and SecretIDFile are required.
type Config struct {
	Address      string `yaml:"address"`             // https://host:8200; http only to this machine
	CAFile       string `yaml:"ca_file,omitempty"`   // PEM; "" = the system's authorities
	Namespace    string `yaml:"namespace,omitempty"` // "" = none
	AppRole      string `yaml:"approle,omitempty"`   // mount of the auth method; "" = "approle"
	RoleIDFile   string `yaml:"role_id_file"`        // read at every login
	SecretIDFile string `yaml:"secret_id_file"`      // read at every login, so it may be replaced
	Transit      string `yaml:"transit,omitempty"`   // mount; "" = "transit"
	KV           string `yaml:"kv,omitempty"`        // mount of a kv v2 engine; "" = "kv"

	Timeout  time.Duration `yaml:"timeout,omitempty"`  // of one request; 0 = 5 s
	Patience time.Duration `yaml:"patience,omitempty"` // how long a request is repeated in all; 0 = 15 s

	Transport http.RoundTripper `yaml:"-"` // for tests; nil = TLS 1.3 by CAFile
	Logger    *slog.Logger      `yaml:"-"` // nil = slog.Default
}

// Client is a server as one AppRole sees it. Several goroutines may use it.
type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
	sent atomic.Int64

	mu    sync.Mutex // one login at a time
	token token
}

// token is a login. Its value goes into a header and nowhere else.
type token struct {
	value string
	until time.Time // when to log in again, well before it expires; zero = never
	used  uint64    // counts logins
}

func (token) String() string   { return "[vault token]" }
func (token) GoString() string { return "[vault token]" }

// New checks a configuration. It does not call the server, which may be down or sealed now and back later.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.Address)
	if err != nil || base.Host == "" || base.User != nil || strings.Trim(base.Path, "/") != "" || base.RawQuery != "" {
		return nil, fmt.Errorf("vault: address %q is not like https://vault.example:8200", cfg.Address)
	}
	if base.Scheme != "https" && !(base.Scheme == "http" && loopback(base.Hostname())) {
		return nil, fmt.Errorf("vault: address %q: keys travel over https, and over http only within this machine", cfg.Address)
	}
	if cfg.RoleIDFile == "" || cfg.SecretIDFile == "" {
		return nil, errors.New("vault: role_id_file and secret_id_file are required")
	}
	for at, otherwise := range map[*string]string{&cfg.AppRole: "approle", &cfg.Transit: "transit", &cfg.KV: "kv"} {
		if *at == "" {
			*at = otherwise
		}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = 15 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Transport == nil {
		if cfg.Transport, err = transport(cfg.CAFile); err != nil {
			return nil, err
		}
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{Transport: cfg.Transport,
		// A redirect would carry the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func transport(caFile string) (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil // a proxy from the environment would be in the way of keys
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(filepath.Clean(caFile))
	if err != nil {
		return nil, fmt.Errorf("vault: reading authorities: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("vault: %s holds no certificate", caFile)
	}
	return t, nil
}

// Transit is the path of a transit operation, such as Transit("decrypt", name).
func (c *Client) Transit(elem ...string) string { return c.cfg.Transit + "/" + strings.Join(elem, "/") }

// KVData and KVMetadata are the paths of a secret in the kv v2 engine.
func (c *Client) KVData(path string) string     { return c.cfg.KV + "/data/" + path }
func (c *Client) KVMetadata(path string) string { return c.cfg.KV + "/metadata/" + path }

// Sent counts the requests that were sent, logins and repetitions included.
func (c *Client) Sent() int64 { return c.sent.Load() }

// Read asks for a path and decodes the answer's data into out.
func (c *Client) Read(ctx context.Context, path string, out any) error {
	return c.call(ctx, http.MethodGet, path, nil, out)
}

// Write sends in, which must hold no secret, and decodes the answer's data into out unless that is nil. It is repeated
// after a lost answer: callers write only what may be written twice.
func (c *Client) Write(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, http.MethodPost, path, in, out)
}

// List names what lies below a path; nothing is no error.
func (c *Client) List(ctx context.Context, path string) ([]string, error) {
	var out struct{ Keys []string }
	err := c.call(ctx, "LIST", path, nil, &out)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return out.Keys, err
}

// Delete removes a path; one that is not there is no error.
func (c *Client) Delete(ctx context.Context, path string) error {
	err := c.call(ctx, http.MethodDelete, path, nil, nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Audited insists on an audit device: Vault itself serves without one, and refuses only where one that it has cannot be
// written. The AppRole may read the list of devices and nothing else of it.
func (c *Client) Audited(ctx context.Context) error {
	devices := map[string]struct{ Type string }{}
	if err := c.Read(ctx, "sys/audit", &devices); err != nil {
		return err
	}
	if len(devices) == 0 {
		return &Error{Op: http.MethodGet, Path: "sys/audit", Status: http.StatusOK, Err: ErrNoAudit}
	}
	return nil
}
