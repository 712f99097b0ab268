// Package lab is the control plane: it registers what agencies seal, records statements, takes jobs from submission to
// release and hands custodians the dossier of each. It holds no key that opens anything and sees no cleartext; whatever
// it claims, custodians check again from signed statements, their own execution and the log.
//
// Every effect follows its log entry. Every step is repeatable: a job that a crash interrupted is driven on by Run from
// the state that the store remembers.
package lab

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
)

// Log is the audit log.
type Log interface {
	Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error)
	Prove(ctx context.Context, index int64) (enclave.LogProof, error)
	Checkpoint(ctx context.Context) (string, enclave.Checkpoint, error)
	Entries(ctx context.Context, from, to int64) iter.Seq2[audit.Record, error]
}

// Gate opens a computed job with the custodians. step hears of each stage as it starts.
type Gate interface {
	Release(ctx context.Context, b *enclave.Bundle, step func(stage string)) (*Outcome, error)
	// Refused reports whether an error is a custodian's reasoned refusal, which no retry mends, and in what words.
	Refused(err error) (reason string, ok bool)
}

// Outcome is what leaves the gate.
type Outcome struct {
	Release enclave.Signed
	Table   []byte // sealed to the analyst
	Proof   enclave.LogProof
}

// Inputs prepares a worker's input folder: checked, expanded, named as enclave.TaskName says.
type Inputs interface {
	Stage(ctx context.Context, ks *enclave.Keyset, keyset enclave.Digest, layout *enclave.Layout, vectors []int, dir string) error
}

// Worker runs the approved program over an input folder, isolated.
type Worker interface {
	// Identify names the program that Run will run: what a scenario approves.
	Identify(ctx context.Context) (enclave.Digest, error)
	// Run returns the program's output. A task that an earlier process started and that still runs is taken up.
	Run(ctx context.Context, t WorkerTask, progress func(percent int64)) (WorkerResult, error)
}

// ErrInterrupted means that a worker was stopped by something that has nothing to do with its job, such as a restart of the
// machine's container engine. The job is where it was, and Run takes it up again.
var ErrInterrupted = errors.New("the worker was interrupted")

// ErrLeft means that this process ends and leaves the worker running, with its inputs, for the next one to take up.
var ErrLeft = errors.New("the worker was left running")

// WorkerTask is one run.
type WorkerTask struct {
	Job     sandbox.JobID
	Dir     string         // input folder
	Program enclave.Digest // that was approved; no other is run
	Need    Need
}

// WorkerResult is what a worker left behind.
type WorkerResult struct {
	Output    []byte
	Isolation string
	Adopted   bool // an earlier process started the worker
	Started   time.Time
	Ended     time.Time
}

// Blobs is what the control plane asks of the blob store.
type Blobs interface {
	Has(blob enclave.Digest) bool
	// Hold keeps blobs that Has found from being swept, until what names them is on record and release is called.
	Hold() (release func(), err error)
}

// Signer signs as one party.
type Signer interface {
	Name() string
	Sign(kind string, body []byte) (canon.Signature, error)
}

// Config is what the control plane works with. All fields but Admission, NodeProgram, Destroyer, Collector, Watch, Clock and
// Logger are required.
type Config struct {
	Store     sandbox.Store
	Log       Log
	Gate      Gate
	Inputs    Inputs
	Worker    Worker
	Admission Admission // nil = every worker starts at once
	// NodeProgram names the program of the compute nodes and what isolates it, for receipts of joint plans; nil = none.
	NodeProgram func(ctx context.Context) (program enclave.Digest, isolation string, err error)
	Destroyer   Destroyer                // carries out disposals; nil = they are ordered and no more
	Collector   Collector                // has batches of collections counted; nil = they are delivered and no more
	Lab         Signer                   // RoleLab: grants
	Node        Signer                   // RoleNode: receipts
	RootKey     ed25519.PublicKey        // the lab's root key
	TempDir     string                   // for workers' input folders, on the blob store's file system
	Blobs       Blobs                    // where sealed blobs have to be before something that names them is taken
	Watch       func(sandbox.Job, error) // hears of every change of a job that Dispatch drives, and why it did not end in a release
	Clock       func() time.Time
	Logger      *slog.Logger
}

// Lab is the control plane over one store and log.
type Lab struct {
	cfg     Config
	seen    *seenFiles
	indexed *indexed
	rosters *openedRosters
	ends    *ends
	joint   chan struct{} // full while a joint job is being opened
}

// openedRosters remembers rosters whose signature was verified: each call asks for the latest.
type openedRosters struct {
	mu  sync.Mutex
	all map[enclave.Digest]openedRoster
}

type openedRoster struct {
	kind   string
	sigs   []canon.Signature // as verified
	roster *operators.Roster // nobody writes to it
}

// open is operators.OpenRoster. The same signatures over the same kind and body, which the digest names, are verified once.
func (o *openedRosters) open(s enclave.Signed, root ed25519.PublicKey) (*operators.Roster, error) {
	d := s.Digest()
	same := func(a, b canon.Signature) bool { return a.By == b.By && bytes.Equal(a.Sig, b.Sig) }
	o.mu.Lock()
	known, ok := o.all[d]
	o.mu.Unlock()
	if ok && known.kind == s.Kind && slices.EqualFunc(known.sigs, s.Sigs, same) {
		return known.roster, nil
	}
	r, err := operators.OpenRoster(s, root)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[d] = openedRoster{kind: s.Kind, sigs: slices.Clone(s.Sigs), roster: r}
	return r, nil
}

// indexed is how far this process knows the store's index of the log to reach.
type indexed struct {
	mu   sync.Mutex // held while the index is brought up to date: once serves all who wait
	size int64
}

// seenFiles remembers the digests of inputs, which many jobs share.
type seenFiles struct {
	mu      sync.Mutex
	digests map[seenFile]enclave.Digest
}

// New checks the configuration and brings the store's index of the log up to date.
func New(ctx context.Context, cfg Config) (*Lab, error) {
	switch {
	case cfg.Store == nil, cfg.Log == nil, cfg.Gate == nil, cfg.Inputs == nil, cfg.Worker == nil, cfg.Lab == nil, cfg.Node == nil,
		cfg.RootKey == nil, cfg.TempDir == "", cfg.Blobs == nil:
		return nil, errors.New("lab: a required field of the configuration is missing")
	}
	if cfg.Watch == nil {
		cfg.Watch = func(sandbox.Job, error) {}
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	l := &Lab{cfg: cfg, seen: &seenFiles{digests: map[seenFile]enclave.Digest{}}, indexed: &indexed{}, rosters: &openedRosters{all: map[enclave.Digest]openedRoster{}},
		ends: &ends{why: map[string]string{}, discarded: map[enclave.Digest]bool{}, busy: map[enclave.Digest]chan struct{}{}}, joint: make(chan struct{}, 1)}
	return l, l.index(ctx)
}

// now is the time as artefacts carry it.
func (l *Lab) now() canon.Time { return canon.At(l.cfg.Clock()) }

const indexSetting = "log-indexed"

// index notes log entries that the store has not seen, because a custodian wrote them, or another process, or a crash came
// in between.
func (l *Lab) index(ctx context.Context) error {
	_, cp, err := l.cfg.Log.Checkpoint(ctx)
	if errors.Is(err, enclave.ErrNotFound) {
		return nil // a new, empty log
	}
	if err == nil {
		err = l.indexTo(ctx, cp.Size)
	}
	if err != nil {
		return fmt.Errorf("indexing the log: %w", err)
	}
	return nil
}

func (l *Lab) indexTo(ctx context.Context, size int64) error {
	l.indexed.mu.Lock()
	defer l.indexed.mu.Unlock()
	if l.indexed.size >= size {
		return nil
	}
	from, err := indexedIn(ctx, l.cfg.Store) // others bring it up to date too
	if err != nil {
		return err
	}
	if from < size {
		var fresh []audit.Record
		for rec, err := range l.cfg.Log.Entries(ctx, from, size) {
			if err != nil {
				return err
			}
			fresh = append(fresh, rec)
		}
		err = l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
			for _, rec := range fresh {
				if err := r.NoteEntry(ctx, rec.Index, rec.Entry); err != nil {
					return err
				}
			}
			if now, err := indexedIn(ctx, r); err != nil || now >= size {
				return err // never backwards
			}
			return r.SetSetting(ctx, indexSetting, fmt.Append(nil, size))
		})
		if err != nil {
			return err
		}
	}
	l.indexed.size = max(from, size)
	return nil
}

// indexedIn is how far the index reaches, as the store has it.
func indexedIn(ctx context.Context, r sandbox.Records) (size int64, err error) {
	data, err := r.Setting(ctx, indexSetting)
	switch {
	case errors.Is(err, sandbox.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	}
	if _, err := fmt.Sscan(string(data), &size); err != nil {
		return 0, fmt.Errorf("setting %q: %w", indexSetting, err)
	}
	return size, nil
}

// Announce writes entries to the log and notes where they are.
func (l *Lab) Announce(ctx context.Context, entries ...enclave.Entry) error {
	proofs, err := l.cfg.Log.Append(ctx, entries...)
	if err != nil {
		return fmt.Errorf("writing the log: %w", err)
	}
	for i, p := range proofs {
		if err := l.cfg.Store.NoteEntry(ctx, p.Index, entries[i]); err != nil {
			return fmt.Errorf("writing the log: %w", err)
		}
	}
	failpoint.Hit(failpoint.EntryNoted)
	return nil
}

// announceOnce writes an entry unless the log has it: a step that is repeated after a crash, by this process or by another,
// leaves one.
func (l *Lab) announceOnce(ctx context.Context, e enclave.Entry) error {
	have, err := l.logged(ctx, sandbox.EntryFilter{Subject: e.Subject, Type: e.Type})
	if err != nil || have {
		return err
	}
	return l.Announce(ctx, e)
}

// logged tells whether the log has an entry, also one that whoever wrote it could not note any more.
func (l *Lab) logged(ctx context.Context, f sandbox.EntryFilter) (bool, error) {
	if err := l.index(ctx); err != nil {
		return false, err
	}
	have, err := l.cfg.Store.Entries(ctx, f)
	return len(have) > 0, err
}

// Roster returns the latest roster.
func (l *Lab) Roster(ctx context.Context) (enclave.Signed, *operators.Roster, error) {
	all, err := l.cfg.Store.Statements(ctx, 0)
	if err != nil {
		return enclave.Signed{}, nil, err
	}
	var best enclave.Signed
	var roster *operators.Roster
	for _, s := range all {
		if s.Signed.Kind != operators.KindRoster {
			continue
		}
		r, err := l.rosters.open(s.Signed, l.cfg.RootKey)
		if err != nil {
			return enclave.Signed{}, nil, fmt.Errorf("stored roster: %w", err)
		}
		if roster == nil || r.Serial > roster.Serial {
			best, roster = s.Signed, r
		}
	}
	if roster == nil {
		return enclave.Signed{}, nil, fmt.Errorf("the lab has no roster: %w", sandbox.ErrNotFound)
	}
	return best, roster, nil
}

// PutRoster records a roster signed by the root key.
func (l *Lab) PutRoster(ctx context.Context, s enclave.Signed) error {
	if _, err := operators.OpenRoster(s, l.cfg.RootKey); err != nil {
		return err
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryRoster, Subject: s.Digest(), By: l.cfg.Lab.Name(), At: l.now()}); err != nil {
		return err
	}
	failpoint.Hit(failpoint.RosterLogged)
	_, err := l.cfg.Store.AppendStatement(ctx, s, l.cfg.Clock())
	failpoint.Hit(failpoint.RosterStored)
	return err
}

// statements gathers what Authorize judges by: every statement, and who owns which dataset.
func (l *Lab) statements(ctx context.Context) (operators.Statements, error) {
	roster, _, err := l.Roster(ctx)
	if err != nil {
		return operators.Statements{}, err
	}
	out := operators.Statements{Roster: roster, RootKey: l.cfg.RootKey, Owners: map[string]string{}}
	all, err := l.cfg.Store.Statements(ctx, 0)
	if err != nil {
		return out, err
	}
	for _, s := range all {
		if s.Signed.Kind != operators.KindRoster {
			out.All = append(out.All, s.Signed)
		}
	}
	datasets, err := l.cfg.Store.Datasets(ctx)
	if err != nil {
		return out, err
	}
	for _, d := range datasets {
		_, ks, err := l.keyset(ctx, d.Keyset)
		if err != nil {
			return out, err
		}
		out.Owners[d.Name] = ks.Owner
	}
	return out, nil
}

// Statements is what the registry judges new statements by.
func (l *Lab) Statements(ctx context.Context) (operators.Statements, error) { return l.statements(ctx) }

func (l *Lab) keyset(ctx context.Context, d enclave.Digest) (enclave.Signed, *enclave.Keyset, error) {
	s, err := l.cfg.Store.Artefact(ctx, enclave.KindKeyset, d)
	if err != nil {
		return s, nil, fmt.Errorf("keyset %s: %w", d.Short(), err)
	}
	var ks enclave.Keyset
	if err := s.Open(enclave.KindKeyset, &ks); err != nil {
		return s, nil, err
	}
	return s, &ks, nil
}

func (l *Lab) manifest(ctx context.Context, d enclave.Digest) (enclave.Signed, *enclave.Manifest, error) {
	s, err := l.cfg.Store.Artefact(ctx, enclave.KindManifest, d)
	if err != nil {
		return s, nil, fmt.Errorf("manifest %s: %w", d.Short(), err)
	}
	var m enclave.Manifest
	if err := s.Open(enclave.KindManifest, &m); err != nil {
		return s, nil, err
	}
	return s, &m, nil
}
