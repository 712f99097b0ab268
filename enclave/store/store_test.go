package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func files(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPutNamesAndKeeps(t *testing.T) {
	s := open(t)
	data := []byte("sealed")
	d, n, err := s.Put(t.Context(), bytes.NewReader(data), enclave.Digest{})
	if err != nil || n != 6 || d != sha256.Sum256(data) {
		t.Fatalf("put gives %s, %d, %v", d, n, err)
	}
	if again, _, err := s.Put(t.Context(), bytes.NewReader(data), d); err != nil || again != d {
		t.Errorf("putting the same again gives %s, %v", again, err)
	}
	if !s.Has(d) || s.Verify(t.Context(), d) != nil || files(t, s) != 1 {
		t.Error("the blob is not there once and whole")
	}
	m, err := MapFile(s.Path(d))
	if err != nil || !bytes.Equal(m.Bytes(), data) {
		t.Fatalf("mapped %q, %v", m.Bytes(), err)
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
	other := open(t)
	if err := other.Copy(t.Context(), s, d); err != nil || !other.Has(d) {
		t.Errorf("copying to another store: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0] != d {
		t.Errorf("list is %v, %v", list, err)
	}
	if err := s.Delete(d); err != nil || s.Has(d) {
		t.Errorf("deleting: %v", err)
	}
	if err := s.Verify(t.Context(), d); !errors.Is(err, enclave.ErrNotFound) {
		t.Errorf("a deleted blob gives %v", err)
	}
}

func TestBadBytesLeaveNothing(t *testing.T) {
	s := open(t)
	if _, _, err := s.Put(t.Context(), bytes.NewReader([]byte("other")), enclave.Digest{1}); !errors.Is(err, enclave.ErrBlob) {
		t.Errorf("wrong bytes give %v", err)
	}
	broken := io.MultiReader(bytes.NewReader([]byte("half")), readerFunc(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }))
	if _, _, err := s.Put(t.Context(), broken, enclave.Digest{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a broken upload gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Put(ctx, bytes.NewReader([]byte("x")), enclave.Digest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled upload gives %v", err)
	}
	if n := files(t, s); n != 0 {
		t.Errorf("%d files were left behind", n)
	}
}

func TestVerifyNoticesDamage(t *testing.T) {
	s := open(t)
	d, _, err := s.Put(t.Context(), bytes.NewReader(make([]byte, 1000)), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func() error{
		"flipped":   func() error { return os.WriteFile(s.Path(d), append(make([]byte, 999), 1), 0o644) },
		"truncated": func() error { return os.Truncate(s.Path(d), 500) },
	} {
		if err := os.Chmod(s.Path(d), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), d); !errors.Is(err, enclave.ErrBlob) {
			t.Errorf("a %s blob gives %v", what, err)
		}
		if err := open(t).Copy(t.Context(), s, d); !errors.Is(err, enclave.ErrBlob) {
			t.Errorf("copying a %s blob gives %v", what, err)
		}
	}
}

// spoil writes other bytes under a blob's name, as a failing disk would, in place.
func spoil(t *testing.T, s *Store, d enclave.Digest, data []byte) {
	t.Helper()
	if err := errors.Join(os.Chmod(s.Path(d), 0o644), os.WriteFile(s.Path(d), data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestPutRepairsDamage(t *testing.T) {
	good := []byte("sealed")
	for what, bad := range map[string][]byte{"flipped": []byte("seaLed"), "truncated": []byte("sea"), "empty": {}} {
		s := open(t)
		d := put(t, s, good)
		if err := s.Derive(d, "panel", 1, func(io.WriterAt) error { return nil }); err != nil {
			t.Fatal(err)
		}
		spoil(t, s, d, bad)
		if again := put(t, s, good); again != d {
			t.Fatalf("put gives %s, first it was %s", again, d)
		}
		if err := s.Verify(t.Context(), d); err != nil {
			t.Errorf("a %s blob was not repaired: %v", what, err)
		}
		if n := files(t, s); n != 1 { // the panel may be of the damaged bytes
			t.Errorf("after repair of a %s blob there are %d files", what, n)
		}
	}
}

func TestDeleteTakesOnlyItsOwn(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "a[b]*?")) // names that a pattern would trip over
	if err != nil {
		t.Fatal(err)
	}
	gone, kept := put(t, s, []byte("gone")), put(t, s, []byte("kept"))
	for _, d := range []enclave.Digest{gone, kept} {
		for _, kind := range []string{"checked", "panel"} {
			if err := s.Derive(d, kind, 1, func(io.WriterAt) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 { // what is not there can be deleted too
		if err := s.Delete(gone); err != nil {
			t.Fatal(err)
		}
	}
	if n := files(t, s); n != 3 || s.Has(gone) || s.Verify(t.Context(), kept) != nil {
		t.Errorf("of two blobs with two derived files each, %d files are left", n)
	}
	if err := s.Delete(enclave.Digest{1}); err != nil {
		t.Errorf("deleting a blob that never was: %v", err)
	}
}

// crash ends a writer as the end of its process would: the kernel closes its descriptors.
func crash(t *testing.T, w *Writer) {
	t.Helper()
	if err := errors.Join(w.f.File.Close(), w.f.guard.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSweepsOnlyWhatACrashLeft(t *testing.T) {
	s := open(t)
	var writers [2]*Writer
	for i := range writers {
		w, err := s.Create()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
		writers[i] = w
	}
	crash(t, writers[0])
	other, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := files(t, s); n != 1 {
		t.Errorf("of one leftover and one file being written, a second Open left %d", n)
	}
	if _, err := writers[1].Write([]byte(" and half")); err != nil {
		t.Fatal(err)
	}
	d, _, err := writers[1].Commit()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Verify(t.Context(), d); err != nil {
		t.Error(err)
	}
	if err := writers[1].Abort(); err != nil || !s.Has(d) {
		t.Errorf("aborting what was committed: %v", err)
	}
}

func TestOpenWhileOthersWrite(t *testing.T) {
	dir := t.TempDir()
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			for j := range 20 {
				s, err := Open(dir)
				if err != nil {
					return err
				}
				data := binary.LittleEndian.AppendUint64(nil, uint64(i*j)) // some are the same
				d, _, err := s.Put(t.Context(), bytes.NewReader(data), enclave.Digest{})
				if err != nil {
					return err
				}
				if err := s.Verify(t.Context(), d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(left) != 0 {
		t.Errorf("%d files are left incoming, %v", len(left), err)
	}
}
