package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/internal/durable"
)

// A file being written lies in incoming/ and is locked with flock(2), which ends with the process that holds it. The
// sweep at Open therefore knows a leftover by its being free. The folder itself is locked too, shared for the moment in
// which a file is made and not yet locked, exclusively while sweeping, so that no sweep falls into that moment.

// incoming is one such file. Exactly one of commit and Abort ends it; a second one finds it ended.
type incoming struct {
	*durable.File
	// guard holds the lock on a descriptor of its own: CommitAs closes File before it renames, and a file without its
	// lock in between would be swept.
	guard *os.File
}

func (s *Store) create() (_ *incoming, err error) {
	making, err := lockedOpen(s.incomingDir(), unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer making.Close()
	f, err := durable.Create(filepath.Join(s.incomingDir(), "file"), 0o444)
	if err != nil {
		return nil, err
	}
	guard, err := lockedOpen(f.Name(), unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(err, f.Abort())
	}
	return &incoming{File: f, guard: guard}, nil
}

// commit makes the file durable as path; both names are in folders of this store.
func (f *incoming) commit(path string) error {
	defer f.guard.Close()
	shard := filepath.Dir(path)
	if err := durable.MkdirAll(shard, 0o755); err != nil {
		return errors.Join(err, f.File.Abort())
	}
	if err := f.CommitAs(path); err != nil {
		return err
	}
	// Another writer may have made the shard a moment ago and not synced it yet.
	return durable.SyncDir(filepath.Dir(shard))
}

// syncShard makes the names in a shard, and its own, durable.
func syncShard(shard string) error {
	return errors.Join(durable.SyncDir(shard), durable.SyncDir(filepath.Dir(shard)))
}

// Abort removes the file, unless it was committed.
func (f *incoming) Abort() error {
	defer f.guard.Close()
	return f.File.Abort()
}

func (s *Store) incomingDir() string { return filepath.Join(s.dir, "incoming") }

// sweep removes the files in incoming/ that nobody is writing.
func (s *Store) sweep() error {
	sweeping, err := lockedOpen(s.incomingDir(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer sweeping.Close()
	entries, err := sweeping.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("sweeping %s: %w", s.incomingDir(), err)
	}
	for _, e := range entries {
		path := filepath.Join(s.incomingDir(), e.Name())
		f, err := lockedOpen(path, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) { // being written; or written since
			continue
		}
		if err != nil {
			return err
		}
		// A writer that committed between our open and our lock has renamed the file: only this name is removed.
		err = os.Remove(path)
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweeping %s: %w", s.incomingDir(), err)
		}
	}
	return nil
}

// lockedOpen opens a file or folder for reading and locks it as how says. Closing it gives the lock up.
func lockedOpen(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}
