// Package nodes drives the compute node of one custodian: it gathers what the node may see, meets the custodians of the
// two others, has the node run and reads its answer. What runs it, and in which isolation, is a Host's matter.
package nodes

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"yingzhou.dev/lab/cmd/internal/nodejob"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/relay"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
)

// Host runs nodes on this machine. nodehost.Host is one; Program is one behind another program.
type Host interface {
	// Identify says which program the host runs, and in what.
	Identify(ctx context.Context) (nodejob.Identity, error)
	// Run runs a node to its end and returns its output. When ctx ends first, nothing of the node is left.
	Run(ctx context.Context, run nodejob.Run) ([]byte, error)
}

// Config is what a custodian's driver works with. The first four are needed.
type Config struct {
	Custodian string
	Host      Host
	Relay     *relay.Relay
	Blobs     *store.Store // the custodian's own copies

	Dir        string // absolute folder of its own for inputs and sockets; what is in it goes. Best on the file system of Blobs
	Production bool   // refuse jobs that say their nodes are not contained
	Limits     nodejob.Limits
	AtOnce     int           // nodes that run at a time; 0 = 2, so that two jobs whose custodians take them up in different order do not wait for each other
	Stall      time.Duration // how long a node waits for a peer; 0 = one minute
	Log        func(lines string)
	Logger     *slog.Logger // nil = slog.Default
}

// Driver implements release.Node.
type Driver struct {
	cfg   Config
	slots chan struct{}

	mu      sync.Mutex
	running map[enclave.Digest]chan struct{} // by plan; closed at the end
	cleaned bool
}

var _ release.Node = (*Driver)(nil)

// KeyIn finds custodians' keys in a roster, for a relay.
func KeyIn(roster func() *operators.Roster) func(name string) (ed25519.PublicKey, error) {
	return func(name string) (ed25519.PublicKey, error) {
		p, ok := roster().Find(name)
		if !ok || p.Role != operators.RoleCustodian || p.Absent {
			return nil, fmt.Errorf("%q is no custodian of the roster", name)
		}
		return p.Key(), nil
	}
}

// New makes a driver. Nothing is started, and the folder is not touched before the first run.
func New(cfg Config) (*Driver, error) {
	if cfg.Custodian == "" || cfg.Host == nil || cfg.Relay == nil || cfg.Blobs == nil || !filepath.IsAbs(cfg.Dir) {
		return nil, errors.New("driver of a compute node: a required field is missing")
	}
	if cfg.AtOnce == 0 {
		cfg.AtOnce = 2
	}
	if cfg.Stall == 0 {
		cfg.Stall = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Driver{cfg: cfg, slots: make(chan struct{}, cfg.AtOnce), running: map[enclave.Digest]chan struct{}{}}, nil
}

// away is an error that another attempt may not meet. Its text reaches the operator: it names custodians, steps and
// limits, and no value, since nodes print none.
func (d *Driver) away(err error) error {
	return &refusal.UnavailableError{What: fmt.Sprintf("the compute node of custodian %q (%v)", d.cfg.Custodian, err), Cause: nil}
}

// Check implements release.Node: the receipt's program is this body's own, and what it says of the nodes' isolation is
// true here.
func (d *Driver) Check(ctx context.Context, r *enclave.Receipt) error {
	id, err := d.cfg.Host.Identify(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		d.cfg.Logger.ErrorContext(ctx, "the host of the compute node does not work", "error", err)
		return d.away(errors.New("its host does not work"))
	case !id.Is(r.Worker):
		return refusal.New(refusal.ErrReceipt, "nodes run program %s, it says, and this body's is %s (image %s): install the one that was approved", r.Worker, id.Program, id.Image)
	}
	switch r.Isolation {
	case mpc.Contained:
		if id.Development {
			return refusal.New(refusal.ErrReceipt, "nodes are contained, it says, and this body's is not")
		}
	case mpc.Uncontained:
		if d.cfg.Production {
			return refusal.New(refusal.ErrReceipt, "nodes are not contained, it says, and in production they must be")
		}
	default:
		return refusal.New(refusal.ErrReceipt, "isolation of the nodes is %q, it says, which is none that this custodian knows", r.Isolation)
	}
	return nil
}

// Run implements release.Node.
func (d *Driver) Run(ctx context.Context, job release.NodeJob) (*mpc.Output, *release.Transcript, error) {
	done, err := d.enter(ctx, job.Plan)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	res, err := d.run(ctx, job)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		d.cfg.Logger.WarnContext(ctx, "compute node failed", "plan", job.Plan.Short(), "error", err)
		return nil, nil, d.away(err)
	}
	return &res.Output, &release.Transcript{SentNext: res.SentNext, SentPrev: res.SentPrev, ReceivedNext: res.ReceivedNext, ReceivedPrev: res.ReceivedPrev, SentBytes: res.SentBytes}, nil
}

// enter waits for a turn: one run of a plan at a time, and so many runs as the machine can carry.
func (d *Driver) enter(ctx context.Context, plan enclave.Digest) (done func(), err error) {
	mine := make(chan struct{})
	for {
		d.mu.Lock()
		before := d.running[plan]
		if before == nil {
			d.running[plan] = mine
		}
		d.mu.Unlock()
		if before == nil {
			break
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	leave := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, plan)
		close(mine)
	}
	select {
	case d.slots <- struct{}{}:
		return func() { <-d.slots; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

func (d *Driver) run(ctx context.Context, job release.NodeJob) (_ *nodejob.Result, err error) {
	id, err := d.cfg.Host.Identify(ctx)
	if err != nil {
		return nil, err
	}
	cert, key, pin, err := link.NewKey()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	// Nobody starts a node before all three custodians stand by theirs.
	m, err := d.cfg.Relay.Meet(ctx, relay.Job{Plan: job.Plan, Party: job.Party, Nodes: job.Nodes, Pin: pin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := d.clean(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(d.cfg.Dir, job.Plan.Short()+"-")
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(dir))
		failpoint.Hit(failpoint.NodeCleared)
	}()
	run := nodejob.Run{ID: filepath.Base(dir), Program: id.Program, Inputs: filepath.Join(dir, "in"), Links: filepath.Join(dir, "link"), Limits: d.cfg.Limits}
	if err := d.stage(job, run.Inputs, run.Links); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.NodeStaged)
	if err := m.Open(run.Links); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.NodeLinked)
	if run.Stdin, err = d.job(job, m, cert, key); err != nil {
		return nil, err
	}
	defer clear(run.Stdin)
	var said strings.Builder
	run.Progress = func(line string) {
		if said.Len() < 1<<20 {
			said.WriteString(line + "\n")
		}
	}
	out, err := d.cfg.Host.Run(ctx, run)
	if d.cfg.Log != nil && err == nil {
		d.cfg.Log(said.String())
	}
	if err != nil {
		return nil, err
	}
	var res nodejob.Result
	if err := json.Unmarshal(out, &res); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", err)
	}
	return &res, nil
}

// clean removes what an earlier process left in the folder, once.
func (d *Driver) clean() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cleaned {
		return nil
	}
	err := errors.Join(os.RemoveAll(d.cfg.Dir), durable.MkdirAll(d.cfg.Dir, 0o700))
	d.cleaned = err == nil
	return err
}

// stage links the blobs that the node reads into a folder of their own. They are ciphertexts, which others may read.
func (d *Driver) stage(job release.NodeJob, in, links string) error {
	for _, dir := range []string{in, links} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			return err
		}
	}
	for i, s := range job.Sources {
		for _, c := range job.Program.Tables[i].Columns {
			v := s.Layout.Find(c.Name)
			if v < 0 {
				continue // the node misses it, and says so
			}
			blob := s.Layout.Vectors[v].Blob
			if _, err := os.Lstat(filepath.Join(in, nodejob.BlobName(blob))); err == nil {
				continue // of two tables
			}
			if err := store.Stage(d.cfg.Blobs.Path(blob), in, nodejob.BlobName(blob)); err != nil {
				return fmt.Errorf("column %q: %w", c.Name, err)
			}
		}
	}
	return nil
}

// job is what the node is told.
func (d *Driver) job(job release.NodeJob, m *relay.Meeting, cert, key []byte) ([]byte, error) {
	in := nodejob.Job{Plan: job.Plan, Party: job.Party, Program: *job.Program, NoiseKey: job.NoiseKey, Certificate: cert, Key: key, Pins: m.Pins,
		StallSeconds: int(d.cfg.Stall / time.Second)}
	for _, s := range job.Sources {
		in.Sources = append(in.Sources, nodejob.Source{Keyset: s.Keyset, Layout: s.Layout, Keys: s.Keys})
	}
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("writing its job: %w", err)
	}
	return data, nil
}
