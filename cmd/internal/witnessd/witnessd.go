// Package witnessd is the log's witness as its daemon runs it: it cosigns checkpoints of one log that extend what it has
// seen, at another body than the log's.
package witnessd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/witness"
)

// Config is a witness's configuration: one YAML file. Paths are relative to its folder.
type Config struct {
	daemon.Common `yaml:",inline"`

	Key   string `yaml:"key"`   // file with the witness's secret key, C2SP tlog-cosignature
	State string `yaml:"state"` // folder with the last checkpoint seen
	Of    string `yaml:"of"`    // the log's verifier key, as in the roster
}

// Shared implements daemon.Daemon.
func (c *Config) Shared() *daemon.Common { return &c.Common }

// Check implements daemon.Daemon.
func (c *Config) Check(dir string) error {
	daemon.In(dir, &c.Key, &c.State)
	errs := []error{daemon.File("key", c.Key)}
	if c.State == "" {
		errs = append(errs, errors.New("state: name a folder"))
	}
	if _, err := note.NewVerifier(c.Of); err != nil {
		errs = append(errs, fmt.Errorf("of: %w", err))
	}
	return errors.Join(errs...)
}

// Run implements daemon.Daemon.
func (c *Config) Run(ctx context.Context, env daemon.Env) (err error) {
	secret, err := os.ReadFile(c.Key)
	if err != nil {
		return err
	}
	signer, err := audit.NewWitnessSigner(strings.TrimSpace(string(secret)))
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(c.Of)
	if err != nil {
		return err
	}
	w, err := audit.NewWitness(c.State, signer, verifier)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	srv, err := rpc.NewServer(env.TLS.Server(), rpc.Config{Methods: witness.Methods(), Identify: daemon.Identify(c.Lab), Status: witness.Status,
		Logger: env.Logger, Metrics: env.Metrics, Stats: env.Stats, Clock: env.Clock})
	if err != nil {
		return err
	}
	witness.Register(srv, w)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	env.Logger.InfoContext(ctx, "serving", "lab", c.Lab, "address", l.Addr().String(), "name", env.TLS.Name().String())
	return srv.Serve(ctx, l)
}
