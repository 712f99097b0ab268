// Package store keeps sealed blobs by the SHA-256 of their bytes, and files derived from them. It cannot decrypt and
// does not know what is inside. What it hands out under a digest was checked when it came in; Verify checks again.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/durable"
)

// Store is a folder of blobs on a local file system. Several goroutines may use it, and several processes may have it
// open: a blob appears by rename, whole, and what one of them is writing no other takes for a leftover.
//
//	blobs/ab/cdef…         immutable, read-only
//	derived/ab/cdef….panel rebuilt from a blob at any time
//	incoming/              being written, each file locked by its writer
//	partial/               beginnings of blobs that are pulled from elsewhere, made when needed
type Store struct {
	dir   string
	keys  Keys  // nil = blobs lie as they are
	locks keyed // by path, for whoever is about to make or replace the file there
}

// Open opens or creates a store and removes what a crash left half-written.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	for _, sub := range []string{"blobs", "derived", "incoming"} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("opening blob store: %w", err)
		}
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("opening blob store: %w", err)
	}
	return s, nil
}

func (s *Store) blobsDir() string { return filepath.Join(s.dir, "blobs") }

func (s *Store) place(sub string, d enclave.Digest, suffix string) string {
	h := hex.EncodeToString(d[:])
	return filepath.Join(s.dir, sub, h[:2], h[2:]+suffix)
}

// Path is where a blob lies, for a reader that maps it itself. It may not exist.
func (s *Store) Path(d enclave.Digest) string { return s.place("blobs", d, "") }

// Has reports whether the blob is here and can be looked at. Where it cannot, a disk that fails say, Has is false and
// the caller's next step, fetching or opening the blob, meets the error itself.
func (s *Store) Has(d enclave.Digest) bool {
	_, err := os.Stat(s.Path(d))
	return err == nil
}

func (s *Store) open(d enclave.Digest) (*os.File, error) {
	f, err := os.Open(s.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, enclave.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return f, nil
}

// Verify reads a blob and compares it with its name. Other bytes under the name are enclave.ErrBlob.
func (s *Store) Verify(ctx context.Context, d enclave.Digest) error {
	f, err := s.ReadBlob(ctx, d, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, interruptible(ctx, f))
	if err != nil {
		return fmt.Errorf("verifying blob %s: %w", d, err)
	}
	if got := enclave.Digest(h.Sum(nil)); got != d {
		return fmt.Errorf("verifying blob %s: %w: its %d bytes hash to %s", d, enclave.ErrBlob, n, got)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// interruptible ends a long copy when ctx does.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

// List names every blob, in the order of their digests.
func (s *Store) List() ([]enclave.Digest, error) {
	var out []enclave.Digest
	root := s.blobsDir()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		d, err := enclave.ParseDigest("sha256:" + strings.ReplaceAll(rel, string(filepath.Separator), ""))
		if err == nil {
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing blobs: %w", err)
	}
	return out, nil
}

// Delete removes a blob and everything derived from it, durably: neither comes back after a power cut. Deleting what is
// not there is no error, so a deletion that broke off is done again.
func (s *Store) Delete(d enclave.Digest) error {
	// Derived files go first, so that none is left without its blob by a crash, and again after the blob, for those that
	// a Derive under way put there in between. One that ends later sees the blob gone and removes its own.
	for _, step := range []func() error{
		func() error { return s.dropAllDerived(d) },
		func() error { return remove(filepath.Split(s.Path(d))) },
		func() error { return s.dropAllDerived(d) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("deleting blob %s: %w", d, err)
		}
	}
	return nil
}

// remove takes files out of a folder, durably. What is not there counts as removed, but the folder is synced all the
// same: an earlier removal may have broken off before that.
func remove(dir string, names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := durable.SyncDir(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
