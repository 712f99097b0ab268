package custody

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/planner"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/feed"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/release/service"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
)

// body is the running custodian.
type body struct {
	cfg    *Config
	env    daemon.Env
	me     *release.Custodian
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
	srv, serveNode, err := b.open()
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	env.Logger.InfoContext(ctx, "serving", "lab", c.Lab, "address", l.Addr().String(), "name", env.TLS.Name().String())
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(gctx, l) })
	g.Go(func() error { b.follow(gctx); return nil })
	if serveNode != nil {
		g.Go(func() error { return serveNode(gctx) })
	}
	return g.Wait()
}

// How often a custodian reads the log when nobody asks it for anything: soon again while the log cannot be read.
const (
	followEvery = 10 * time.Minute
	followRetry = 5 * time.Second
)

// follow reads the log by itself: a custodian that was put back from an old copy destroys what was to be destroyed, and a
// log that was rewritten is noticed, without anybody asking.
func (b *body) follow(ctx context.Context) {
	for {
		wait := followEvery
		if err := b.me.Follow(ctx); err != nil {
			if !refusal.Final(err) {
				wait = followRetry
			}
			b.env.Logger.WarnContext(ctx, "the log was not followed", "error", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// open makes the server, and what serves other custodians' nodes if this body has one.
func (b *body) open() (_ *rpc.Server, serveNode func(context.Context) error, err error) {
	roster, err := b.roster()
	if err != nil {
		return nil, nil, err
	}
	id, ring, err := b.keys(roster)
	if err != nil {
		return nil, nil, err
	}
	if n := b.env.TLS.Name(); n.Role != string(operators.RoleCustodian) || n.Party != id.Name() {
		return nil, nil, fmt.Errorf("the certificate names %s, the keys are of custodian %q", n, id.Name())
	}
	own, err := store.Open(b.cfg.Mirror)
	if err != nil {
		return nil, nil, err
	}
	plane, err := b.dial(b.cfg.Plane, operators.RoleLab)
	if err != nil {
		return nil, nil, err
	}
	copies := mirror.New(own, feed.New(plane))
	b.closes = append(b.closes, copies.Close)
	var me *release.Custodian
	cfg := release.Config{Dir: b.cfg.State, Signer: id, Keys: ring, Mirror: copies, RootKey: b.cfg.root, Roster: roster,
		Log: feed.New(plane), Build: planner.Build, Workers: b.cfg.Workers, Clock: b.env.Clock, Logger: b.env.Logger}
	if b.cfg.Node != nil {
		driver, serve, err := b.openNode(id, own, func() *operators.Roster { return me.Roster() })
		if err != nil {
			return nil, nil, err
		}
		cfg.Node, cfg.Open, serveNode = driver, id.Open, serve
	}
	me, err = release.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	b.me = me
	b.closes = append(b.closes, me.Close)
	var peers []*service.Peer
	for _, a := range b.cfg.Peers {
		conn, err := b.dial(a, operators.RoleCustodian)
		if err != nil {
			return nil, nil, err
		}
		peers = append(peers, service.NewPeer(a.Name, conn, id.Name(), me.Roster, id.Open))
	}
	srv, err := rpc.NewServer(b.env.TLS.Server(), rpc.Config{Methods: custodian.Methods(), Identify: daemon.Identify(b.cfg.Lab), Admit: service.Admit(me.Roster),
		Status: statusOf(id.Name()), Logger: b.env.Logger, Metrics: b.env.Metrics, Stats: b.env.Stats, Clock: b.env.Clock, Drain: time.Duration(b.cfg.Drain),
		PerPeer: rpc.Rate{PerSecond: b.cfg.Limits.PerSecond, Burst: b.cfg.Limits.Burst, AtOnce: b.cfg.Limits.AtOnce}})
	if err != nil {
		return nil, nil, err
	}
	if err := watch(b.env.Metrics, me); err != nil {
		return nil, nil, err
	}
	// The state of collections is backed up with the rest of State; copies of reports lie with those of blobs.
	collects, err := prio3.NewHost(prio3.HostConfig{Dir: filepath.Join(b.cfg.State, "collections"), Identity: id, Gate: me.Collections(), Roster: me.Roster, Blobs: copies,
		Clock: b.env.Clock, Workers: max(1, b.cfg.Workers)})
	if err != nil {
		return nil, nil, err
	}
	b.closes = append(b.closes, collects.Close)
	_, err = service.Register(srv, service.Config{Custodian: me, Open: id.Open, Peers: peers, Collects: collects, Logger: b.env.Logger})
	return srv, serveNode, err
}

// roster reads the roster to start with. release.New verifies it.
func (b *body) roster() (canon.Signed, error) {
	var s canon.Signed
	data, err := os.ReadFile(b.cfg.Roster)
	if err == nil {
		err = canon.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("roster %s: %w", b.cfg.Roster, err)
	}
	return s, nil
}

// party is a custodian's own keys.
type party interface {
	keys.Signer
	Open(info, sealed []byte) ([]byte, error)
}

// keys opens the custodian's keys where the configuration says they are. A Vault may be down: it is asked when needed.
func (b *body) keys(signed canon.Signed) (party, keys.Keyring, error) {
	if b.cfg.Vault == nil {
		id, err := keys.LoadIdentity(b.cfg.Identity)
		if err != nil {
			return nil, nil, err
		}
		ring, err := keys.OpenFile(b.cfg.Keyring)
		return id, ring, err
	}
	roster, err := operators.OpenRoster(signed, b.cfg.root)
	if err != nil {
		return nil, nil, err
	}
	me, ok := roster.Find(b.env.TLS.Name().Party)
	if !ok || me.Role != operators.RoleCustodian {
		return nil, nil, fmt.Errorf("the certificate names %s, which is no custodian of the roster", b.env.TLS.Name())
	}
	cfg := *b.cfg.Vault
	cfg.Logger = b.env.Logger
	client, err := vault.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	p := transit.OpenParty(client, me.Name, me.Key())
	return p, p.Keyring(), nil
}

// statusOf maps a custodian's errors; of its Vault callers learn what is the matter and no more.
func statusOf(name string) func(error) (*status.Status, bool) {
	return func(err error) (*status.Status, bool) {
		for _, known := range []error{vault.ErrSealed, vault.ErrUnreachable, vault.ErrSlow, vault.ErrLogin, vault.ErrDenied, vault.ErrNoAudit, vault.ErrServer} {
			if errors.Is(err, known) {
				return refusal.Status(&refusal.UnavailableError{What: fmt.Sprintf("the keys of custodian %q (%v)", name, known)})
			}
		}
		return service.Status(err)
	}
}

// watch shows where the custodian stands to Prometheus.
func watch(reg prometheus.Registerer, c *release.Custodian) error {
	gauge := func(name, help string, value func(release.Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "yingzhou_custodian_" + name, Help: help}, func() float64 { return value(c.Status()) })
	}
	for _, m := range []prometheus.Collector{
		gauge("log_entries", "Entries of the log that were followed.", func(s release.Status) float64 { return float64(s.LogSize) }),
		gauge("ledger_records", "Own records in the ledger.", func(s release.Status) float64 { return float64(s.Records[c.Name()]) }),
		gauge("refusals", "Refusals in the journal. Each deserves a look.", func(s release.Status) float64 { return float64(s.Refusals) }),
		gauge("trouble", "1 while the ledger cannot be written: make room and restart.", func(s release.Status) float64 {
			if s.Trouble != nil {
				return 1
			}
			return 0
		}),
	} {
		if err := reg.Register(m); err != nil {
			return err
		}
	}
	return nil
}

func (b *body) dial(a Address, role operators.Role) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(a.Address, b.env.TLS.Client(pki.Name{Role: string(role), Party: a.Name}), b.env.Dials...)
	if err != nil {
		return nil, err
	}
	b.closes = append(b.closes, conn.Close)
	return conn, nil
}
