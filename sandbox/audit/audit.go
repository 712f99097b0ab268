// Package audit keeps the lab's append-only log: one Merkle tree (RFC 6962, section 2.1) in a folder, laid out as C2SP
// tlog-tiles by Tessera, whose checkpoints (C2SP tlog-checkpoint) are signed by the log and cosigned by a witness that
// the log's owner does not control (C2SP tlog-cosignature).
//
// An Append that returns without error means: the entries are on disk, they are in a tree that extends every tree
// cosigned before, the witness has durably recorded that tree and signed it, the cosigned checkpoint is on disk, and
// each proof handed back verifies under the public keys alone. Any error means that the caller must not act. The entry
// may still appear in the log later (the machine can stop between two of those steps), so an entry announces an intent
// and its effect must be idempotent; the log never shows an effect without its entry.
//
// The package refuses to sign a tree that does not extend the last cosigned one, to sign entries whose bytes on disk do
// not hash to the tree's leaves, to open a folder that another process has open or that is older than what the witness
// has seen, and to serve an entry or a hash that the cosigned checkpoint does not vouch for. It does not deduplicate:
// the same entry twice is two leaves.
//
// What a crash leaves, in the order in which one round of appends writes:
//
//	entry bundle, tiles     not referenced by anything: written again by the next round
//	.state/treeState        integrated, not cosigned: Open cosigns it before it returns, or the next round of another process
//	witness's state         the witness is ahead of checkpoint.cosigned: it is asked to sign the same tree, or the next, again
//	checkpoint.cosigned     complete
//
// The file "checkpoint" is Tessera's own, signed by the log only and a moment behind; nothing here relies on it. Each
// process's Tessera writes it, under a lock of Tessera's own and from the tree state that it reads under that lock, so it
// does not go backwards; what it says was signed through the guard like everything else.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave"
)

// Errors that callers branch on.
var (
	// ErrInUse means that another process, or another Log in this one, has the folder open, and that not both share it.
	ErrInUse = errors.New("folder is open elsewhere")
	// ErrClosed means that the log was closed before the call.
	ErrClosed = errors.New("audit log is closed")
	// ErrDamaged means that files of the log are missing or are not what its checkpoint commits to; Fsck names them.
	ErrDamaged = errors.New("audit log is damaged")
	// ErrSplitView means that the log and the witness have seen histories of which neither extends the other, or that
	// the log is older than what the witness has seen: somebody forked it or put back an old copy. Retrying does not
	// help; keep both folders as evidence.
	ErrSplitView = errors.New("log does not extend the history that the witness has seen")
)

// Names of files in the log's folder that are not Tessera's.
const (
	cosignedFile = "checkpoint.cosigned"
	seenFile     = "checkpoint.seen" // of a witness
)

// maxEntry is the longest entry in bytes: tlog-tiles writes an entry's length in 16 bits.
const maxEntry = 1<<16 - 1

// Config says where a log is and who signs it.
type Config struct {
	Dir      string        // created if missing; holds only this log
	Signer   note.Signer   // the log's key; its name is the log's origin
	Verifier note.Verifier // of Signer
	Witness  Witness       // must cosign every checkpoint
	Log      *slog.Logger  // of warnings; nil discards them

	// BatchMaxAge is how long Tessera holds the first entry of a batch for others to join. Callers that arrive while a
	// round of signing is under way share the next round in any case, so it is short: 1 ms if zero.
	BatchMaxAge time.Duration
	// BatchMaxSize is the number of entries after which Tessera does not wait: 1024 if zero.
	BatchMaxSize uint
	// CheckpointInterval is how far the file "checkpoint" may lag behind: 200 ms if zero, at least 100 ms. Append does
	// not wait for it; Close does.
	CheckpointInterval time.Duration
	// WitnessTimeout bounds the exchange with the witness in one round: 10 s if zero.
	WitnessTimeout time.Duration

	// Shared lets other logs append to the same folder, in this process or in others, as long as all of them share it.
	// The file system must be one of a single machine, or keep flock(2) and fcntl(2) locks across machines.
	Shared bool
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Signer == nil || c.Verifier == nil || c.Witness == nil {
		return c, errors.New("want a folder, the log's signer and verifier, and a witness")
	}
	if c.Signer.Name() != c.Verifier.Name() || c.Signer.KeyHash() != c.Verifier.KeyHash() {
		return c, fmt.Errorf("signer %q and verifier %q are not one key", c.Signer.Name(), c.Verifier.Name())
	}
	w := c.Witness.Verifier()
	if w == nil {
		return c, errors.New("witness has no verifier")
	}
	// A note names a key by name and hash: two keys that share either could pass for each other.
	if w.KeyHash() == c.Verifier.KeyHash() || w.Name() == c.Verifier.Name() {
		return c, fmt.Errorf("log and witness share the key name %q or hash: a log cannot witness itself", w.Name())
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.BatchMaxAge <= 0 {
		c.BatchMaxAge = time.Millisecond
	}
	if c.BatchMaxSize == 0 {
		c.BatchMaxSize = 1024
	}
	if c.CheckpointInterval == 0 {
		c.CheckpointInterval = 200 * time.Millisecond
	}
	if c.WitnessTimeout <= 0 {
		c.WitnessTimeout = 10 * time.Second
	}
	return c, nil
}

// Log is an open audit log, its folder's only writer unless it is shared. Its methods may be called concurrently.
type Log struct {
	dir     string
	shared  bool
	keys    enclave.LogKeys
	signer  note.Signer // a guard
	witness Witness
	timeout time.Duration // of one exchange with the witness
	log     *slog.Logger
	lock    *os.File

	add        tessera.AddFn
	integrated func(context.Context) (uint64, error)
	shutdown   func(context.Context) error
	cancel     context.CancelFunc // ends Tessera's goroutines

	witnessed int64 // size that the witness is believed to have; Open's, then the committer's

	refreshing sync.Mutex // of current, from the file

	wake chan struct{} // capacity 1: pending is not empty
	stop chan struct{} // closed by the first Close
	done chan struct{} // closed when the committer has ended

	mu      sync.Mutex
	pending []*request
	current state
	closed  bool

	releasing sync.Mutex
	released  bool
}

// state is a cosigned checkpoint.
type state struct {
	text string
	cp   enclave.Checkpoint
}

// Open opens or creates the log in a folder and returns when the witness has cosigned all that is in it. If nothing
// awaits its signature, the witness may be down; the first Append then fails. Close must be called.
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening audit log %q: %w", cfg.Dir, err)
		}
	}()
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	catchKlog()
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := acquire(filepath.Join(cfg.Dir, lockFile), cfg.Shared)
	if err != nil {
		return nil, err
	}
	l := &Log{
		dir:     cfg.Dir,
		shared:  cfg.Shared,
		keys:    enclave.LogKeys{Origin: cfg.Verifier.Name(), Log: cfg.Verifier, Witness: cfg.Witness.Verifier()},
		witness: cfg.Witness,
		timeout: cfg.WitnessTimeout,
		log:     cfg.Log,
		lock:    lock,
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	l.signer = guard{Signer: cfg.Signer, log: l}
	if err := l.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return l, nil
}

// start reads the last cosigned checkpoint, starts Tessera, catches up with the witness and starts the committer.
func (l *Log) start(ctx context.Context, cfg Config) error {
	end, err := l.turn(ctx) // what is swept must not be another's that is being written
	if err != nil {
		return err
	}
	defer end()
	if err := sweep(l.dir); err != nil {
		return err
	}
	if err := l.restore(); err != nil {
		return err
	}
	// The log lives until Close, not until the context of Open ends.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	if err := l.startTessera(life, cfg); err != nil {
		cancel()
		return err
	}
	if err := l.catchUp(ctx); err != nil {
		cancel()
		return err
	}
	go l.run(life)
	return nil
}

func (l *Log) startTessera(life context.Context, cfg Config) error {
	driver, err := posix.New(life, posix.Config{Path: l.dir})
	if err != nil {
		return err
	}
	opts := tessera.NewAppendOptions().
		WithCheckpointSigner(l.signer).
		WithBatching(cfg.BatchMaxSize, cfg.BatchMaxAge).
		WithCheckpointInterval(cfg.CheckpointInterval).
		WithCheckpointRepublishInterval(0). // an idle log writes nothing
		WithShutdownTimeout(10*cfg.CheckpointInterval + time.Second)
	appender, shutdown, reader, err := tessera.NewAppender(life, driver, opts)
	if err != nil {
		return fmt.Errorf("starting tessera: %w", err)
	}
	l.add, l.integrated, l.shutdown = appender.Add, reader.IntegratedSize, shutdown
	return nil
}

// restore reads what an earlier run left. It must come before Tessera starts, which takes a folder without tree state
// for a new log and would write over the old one.
func (l *Log) restore() error {
	text, err := os.ReadFile(filepath.Join(l.dir, cosignedFile))
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	_, stateErr := os.Stat(filepath.Join(l.dir, treeStateFile))
	if stateErr != nil && !errors.Is(stateErr, fs.ErrNotExist) {
		return stateErr
	}
	if fresh {
		return nil // new, or stopped before the first cosignature: catchUp cosigns whatever there is
	}
	if stateErr != nil {
		return fmt.Errorf("%w: %s is missing while %s is there", ErrDamaged, treeStateFile, cosignedFile)
	}
	next, err := l.read(string(text), state{})
	l.current = next
	return err
}

// read verifies a cosigned checkpoint and that its tree, as the tiles hold it, extends the one that was current before.
func (l *Log) read(text string, before state) (state, error) {
	cp, err := l.keys.Open(text)
	if err != nil {
		return state{}, fmt.Errorf("%w: %s: %w", ErrDamaged, cosignedFile, err)
	}
	if cp.Size < before.cp.Size {
		return state{}, fmt.Errorf("%w: %s has %d entries, it had %d", ErrSplitView, cosignedFile, cp.Size, before.cp.Size)
	}
	tree := newTree(l.dir, cp.Size)
	if root, err := tree.root(); err != nil {
		return state{}, err
	} else if root != cp.Root {
		return state{}, fmt.Errorf("%w: tiles do not hash to %s", ErrDamaged, cosignedFile)
	}
	if before.cp.Size > 0 {
		proof, err := consistency(tree, cp, before.cp.Size)
		if err != nil {
			return state{}, err
		}
		if err := enclave.CheckConsistency(before.cp, cp, proof); err != nil {
			return state{}, fmt.Errorf("%w: %s: %w", ErrSplitView, cosignedFile, err)
		}
	}
	return state{text: text, cp: cp}, nil
}

// refresh makes current what another process has had cosigned meanwhile. A log that nobody shares has nothing to look for.
func (l *Log) refresh() (state, error) {
	if !l.shared {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.current, nil
	}
	l.refreshing.Lock() // one reading of a new checkpoint serves all who wait for it
	defer l.refreshing.Unlock()
	l.mu.Lock()
	before := l.current // is on disk, so what is read from now on is this or later
	l.mu.Unlock()
	text, err := os.ReadFile(filepath.Join(l.dir, cosignedFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if before.text == "" {
			return before, nil // a new log, whose first checkpoint is not there yet
		}
		return state{}, fmt.Errorf("%w: %s is missing", ErrDamaged, cosignedFile)
	case err != nil:
		return state{}, err
	case string(text) == before.text:
		return before, nil
	}
	next, err := l.read(string(text), before)
	if err != nil {
		return state{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if next.cp.Size > l.current.cp.Size || l.current.text == "" { // the committer may have gone on meanwhile
		l.current = next
	}
	return next, nil
}

// catchUp asks the witness where it stands and has it sign what an interrupted run left unsigned.
func (l *Log) catchUp(ctx context.Context) error {
	n, err := l.integrated(ctx)
	if err != nil {
		return fmt.Errorf("%w: reading tree state: %w", ErrDamaged, err)
	}
	size := int64(n)
	if size < l.current.cp.Size {
		return fmt.Errorf("%w: tree state has %d entries, the cosigned checkpoint %d", ErrDamaged, size, l.current.cp.Size)
	}
	ask, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	l.witnessed = l.current.cp.Size
	switch seen, err := l.witness.Size(ask); {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		l.log.WarnContext(ctx, "witness does not answer", "witness", l.keys.Witness.Name(), "error", err)
	case seen > size:
		return fmt.Errorf("%w: it has seen %d entries, the log has %d", ErrSplitView, seen, size)
	default:
		l.witnessed = seen
	}
	_, err = l.advance(ctx)
	return err
}

// Close finishes the appends under way, refuses later ones and releases the folder. If ctx ends first, the log is still
// closing and Close may be called again.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.stop)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		return fmt.Errorf("closing audit log %q: %w", l.dir, ctx.Err())
	}
	l.releasing.Lock()
	defer l.releasing.Unlock()
	if l.released {
		return nil
	}
	l.released = true
	// Shutdown waits for Tessera's own checkpoint; every promise of ours is already on disk without it.
	err := l.shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("waiting for tessera's checkpoint: %w", err)
	}
	l.cancel()
	if err = errors.Join(err, l.lock.Close()); err != nil {
		return fmt.Errorf("closing audit log %q: %w", l.dir, err)
	}
	return nil
}
