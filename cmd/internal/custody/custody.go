// Package custody is a custodian as its daemon runs it: key pieces, ledger and copies of blobs of one body, its service for
// peers, owners and the control plane, and its own view of the log.
package custody

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"google.golang.org/grpc"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/planner"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/feed"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/release/service"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
)

// Config is a custodian's configuration: one YAML file. Paths are relative to its folder.
type Config struct {
	daemon.Common `yaml:",inline"`

	Root     string    `yaml:"root"`     // the lab's root public key in hexadecimal, pinned
	Roster   string    `yaml:"roster"`   // file with a roster, signed by the root key; later ones come with dossiers
	Identity string    `yaml:"identity"` // file with the custodian's signing and receiving keys
	Keyring  string    `yaml:"keyring"`  // folder with the key pieces: for development only
	State    string    `yaml:"state"`    // folder with ledger, shares and what was seen of the log
	Mirror   string    `yaml:"mirror"`   // folder with the custodian's copies of blobs
	Plane    Address   `yaml:"labd"`     // the control plane, for log and blobs
	Peers    []Address `yaml:"peers"`    // the other custodians
	Workers  int       `yaml:"workers"`  // goroutines that execute a plan; default: 1

	root ed25519.PublicKey
}

// Address is where another daemon is. Its certificate must name it.
type Address struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"` // host:port
}

// Shared implements daemon.Daemon.
func (c *Config) Shared() *daemon.Common { return &c.Common }

// Check implements daemon.Daemon.
func (c *Config) Check(dir string) error {
	daemon.In(dir, &c.Roster, &c.Identity, &c.Keyring, &c.State, &c.Mirror)
	var errs []error
	root, err := hex.DecodeString(c.Root)
	if err != nil || len(root) != ed25519.PublicKeySize {
		errs = append(errs, fmt.Errorf("root: want a public key of %d hexadecimal digits", 2*ed25519.PublicKeySize))
	}
	c.root = root
	errs = append(errs, daemon.File("roster", c.Roster), daemon.File("identity", c.Identity))
	for key, path := range map[string]string{"keyring": c.Keyring, "state": c.State, "mirror": c.Mirror} {
		if path == "" {
			errs = append(errs, fmt.Errorf("%s: name a folder", key))
		}
	}
	for key, a := range map[string]Address{"labd": c.Plane} {
		errs = append(errs, a.check(key))
	}
	for i, a := range c.Peers {
		errs = append(errs, a.check(fmt.Sprintf("peers[%d]", i)))
	}
	if c.Workers < 0 {
		errs = append(errs, errors.New("workers: it is negative"))
	}
	return errors.Join(errs...)
}

func (a Address) check(key string) error {
	if a.Name == "" {
		return fmt.Errorf("%s.name: want its name in the roster", key)
	}
	return daemon.HostPort(key+".address", a.Address)
}

// body is the running custodian.
type body struct {
	cfg    *Config
	env    daemon.Env
	closes []func() error
}

// Run implements daemon.Daemon.
func (c *Config) Run(ctx context.Context, env daemon.Env) (err error) {
	b := &body{cfg: c, env: env}
	defer func() {
		for _, end := range slices.Backward(b.closes) {
			err = errors.Join(err, end())
		}
	}()
	srv, err := b.open()
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	env.Logger.InfoContext(ctx, "serving", "lab", c.Lab, "address", l.Addr().String(), "name", env.TLS.Name().String())
	return srv.Serve(ctx, l)
}

func (b *body) open() (*rpc.Server, error) {
	id, err := keys.LoadIdentity(b.cfg.Identity)
	if err != nil {
		return nil, err
	}
	if n := b.env.TLS.Name(); n.Role != string(operators.RoleCustodian) || n.Party != id.Name() {
		return nil, fmt.Errorf("the certificate names %s, the keys are of custodian %q", n, id.Name())
	}
	data, err := os.ReadFile(b.cfg.Roster)
	if err != nil {
		return nil, err
	}
	var roster enclave.Signed
	if err := canon.Unmarshal(data, &roster); err != nil {
		return nil, fmt.Errorf("%s: %w", b.cfg.Roster, err)
	}
	ring, err := keys.OpenFile(b.cfg.Keyring)
	if err != nil {
		return nil, err
	}
	own, err := store.Open(b.cfg.Mirror)
	if err != nil {
		return nil, err
	}
	plane, err := b.dial(b.cfg.Plane, operators.RoleLab)
	if err != nil {
		return nil, err
	}
	copies := mirror.New(own, feed.New(plane))
	b.closes = append(b.closes, copies.Close)
	me, err := release.New(release.Config{Dir: b.cfg.State, Signer: id, Keys: ring, Mirror: copies, RootKey: b.cfg.root, Roster: roster,
		Log: feed.New(plane), Build: planner.Build, Workers: b.cfg.Workers, Clock: b.env.Clock, Logger: b.env.Logger})
	if err != nil {
		return nil, err
	}
	b.closes = append(b.closes, me.Close)
	var peers []*service.Peer
	for _, a := range b.cfg.Peers {
		conn, err := b.dial(a, operators.RoleCustodian)
		if err != nil {
			return nil, err
		}
		peers = append(peers, service.NewPeer(a.Name, conn, id.Name(), me.Roster, id.Open))
	}
	srv, err := rpc.NewServer(b.env.TLS.Server(), rpc.Config{Methods: custodian.Methods(), Identify: daemon.Identify(b.cfg.Lab), Admit: service.Admit(me.Roster),
		Status: service.Status, Logger: b.env.Logger, Metrics: b.env.Metrics, Stats: b.env.Stats, Clock: b.env.Clock})
	if err != nil {
		return nil, err
	}
	_, err = service.Register(srv, service.Config{Custodian: me, Open: id.Open, Peers: peers, Logger: b.env.Logger})
	return srv, err
}

func (b *body) dial(a Address, role operators.Role) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(a.Address, b.env.TLS.Client(pki.Name{Role: string(role), Party: a.Name}), b.env.Dials...)
	if err != nil {
		return nil, err
	}
	b.closes = append(b.closes, conn.Close)
	return conn, nil
}
