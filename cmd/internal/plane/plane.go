package plane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/node"
	"yingzhou.dev/lab/cmd/internal/ownership"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/store/datakey"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/feed"
	"yingzhou.dev/lab/sandbox/gate"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/server"
	"yingzhou.dev/lab/sandbox/witness"
)

// plane is the running control plane. Its parts are closed in the reverse order of their opening.
type plane struct {
	cfg    *Config
	env    daemon.Env
	closes []func(context.Context) error

	roster   *operators.Roster // the first
	vault    *vault.Client     // labd's own; nil if its secrets are in files
	blobs    *store.Store
	copies   *store.Store  // what the node maps: blobs, or copies where those are encrypted at rest
	dataKeys *datakey.Keys // of blobs; nil if they lie as they are
	records  *db.DB
	log      *audit.Log
	worker   *node.Machine
	lab      *lab.Lab
	watchers *server.Watchers
	keeper   *lab.Keeper
	server   *server.Server
}

// Run implements daemon.Daemon.
func (c *Config) Run(ctx context.Context, env daemon.Env) (err error) {
	p := &plane{cfg: c, env: env, watchers: server.NewWatchers()}
	defer func() {
		for _, end := range slices.Backward(p.closes) {
			err = errors.Join(err, end(context.WithoutCancel(ctx)))
		}
	}()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{{"roster", p.readRoster}, {"vault", p.openVault}, {"stores", p.openStores}, {"log", p.openLog}, {"control plane", p.openLab}, {"service", p.openServer}} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("opening %s: %w", step.what, err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	env.Logger.InfoContext(ctx, "serving", "lab", c.Lab, "address", l.Addr().String(), "name", env.TLS.Name().String())
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.server.Serve(gctx, l) })
	g.Go(func() error {
		return p.lab.Dispatch(gctx, p.records.Queue(db.QueueConfig{Logger: env.Logger}), c.Worker.AtOnce)
	})
	g.Go(func() error { return p.sweeps(gctx) })
	g.Go(func() error { return p.disposals(gctx) })
	g.Go(func() error { return p.looksAfter(gctx) })
	g.Go(func() error { return p.abandons(gctx) })
	return g.Wait()
}

func (p *plane) atEnd(f func() error) {
	p.closes = append(p.closes, func(context.Context) error { return f() })
}

func (p *plane) readRoster(context.Context) error {
	signed, err := readSigned(p.cfg.Roster)
	if err != nil {
		return err
	}
	if p.roster, err = operators.OpenRoster(signed, p.cfg.root); err != nil {
		return fmt.Errorf("%s: %w", p.cfg.Roster, err)
	}
	if p.roster.Lab != p.cfg.Lab {
		return fmt.Errorf("%s is of lab %q, this is %q", p.cfg.Roster, p.roster.Lab, p.cfg.Lab)
	}
	if n := p.env.TLS.Name(); n.Role != string(operators.RoleLab) {
		return fmt.Errorf("the certificate names %s, and labd must be the lab's", n)
	}
	return nil
}

func readSigned(path string) (s enclave.Signed, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := canon.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// openBlobs opens the blob store, and with it the node's own copies where the store cannot be mapped.
func (p *plane) openBlobs() (err error) {
	if p.cfg.BlobVault == nil {
		p.blobs, err = store.Open(p.cfg.Blobs)
		p.copies = p.blobs
		return err
	}
	at := *p.cfg.BlobVault
	at.Logger = p.env.Logger
	c, err := vault.New(at)
	if err != nil {
		return err
	}
	p.dataKeys = datakey.New(c)
	if p.blobs, err = store.OpenAtRest(p.cfg.Blobs, telling{p.dataKeys, p}); err != nil {
		return err
	}
	p.copies, err = store.Open(filepath.Join(p.cfg.State, "node"))
	return err
}

func (p *plane) openStores(ctx context.Context) (err error) {
	if err := p.openBlobs(); err != nil {
		return err
	}
	if err := p.openRecords(ctx); err != nil {
		return err
	}
	return p.claimRecords(ctx)
}

// claimRecords holds a server's database to this lab. A file is nobody else's by where it lies.
func (p *plane) claimRecords(ctx context.Context) error {
	if p.cfg.Database.SQLite != "" {
		return nil
	}
	return ownership.Claim(ctx, p.records, p.cfg.root)
}

func (p *plane) openRecords(ctx context.Context) (err error) {
	if p.cfg.Database.SQLite != "" {
		if err := durable.MkdirAll(filepath.Dir(p.cfg.Database.SQLite), 0o700); err != nil {
			return err
		}
		p.records, err = db.Open(ctx, p.cfg.Database.SQLite)
	} else {
		var dsn string
		if dsn, err = p.dsn(ctx); err != nil {
			return err
		}
		p.records, err = db.OpenPostgres(ctx, db.Postgres{DSN: dsn})
	}
	if err != nil {
		return err
	}
	p.atEnd(p.records.Close)
	return nil
}

// dial makes a connection to another daemon, held to its name.
func (p *plane) dial(a Address, role string) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(a.Address, p.env.TLS.Client(pki.Name{Role: role, Party: a.Name}), p.env.Dials...)
	if err != nil {
		return nil, err
	}
	p.atEnd(conn.Close)
	return conn, nil
}

// witnessRole is what the witness's certificate says. It is no party of the roster: its key stands there by itself.
const witnessRole = "witness"

// openLog waits for the witness, which has to cosign what a crash left unsigned.
func (p *plane) openLog(ctx context.Context) error {
	signer, verifier, err := p.logSigner(ctx)
	if err != nil {
		return err
	}
	keys, err := audit.ParseKeys(p.roster.Log, p.roster.Witness)
	if err != nil {
		return err
	}
	conn, err := p.dial(p.cfg.Witness, witnessRole)
	if err != nil {
		return err
	}
	cosigner := witness.NewClient(conn, keys.Witness)
	for attempt := 0; ; attempt++ {
		if _, err = cosigner.Size(ctx); err == nil {
			break
		}
		p.env.Logger.WarnContext(ctx, "waiting for the witness", "address", p.cfg.Witness.Address, "error", err)
		if err := pause(ctx, min(time.Second<<min(attempt, 4), 10*time.Second)); err != nil {
			return err
		}
	}
	audit.RedirectTessera(p.env.Logger)
	if p.log, err = audit.Open(ctx, audit.Config{Dir: p.cfg.LogDir, Signer: signer, Verifier: verifier, Witness: cosigner, Log: p.env.Logger,
		Shared: p.cfg.Database.SQLite == ""}); err != nil {
		return err
	}
	p.closes = append(p.closes, p.log.Close)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *plane) openLab(ctx context.Context) error {
	labKey, nodeKey, err := p.signers()
	if err != nil {
		return err
	}
	var clients []*custodian.Client
	for _, a := range p.cfg.Custodians {
		conn, err := p.dial(a, string(operators.RoleCustodian))
		if err != nil {
			return err
		}
		clients = append(clients, custodian.New(a.Name, conn))
	}
	custodians, err := gate.New(clients...)
	if err != nil {
		return err
	}
	if p.worker, err = node.New(node.Config{Program: p.cfg.Worker.Program, Compute: p.cfg.Nodes.Program, Backend: p.cfg.Worker.Isolation, Production: p.cfg.Production, Dir: p.cfg.State, Leave: true,
		StateFile: filepath.Join(p.cfg.State, node.StateName), Unfinished: func(ctx context.Context) ([]sandbox.Job, error) { return p.lab.Unfinished(ctx) }}); err != nil {
		return err
	}
	p.atEnd(p.worker.Close)
	copies := mirror.New(p.copies, p.blobs)
	p.atEnd(copies.Close)
	tmp := filepath.Join(p.cfg.State, "tmp")
	if err := durable.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	p.lab, err = lab.New(ctx, lab.Config{Store: p.records, Log: p.log, Gate: custodians, Collector: custodians, Inputs: copies, NodeProgram: p.identifyNode, Worker: p.worker, Admission: p.worker.Queue,
		Destroyer: &destroyer{Gate: custodians, stores: slices.Compact([]*store.Store{p.blobs, p.copies}), dataKeys: p.dataKeys}, Lab: labKey, Node: nodeKey,
		RootKey: p.cfg.root, TempDir: tmp, Blobs: p.blobs, Watch: p.watchers.Note, Clock: p.env.Clock, Logger: p.env.Logger})
	if err != nil {
		return err
	}
	if err := p.lab.Sweep(ctx); err != nil {
		return err
	}
	if _, _, err := p.lab.Roster(ctx); errors.Is(err, sandbox.ErrNotFound) {
		signed, err := readSigned(p.cfg.Roster)
		if err != nil {
			return err
		}
		return p.lab.PutRoster(ctx, signed)
	} else if err != nil {
		return err
	}
	return nil
}

func (p *plane) openServer(ctx context.Context) error {
	var err error
	if p.keeper, err = lab.NewKeeper(ctx, p.lab); err != nil {
		return err
	}
	book, err := registry.New(registry.Config{Store: p.keeper, Log: p.keeper.Announce, RootKey: p.cfg.root, Clock: p.env.Clock,
		Roster: func(ctx context.Context) (operators.Signed, error) { s, _, err := p.lab.Roster(ctx); return s, err },
		Owners: func(ctx context.Context) (map[string]string, error) {
			st, err := p.lab.Statements(ctx)
			return st.Owners, err
		}})
	if err != nil {
		return err
	}
	var addresses []server.Address
	for _, a := range p.cfg.Custodians {
		addresses = append(addresses, server.Address(a))
	}
	p.server, err = server.New(server.Config{Name: p.cfg.Lab, Lab: p.lab, Registry: book, Log: p.log, Blobs: p.blobs, Node: p.worker, Jobs: p.watchers,
		RootKey: p.cfg.root, TLS: p.env.TLS.Server(), Custodians: addresses, Methods: feed.Methods(),
		Extra:   func(r server.Registrar) { feed.Register(r, p.log, p.blobs) },
		PerPeer: p.cfg.Limits.rate(), MaxBlob: p.cfg.Limits.MaxBlob, Drain: time.Duration(p.cfg.Drain), Metrics: p.env.Metrics, Stats: p.env.Stats, Clock: p.env.Clock, Logger: p.env.Logger})
	return err
}

// How often labd looks after what another process on the same database may have left when it was lost.
const (
	settleEvery = 5 * time.Second // statements: custodians sign nothing while one is missing
	tidyEvery   = time.Minute     // workers and inputs of jobs that the other has brought to their end
)

// looksAfter ends what a lost process left half done, and removes what this node keeps for jobs that ended elsewhere.
func (p *plane) looksAfter(ctx context.Context) error {
	settle, tidy := time.NewTicker(settleEvery), time.NewTicker(tidyEvery)
	defer settle.Stop()
	defer tidy.Stop()
	for {
		var err error
		select {
		case <-settle.C:
			err = p.keeper.Settle(ctx)
		case <-tidy.C:
			err = errors.Join(p.worker.Tidy(ctx), p.lab.Tidy(ctx))
		case <-ctx.Done():
			return nil
		}
		if err != nil && ctx.Err() == nil {
			p.env.Logger.WarnContext(ctx, "looking after what was left", "error", err)
		}
	}
}

// abandons ends, now and once a minute, jobs whose submission broke off for good.
func (p *plane) abandons(ctx context.Context) error {
	for {
		if n, err := p.lab.Abandon(ctx); err != nil && ctx.Err() == nil {
			p.env.Logger.ErrorContext(ctx, "ending abandoned jobs", "error", err)
		} else if n > 0 {
			p.env.Logger.InfoContext(ctx, "ended jobs whose submission broke off", "jobs", n)
		}
		if pause(ctx, time.Minute) != nil {
			return nil
		}
	}
}

// sweeps removes, now and once a day, blobs that were uploaded a while ago and that no manifest names: what uploads leave
// that were never published.
func (p *plane) sweeps(ctx context.Context) error {
	for {
		old := p.env.Clock().Add(-time.Duration(p.cfg.SweepDays) * 24 * time.Hour)
		n, err := p.blobs.Sweep(old, func() (map[enclave.Digest]bool, error) { return lab.NamedBlobs(ctx, p.records) })
		if err != nil && ctx.Err() == nil {
			p.env.Logger.ErrorContext(ctx, "sweeping blobs", "error", err)
		} else if n > 0 {
			p.env.Logger.InfoContext(ctx, "swept blobs that no manifest names", "blobs", n)
		}
		if pause(ctx, 24*time.Hour) != nil {
			return nil
		}
	}
}
