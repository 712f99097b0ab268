package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
)

// DerivedPath is where a derived file lies. It may not exist.
func (s *Store) DerivedPath(d enclave.Digest, kind string) string {
	return s.place("derived", d, "."+kind)
}

// Derive makes a file of kind from a blob that is here, once: fill writes size bytes at any offsets, of which those it
// leaves out are zero. Where the file already is, nothing happens; callers that come while another fills wait for it,
// and try themselves if it fails. fill must not derive the same kind from the same blob.
//
// A blob that is not here, or not any more when fill ends, is enclave.ErrNotFound. One that was replaced meanwhile, by a
// repair, is enclave.ErrBlob: derive again. A fill that writes past size is an error. In each case no file is left.
func (s *Store) Derive(d enclave.Digest, kind string, size int64, fill func(io.WriterAt) error) error {
	if !plainName(kind) || size <= 0 {
		return fmt.Errorf("deriving %q of blob %s: a kind is a plain file name, and its size of %d bytes is positive", kind, d, size)
	}
	if err := s.derive(d, kind, size, fill); err != nil {
		return fmt.Errorf("deriving %q of blob %s: %w", kind, d, err)
	}
	return nil
}

func (s *Store) derive(d enclave.Digest, kind string, size int64, fill func(io.WriterAt) error) error {
	path := s.DerivedPath(d, kind)
	defer s.locks.lock(path)()
	blob, err := s.open(d)
	if err != nil {
		return err
	}
	defer blob.Close() // held until the end: a later file cannot then be mistaken for it by having its inode's number
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	f, err := s.create()
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := reserve(f.File.File, size); err != nil {
		return err
	}
	if err := fill(f); err != nil {
		return err
	}
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.Size() != size {
		return fmt.Errorf("the file has %d bytes and not %d", info.Size(), size)
	}
	if err := f.commit(path); err != nil {
		return err
	}
	// Delete and a repair drop derived files after they touch the blob. Looking at the blob after the file is there
	// leaves no gap: either they drop it or it is dropped here.
	if err := s.still(d, blob); err != nil {
		return errors.Join(err, s.DropDerived(d, kind))
	}
	return nil
}

// reserve claims the space first: a full disk then fails here and not in the middle of a mapped write.
func reserve(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("reserving %d bytes: %w", size, err)
	}
	return nil
}

// still checks that blob d is the file that was opened.
func (s *Store) still(d enclave.Digest, opened *os.File) error {
	was, err := opened.Stat()
	if err != nil {
		return err
	}
	is, err := os.Stat(s.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the blob was deleted meanwhile: %w", enclave.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if !os.SameFile(was, is) {
		return fmt.Errorf("%w: it was replaced meanwhile", enclave.ErrBlob)
	}
	return nil
}

// DropDerived removes a derived file, durably, so that Derive makes it again.
func (s *Store) DropDerived(d enclave.Digest, kind string) error {
	if err := remove(filepath.Split(s.DerivedPath(d, kind))); err != nil {
		return fmt.Errorf("dropping %q of blob %s: %w", kind, d, err)
	}
	return nil
}

// dropAllDerived removes what was derived from a blob, whatever the kind.
func (s *Store) dropAllDerived(d enclave.Digest) error {
	dir, stem := filepath.Split(s.DerivedPath(d, ""))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stem) {
			names = append(names, e.Name())
		}
	}
	return remove(dir, names...)
}
