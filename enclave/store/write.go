package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/failpoint"
)

// Writer writes one blob. Commit makes it visible under its digest; Abort, which may be deferred, leaves nothing.
type Writer struct {
	s    *Store
	f    *incoming
	rest *restWriter // nil if the blob lies as it is
	h    hash.Hash
	size int64
}

// Create starts a blob.
func (s *Store) Create() (*Writer, error) {
	f, err := s.create()
	if err != nil {
		return nil, fmt.Errorf("writing blob: %w", err)
	}
	w := &Writer{s: s, f: f, h: sha256.New()}
	if s.keys != nil {
		w.rest = &restWriter{keys: s.keys, out: f}
	}
	return w, nil
}

func (w *Writer) Write(p []byte) (int, error) {
	out := io.Writer(w.f)
	if w.rest != nil {
		out = w.rest
	}
	n, err := out.Write(p)
	w.h.Write(p[:n])
	w.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("writing blob: %w", err)
	}
	return n, nil
}

// Commit makes the blob durable and returns its name and size. A blob that is already there is read again: if it is
// whole it stays as it is, and if not, it is replaced and what was derived from it is dropped. Readers that have the old
// one mapped keep its bytes.
func (w *Writer) Commit() (enclave.Digest, int64, error) {
	d := enclave.Digest(w.h.Sum(nil))
	path := w.s.Path(d)
	defer w.s.locks.lock(path)()
	if w.rest != nil {
		if err := w.rest.flush(true); err != nil {
			return d, 0, errors.Join(fmt.Errorf("writing blob %s: %w", d, err), w.f.Abort())
		}
	}
	found, whole := w.s.inspect(path, w.size, d)
	if whole {
		// Committed again for the sake of its folders, whose syncing may have been what failed the first time.
		return d, w.size, errors.Join(w.f.Abort(), syncShard(filepath.Dir(path)))
	}
	steps := []func() error{func() error { return w.f.commit(path) }}
	if found { // before, in case of a crash; after, for what was derived from the damaged one in between
		drop := func() error { return w.s.dropAllDerived(d) }
		steps = []func() error{drop, steps[0], drop}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return d, 0, errors.Join(fmt.Errorf("writing blob %s: %w", d, err), w.f.Abort())
		}
	}
	failpoint.Hit(failpoint.BlobStored)
	return d, w.size, nil
}

// inspect reports whether something lies at path and whether it is the blob d of size bytes. A file that cannot be read
// is as bad as a wrong one: the caller has the right bytes in hand.
func (s *Store) inspect(path string, size int64, d enclave.Digest) (found, whole bool) {
	f, err := os.Open(path)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist), false
	}
	defer f.Close()
	if s.keys != nil {
		return true, s.Verify(context.Background(), d) == nil // as Fresh: a writer has no context
	}
	if info, err := f.Stat(); err != nil || info.Size() != size {
		return true, false
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	return true, err == nil && enclave.Digest(h.Sum(nil)) == d
}

// Abort gives the blob up. After Commit it does nothing.
func (w *Writer) Abort() error { return w.f.Abort() }

// Put stores what r yields and checks it against want, if want names anything. Other bytes are enclave.ErrBlob and
// nothing is stored. A damaged blob that is already there under the name is repaired.
func (s *Store) Put(ctx context.Context, r io.Reader, want enclave.Digest) (enclave.Digest, int64, error) {
	w, err := s.Create()
	if err != nil {
		return enclave.Digest{}, 0, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, interruptible(ctx, r)); err != nil {
		return enclave.Digest{}, 0, fmt.Errorf("storing blob: %w", err)
	}
	if got := enclave.Digest(w.h.Sum(nil)); !want.IsZero() && got != want {
		return got, w.size, fmt.Errorf("storing blob %s: %w: the %d bytes received hash to %s", want, enclave.ErrBlob, w.size, got)
	}
	return w.Commit()
}

// Copy takes a blob over from another store, checking every byte on the way. One that is already here is not read
// again: that is what Verify is for.
func (s *Store) Copy(ctx context.Context, from *Store, d enclave.Digest) error {
	if s.Has(d) {
		return nil
	}
	f, err := from.ReadBlob(ctx, d, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = s.Put(ctx, f, d)
	return err
}
