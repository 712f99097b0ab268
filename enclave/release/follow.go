package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// Log is what a custodian needs of the audit log.
type Log interface {
	// Append returns proofs once the entries are in a checkpoint that is signed and witnessed.
	Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error)
	// Checkpoint returns the latest checkpoint, signed and witnessed.
	Checkpoint(ctx context.Context) (string, error)
	// Leaves returns the raw entries [from, to).
	Leaves(ctx context.Context, from, to int64) ([][]byte, error)
}

// follower reads the whole log and recomputes its root: a custodian sees every statement that was ever logged, so a
// revocation cannot be kept from it, and it notices a log that was rewritten.
type follower struct {
	log    Log
	me     string
	path   string
	hashes hashes
	size   int64

	logged map[entryKey]bool
	// statements that were logged; a dossier must show every one of them.
	statements []enclave.Digest
	// own ledger records that this custodian announced: its ledger must have them, or it was put back from a backup.
	own []enclave.Digest
}

// hashes is tlog's stored-hash array in memory.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(h)) {
			return nil, fmt.Errorf("hash %d of %d", x, len(h))
		}
		out[i] = h[x]
	}
	return out, nil
}

type seenFile struct {
	Size int64          `json:"size"`
	Root enclave.Digest `json:"root"`
}

func newFollower(dir, me string, log Log) *follower {
	return &follower{log: log, me: me, path: filepath.Join(dir, "log-seen.json"), logged: map[entryKey]bool{}}
}

// advance asks for the log's latest checkpoint, reads up to it and remembers it durably.
func (f *follower) advance(ctx context.Context, keys enclave.LogKeys) error {
	text, err := f.log.Checkpoint(ctx)
	if err != nil {
		return fmt.Errorf("following the log: %w", err)
	}
	cp, err := keys.Open(text)
	if err != nil {
		return err
	}
	var seen seenFile
	data, err := os.ReadFile(f.path)
	if err == nil {
		err = canon.Unmarshal(data, &seen)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading last seen checkpoint: %w", err)
	}
	if cp.Size < seen.Size || cp.Size < f.size {
		return fmt.Errorf("%w: %d entries were seen before, the log now has %d", ErrLogFork, max(seen.Size, f.size), cp.Size)
	}
	leaves, err := f.log.Leaves(ctx, f.size, cp.Size)
	if err != nil {
		return fmt.Errorf("following the log: %w", err)
	}
	if int64(len(leaves)) != cp.Size-f.size {
		return fmt.Errorf("%w: log returned %d of %d entries", ErrLogFork, len(leaves), cp.Size-f.size)
	}
	grown, size := f.hashes, f.size
	for _, leaf := range leaves {
		hs, err := tlog.StoredHashes(size, leaf, grown)
		if err != nil {
			return fmt.Errorf("following the log: %w", err)
		}
		grown, size = append(grown, hs...), size+1
	}
	next := follower{hashes: grown, size: size}
	if err := next.check(cp); err != nil {
		return err
	}
	if seen.Size > 0 {
		if err := next.check(enclave.Checkpoint{Size: seen.Size, Root: seen.Root}); err != nil {
			return err
		}
	}
	for _, leaf := range leaves {
		var e enclave.Entry
		if err := canon.Unmarshal(leaf, &e); err != nil {
			return fmt.Errorf("%w: %w", ErrLogFork, err)
		}
		key := entryKey{e.Subject, e.Type}
		if e.Type == enclave.EntryStatement && !f.logged[key] {
			f.statements = append(f.statements, e.Subject)
		}
		if e.By == f.me && e.Type == enclave.EntryCharge {
			f.own = append(f.own, e.Subject)
		}
		f.logged[key] = true
	}
	f.hashes, f.size = grown, size
	if cp.Size == seen.Size {
		return nil
	}
	err = durable.WriteFile(f.path, canon.MustMarshal(seenFile{Size: cp.Size, Root: cp.Root}), 0o600)
	failpoint.Hit(failpoint.LogFollowed)
	return err
}

// check compares the root of a checkpoint, at most as large as what was read, with the entries read.
func (f *follower) check(cp enclave.Checkpoint) error {
	if cp.Size > f.size {
		return fmt.Errorf("%w: a checkpoint of %d entries, the log has %d", ErrLogFork, cp.Size, f.size)
	}
	root, err := tlog.TreeHash(cp.Size, f.hashes)
	if err != nil {
		return fmt.Errorf("following the log: %w", err)
	}
	if enclave.Digest(root) != cp.Root {
		return fmt.Errorf("%w: at %d entries its root is not the one in the checkpoint", ErrLogFork, cp.Size)
	}
	return nil
}
