package release

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// Log is what a custodian needs of the audit log. Nothing that it answers is believed.
type Log interface {
	// Append returns proofs once the entries are in a checkpoint that is signed and witnessed.
	Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error)
	// Checkpoint returns the latest checkpoint, signed and witnessed.
	Checkpoint(ctx context.Context) (string, error)
	// Leaves returns the raw entries [from, to).
	Leaves(ctx context.Context, from, to int64) ([][]byte, error)
}

// follower reads the whole log and recomputes its root: a custodian sees every statement that was ever logged, so a
// revocation cannot be kept from it, and it notices a log that was rewritten. What it has read it keeps in a file of its
// own, so that a restart asks the log for what is new and no more.
type follower struct {
	log    Log
	me     string
	dir    string
	last   seenFile // as on disk
	kept   int64    // bytes of the entries' file that hold the first size entries
	hashes hashes
	size   int64
	root   enclave.Digest // of size entries

	logged map[entryKey]bool // those of keysets, disposals and statements: of a job's entries only hashes are kept in memory
	// statements that were logged; a dossier must show every one of them.
	statements []enclave.Digest
	// own ledger records that this custodian announced and that settle has still to look for: its ledger must have them, or
	// it was put back from a backup.
	own []enclave.Digest
}

// seenFile is the last checkpoint that was checked. It is written after the entries that it covers.
type seenFile struct {
	Size int64          `json:"size"`
	Root enclave.Digest `json:"root"`
	Note string         `json:"note,omitempty"` // as it was signed: evidence if the log ever shows another
}

const (
	seenName   = "log-seen.json"
	leavesName = "log-entries" // each leaf after its length in 32 bits, big-endian
	pageLeaves = 4096          // read at a time
	maxLeaf    = 1 << 16       // tlog-tiles writes an entry's length in 16 bits
)

func openFollower(dir, me string, log Log) (*follower, error) {
	f := &follower{log: log, me: me, dir: dir, logged: map[entryKey]bool{}}
	data, err := os.ReadFile(filepath.Join(dir, seenName))
	if err == nil {
		err = canon.Unmarshal(data, &f.last)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading last seen checkpoint %s: %w", filepath.Join(dir, seenName), err)
	}
	if f.hashes, err = newHashes(dir); err != nil {
		return nil, err
	}
	if err := f.restore(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *follower) close() error { return f.hashes.file.Close() }

// restore reads the entries that were kept. If they are not whole they are asked for again: the last seen root still
// decides.
func (f *follower) restore() error {
	file, err := os.Open(filepath.Join(f.dir, leavesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading followed entries: %w", err)
	}
	defer file.Close()
	in, whole := bufio.NewReaderSize(file, 1<<16), *f
	whole.logged = map[entryKey]bool{}
	for whole.size < f.last.Size {
		leaves, read, err := readLeaves(in, min(pageLeaves, f.last.Size-whole.size))
		if err != nil {
			return fmt.Errorf("reading followed entries: %w", err)
		}
		if len(leaves) == 0 {
			return nil
		}
		grown, root, err := whole.grow(leaves)
		if err != nil {
			return err
		}
		entries, err := parse(leaves, whole.size)
		if err != nil {
			return nil
		}
		if grown, err = grown.keep(); err != nil {
			return err
		}
		whole.take(entries, grown, root)
		whole.kept += read
	}
	if whole.root == f.last.Root {
		*f = whole
	}
	return nil
}

// readLeaves reads up to most leaves as save wrote them, and says how many bytes those were. It stops at what is not one; an
// error is the disk's.
func readLeaves(in io.Reader, most int64) (leaves [][]byte, read int64, _ error) {
	ended := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		return err
	}
	for int64(len(leaves)) < most {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return leaves, read, ended(err)
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > maxLeaf {
			break
		}
		leaf := make([]byte, n)
		if _, err := io.ReadFull(in, leaf); err != nil {
			return leaves, read, ended(err)
		}
		leaves, read = append(leaves, leaf), read+int64(len(size))+int64(n)
	}
	return leaves, read, nil
}

// grow hashes leaves onto the tree, without taking them over.
func (f *follower) grow(leaves [][]byte) (hashes, enclave.Digest, error) {
	grown, size := f.hashes, f.size
	for _, leaf := range leaves {
		hs, err := tlog.StoredHashes(size, leaf, grown)
		if err != nil {
			return hashes{}, enclave.Digest{}, fmt.Errorf("following the log: %w", err)
		}
		grown.fresh, size = append(grown.fresh, hs...), size+1
	}
	root, err := tlog.TreeHash(size, grown)
	if err != nil {
		return hashes{}, enclave.Digest{}, fmt.Errorf("following the log: %w", err)
	}
	return grown, enclave.Digest(root), nil
}

// parse reads entries from number base on.
func parse(leaves [][]byte, base int64) ([]enclave.Entry, error) {
	entries := make([]enclave.Entry, len(leaves))
	for i, leaf := range leaves {
		if err := canon.Unmarshal(leaf, &entries[i]); err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrLogFork, base+int64(i), err)
		}
	}
	return entries, nil
}

// take remembers what checked entries say.
func (f *follower) take(entries []enclave.Entry, grown hashes, root enclave.Digest) {
	for _, e := range entries {
		key := entryKey{e.Subject, e.Type}
		switch e.Type {
		case enclave.EntryStatement:
			if !f.logged[key] {
				f.statements = append(f.statements, e.Subject)
			}
			f.logged[key] = true
		case enclave.EntryKeyset, enclave.EntryDisposal:
			f.logged[key] = true
		case enclave.EntryCharge:
			if e.By == f.me {
				f.own = append(f.own, e.Subject)
			}
		}
	}
	f.hashes, f.size, f.root = grown, f.size+int64(len(entries)), root
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
	if seen := max(f.last.Size, f.size); cp.Size < seen {
		return f.split(text, fmt.Sprintf("%v: %d entries were seen before, the log now has %d", ErrLogFork, seen, cp.Size))
	}
	return f.reach(ctx, text, cp)
}

// reach reads up to a signed checkpoint, unless that was done, and compares roots.
func (f *follower) reach(ctx context.Context, text string, cp enclave.Checkpoint) error {
	if cp.Size <= f.size {
		if err := f.check(cp); err != nil {
			return f.split(text, err.Error())
		}
		return nil
	}
	var leaves [][]byte
	for from := f.size; from < cp.Size; {
		to := min(from+pageLeaves, cp.Size)
		page, err := f.log.Leaves(ctx, from, to)
		if err != nil {
			return fmt.Errorf("following the log: %w", err)
		}
		if int64(len(page)) != to-from {
			return fmt.Errorf("%w: log returned %d of %d entries", ErrLogFork, len(page), to-from)
		}
		leaves, from = append(leaves, page...), to
	}
	grown, root, err := f.grow(leaves)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return fmt.Errorf("%w: its entries do not hash to the root of its checkpoint of %d", ErrLogFork, cp.Size)
	}
	if f.last.Size > 0 && f.last.Size > f.size { // its entries were lost here: what is read now must contain them
		was, err := tlog.TreeHash(f.last.Size, grown)
		if err != nil {
			return fmt.Errorf("following the log: %w", err)
		}
		if enclave.Digest(was) != f.last.Root {
			return f.split(text, fmt.Sprintf("%v: at %d entries its root is not the one seen before", ErrLogFork, f.last.Size))
		}
	}
	entries, err := parse(leaves, f.size)
	if err != nil {
		return err
	}
	if grown, err = grown.keep(); err != nil {
		return err
	}
	if err := f.save(leaves, seenFile{Size: cp.Size, Root: cp.Root, Note: text}); err != nil {
		return err
	}
	f.take(entries, grown, root)
	return nil
}

// save keeps entries, durably, and then the checkpoint that covers them. What lies in the file behind those that are
// known, from a save that broke off, is written over.
func (f *follower) save(leaves [][]byte, seen seenFile) error {
	var buf []byte
	for _, leaf := range leaves {
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(leaf))), leaf...)
	}
	file, err := os.OpenFile(filepath.Join(f.dir, leavesName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keeping followed entries: %w", err)
	}
	if err = file.Truncate(f.kept); err == nil {
		_, err = file.WriteAt(buf, f.kept)
	}
	if err := errors.Join(err, file.Sync(), file.Close(), durable.SyncDir(f.dir)); err != nil {
		return fmt.Errorf("keeping followed entries: %w", err)
	}
	failpoint.Hit(failpoint.LeavesKept)
	if err := durable.WriteFile(filepath.Join(f.dir, seenName), canon.MustMarshal(seen), 0o600); err != nil {
		return err
	}
	failpoint.Hit(failpoint.LogFollowed)
	f.last, f.kept = seen, f.kept+int64(len(buf))
	return nil
}

// split is a fork with the evidence: the last checkpoint that was checked and the one that contradicts it.
func (f *follower) split(offered, text string) error {
	return &refusal.SplitViewError{Seen: f.last.Note, Offered: offered, Text: text}
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
