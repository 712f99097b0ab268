package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
)

// Hold keeps Sweep away until release is called: whoever records that blobs are needed looks for them and records it
// meanwhile, and finds afterwards what was found before. Any number of holders may be there at once.
func (s *Store) Hold() (release func(), err error) {
	f, err := lockedOpen(s.blobsDir(), unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Sweep removes the blobs that were put here before a time, zero for all, and that nobody needs, and says how many. It asks which are
// needed while nobody holds the store, so that none goes which is just being recorded.
func (s *Store) Sweep(before time.Time, needed func() (map[enclave.Digest]bool, error)) (removed int, err error) {
	all, err := s.List()
	if err != nil {
		return 0, err
	}
	alone, err := lockedOpen(s.blobsDir(), unix.LOCK_EX)
	if err != nil {
		return 0, err
	}
	defer alone.Close()
	keep, err := needed()
	if err != nil {
		return 0, err
	}
	for _, d := range all {
		info, err := os.Stat(s.Path(d))
		if errors.Is(err, fs.ErrNotExist) || keep[d] || err == nil && !before.IsZero() && !info.ModTime().Before(before) {
			continue
		}
		if err == nil {
			err = s.Delete(d)
		}
		if err != nil {
			return removed, fmt.Errorf("sweeping blobs: %w", err)
		}
		removed++
	}
	return removed, nil
}
