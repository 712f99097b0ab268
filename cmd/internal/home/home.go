// Package home wires a whole lab into one folder and one process: the embedded default. Everything that production
// spreads over several bodies' machines lies in subfolders of one, with the same code behind the same interfaces:
//
//	lab.json              name of the lab, root public key, whether it is in production mode
//	people/NAME.key       private keys of people, and root.key, the bureau's root key
//	agencies/BODY/        an agency's own side: dataset keys, schemas
//	custodians/NAME/      a custodian's own side: identity, keyring, ledger, mirror of the blobs
//	plane/                the control plane: database, log, blobs, keys of lab and node
//	witness/              the log's witness
//
// It is for development, teaching and evaluation: whoever reads the folder has every key. One process has it open at a
// time.
package home

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"yingzhou.dev/lab/cmd/internal/node"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/store/datakey"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/lab"
)

// ErrNoLab means that a folder holds no lab.
var ErrNoLab = errors.New("no lab here")

// ErrExists means that a folder holds a lab already.
var ErrExists = errors.New("there is a lab already")

// ErrInUse means that another process has the lab open.
var ErrInUse = errors.New("the lab is in use by another process")

type settings struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Root       []byte `json:"root"` // Ed25519 public key
	Production bool   `json:"production,omitempty"`
}

const (
	settingsKind = "yingzhou.home.v1"
	settingsFile = "lab.json"
	rosterFile   = "plane/roster.json" // the lab's first roster
)

// Options adjust how a lab is opened. The zero value is fine.
type Options struct {
	Worker  string // path of the worker program; "" = beside this program
	Backend string // "docker", "gvisor", "process" or "" = the best that is there
	// Database is where metadata is kept if not in the lab's folder: a connection string or URL of PostgreSQL.
	Database string
	Clock    func() time.Time
	Logger   *slog.Logger
	Wait     time.Duration // how long to wait for another process to finish
	// NodeLog hears what a compute node wrote: a line a step with the seconds since its start; may be nil.
	NodeLog func(custodian, lines string)
}

// Home is an open lab.
type Home struct {
	*lab.Lab

	Dir        string
	Name       string
	Root       ed25519.PublicKey
	Production bool
	Blobs      *store.Store
	Log        *audit.Log
	Registry   *registry.Registry
	Custodians []*release.Custodian
	Vaults     map[string]*vault.Client // of the custodians whose keys are in one

	opts        Options
	lock        *os.File
	closers     []io.Closer
	stop        []func(context.Context) error
	node        *node.Machine
	nodes       *trio // the custodians' compute nodes
	records     *db.DB
	dataKeys    *datakey.Keys          // of Blobs; nil if they lie as they are
	parties     map[string]party       // custodians' keys, by name
	aggregators map[string]*prio3.Host // of collections, by custodian
	stores      []*store.Store         // every folder of blobs: the control plane's and the custodians' mirrors
	keeper      *lab.Keeper
}

// Open opens a lab for this process alone.
func Open(ctx context.Context, dir string, opts Options) (*Home, error) {
	s, err := readSettings(dir)
	if err != nil {
		return nil, err
	}
	h := &Home{Dir: dir, Name: s.Name, Root: s.Root, Production: s.Production, opts: opts.withDefaults(),
		Vaults: map[string]*vault.Client{}, parties: map[string]party{}, aggregators: map[string]*prio3.Host{}}
	if err := h.acquire(ctx); err != nil {
		return nil, err
	}
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(err, h.Close(context.WithoutCancel(ctx)))
	}
	return h, nil
}

func readSettings(dir string) (s settings, err error) {
	data, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%w: %s has no %s (make a lab with `lab init`, or name its folder with --lab or LAB_DIR)", ErrNoLab, dir, settingsFile)
	}
	if err != nil {
		return s, fmt.Errorf("opening lab: %w", err)
	}
	if err := canon.Unmarshal(data, &s); err != nil || s.Kind != settingsKind {
		return s, fmt.Errorf("opening lab: %s is not a lab's", filepath.Join(dir, settingsFile))
	}
	return s, nil
}

func (h *Home) path(elem ...string) string {
	return filepath.Join(append([]string{h.Dir}, elem...)...)
}

func (h *Home) open(ctx context.Context) error {
	if err := h.sweep(); err != nil {
		return fmt.Errorf("opening lab: sweeping: %w", err)
	}
	if err := h.checkSpace(); err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	var err error
	if err = h.openBlobs(); err != nil {
		return err
	}
	if h.records, err = h.openRecords(ctx); err != nil {
		return err
	}
	h.closers = append(h.closers, h.records)
	if err := h.openLog(ctx); err != nil {
		return err
	}
	labSigner, nodeSigner, err := h.planeSigners()
	if err != nil {
		return err
	}
	h.node, err = node.New(node.Config{Program: h.opts.Worker, Backend: h.opts.Backend, Production: h.Production, Dir: h.Dir, StateFile: h.path("plane", "node-check.json"),
		Unfinished: func(ctx context.Context) ([]sandbox.Job, error) { return h.Lab.Unfinished(ctx) }})
	if err != nil {
		return err
	}
	h.closers = append(h.closers, h.node)
	if err := h.openNodes(ctx); err != nil {
		return err
	}
	copies, err := h.nodeCopies()
	if err != nil {
		return err
	}
	h.Lab, err = lab.New(ctx, lab.Config{Store: h.records, Log: h.Log, Gate: gate{h}, Inputs: copies, NodeProgram: h.identifyNode, Worker: h.node, Admission: h.node.Queue, Destroyer: destroyer{h}, Collector: collector{h}, Lab: labSigner, Node: nodeSigner,
		RootKey: h.Root, TempDir: h.path("plane", "tmp"), Blobs: h.Blobs, Clock: h.opts.Clock, Logger: h.opts.Logger})
	if err != nil {
		return err
	}
	if err := h.Lab.Sweep(ctx); err != nil {
		return err
	}
	if err := h.firstRoster(ctx); err != nil {
		return err
	}
	if h.keeper, err = lab.NewKeeper(ctx, h.Lab); err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	h.Registry, err = registry.New(registry.Config{Store: h.keeper, Log: h.keeper.Announce, RootKey: h.Root, Clock: h.opts.Clock,
		Roster: func(ctx context.Context) (operators.Signed, error) { s, _, err := h.Lab.Roster(ctx); return s, err },
		Owners: func(ctx context.Context) (map[string]string, error) {
			st, err := h.Lab.Statements(ctx)
			return st.Owners, err
		}})
	if err != nil {
		return err
	}
	return h.openCustodians(ctx)
}

// sweep removes temporary files that a crash left in the folders that this package writes itself; the others look after
// their own.
func (h *Home) sweep() error {
	dirs := []string{h.Dir}
	for _, pattern := range []string{"people", "plane", "witness", "custodians/*", "agencies/*", "agencies/*/schemas"} {
		found, err := filepath.Glob(h.path(pattern))
		if err != nil {
			return err
		}
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		if err := durable.Sweep(dir); err != nil {
			return err
		}
	}
	return nil
}

// Close ends use of the lab.
func (h *Home) Close(ctx context.Context) error {
	var errs []error
	for _, f := range slices.Backward(h.stop) {
		errs = append(errs, f(ctx))
	}
	for _, c := range slices.Backward(h.closers) {
		errs = append(errs, c.Close())
	}
	h.stop, h.closers = nil, nil
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
		h.lock = nil
	}
	return errors.Join(errs...)
}

// Now is the lab's clock.
func (h *Home) Now() time.Time { return h.opts.Clock() }

// RootKey is the lab's root public key.
func (h *Home) RootKey() ed25519.PublicKey { return h.Root }

// Acting is nobody in particular: whoever has the folder can act for everybody in it.
func (h *Home) Acting() string { return "" }

// Book makes and reads statements.
func (h *Home) Book() *registry.Registry { return h.Registry }

// Checkpoint is the log's latest.
func (h *Home) Checkpoint(ctx context.Context) (string, enclave.Checkpoint, error) {
	return h.Log.Checkpoint(ctx)
}

// Entries yields the log's.
func (h *Home) Entries(ctx context.Context, from, to int64) iter.Seq2[audit.Record, error] {
	return h.Log.Entries(ctx, from, to)
}

// LogKeys are the public keys of the log and its witness.
func (h *Home) LogKeys(ctx context.Context) (enclave.LogKeys, error) {
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return enclave.LogKeys{}, err
	}
	return release.LogKeys(roster)
}

// Node is the machine that runs the lab's workers.
func (h *Home) Node() *node.Machine { return h.node }

// Isolation says what stands between a worker and the machine, and why nothing better does.
func (h *Home) Isolation(ctx context.Context) (isolation, why string, err error) {
	return h.node.Isolation(ctx)
}

// WorkerDigests names this lab's worker as each back end knows it.
func (h *Home) WorkerDigests(ctx context.Context) ([]enclave.Digest, error) {
	return h.node.WorkerDigests(ctx)
}

// LogDir is the folder of the log, for audit.Fsck.
func (h *Home) LogDir() string { return h.path("plane", "log") }
