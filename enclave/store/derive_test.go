package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
)

func TestDerive(t *testing.T) {
	s := open(t)
	d := put(t, s, []byte("sealed"))
	runs := 0
	fill := func(w io.WriterAt) error {
		runs++
		_, err := w.WriteAt([]byte("panel"), 3)
		return err
	}
	for range 2 {
		if err := s.Derive(d, "panel", 8, fill); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(s.DerivedPath(d, "panel")); err != nil || string(got) != "\x00\x00\x00panel" || runs != 1 {
		t.Errorf("derived %q in %d runs, %v", got, runs, err)
	}
	for range 2 {
		if err := s.DropDerived(d, "panel"); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		d    enclave.Digest
		kind string
		size int64
		fill func(io.WriterAt) error
		want error // nil = any
	}{
		"no blob":           {enclave.Digest{7}, "panel", 8, fill, enclave.ErrNotFound},
		"failing fill":      {d, "panel", 8, func(io.WriterAt) error { return io.ErrShortWrite }, io.ErrShortWrite},
		"fill past its end": {d, "panel", 7, fill, nil},
		"too large":         {d, "panel", 1 << 60, fill, nil},
		"no size":           {d, "panel", 0, fill, nil},
		"negative size":     {d, "panel", -1, fill, nil},
		"kind elsewhere":    {d, "../panel", 8, fill, nil},
		"no kind":           {d, "", 8, fill, nil},
	} {
		if err := s.Derive(c.d, c.kind, c.size, c.fill); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s gives %v", what, err)
		}
		if n := files(t, s); n != 1 {
			t.Errorf("%s: there are %d files", what, n)
		}
	}
}

func TestDeriveOnceForAll(t *testing.T) {
	s := open(t)
	d := put(t, s, []byte("sealed"))
	var runs, filling atomic.Int32
	var g errgroup.Group
	for range 16 {
		g.Go(func() error {
			err := s.Derive(d, "panel", 1, func(io.WriterAt) error {
				if filling.Add(1) != 1 {
					t.Error("two fill at once")
				}
				defer filling.Add(-1)
				if runs.Add(1) == 1 {
					return io.ErrShortWrite // one caller's failure, a cancelled request say, is not the others'
				}
				return nil
			})
			if errors.Is(err, io.ErrShortWrite) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := runs.Load(); n != 2 {
		t.Errorf("it was filled %d times, once would have failed and once sufficed", n)
	}
	if n := len(s.locks.locks); n != 0 {
		t.Errorf("%d locks are left", n)
	}
}

func TestDeriveKinds(t *testing.T) {
	s := open(t)
	d := put(t, s, []byte("sealed"))
	nothing := func(io.WriterAt) error { return nil }
	err := s.Derive(d, "panel", 1, func(io.WriterAt) error { return s.Derive(d, "checked", 1, nothing) })
	if err != nil { // kinds do not wait for one another
		t.Fatal(err)
	}
}

// A panel of a blob that went away, or was found damaged and replaced, while it was being filled must not stay.
func TestDeriveOfABlobThatChanges(t *testing.T) {
	data := []byte("sealed")
	for what, c := range map[string]struct {
		change func(s *Store, d enclave.Digest) error
		want   error
		left   int
	}{
		"deleted": {func(s *Store, d enclave.Digest) error { return s.Delete(d) }, enclave.ErrNotFound, 0},
		"repaired": {func(s *Store, d enclave.Digest) error {
			spoil(t, s, d, []byte("seaLed"))
			_, _, err := s.Put(t.Context(), bytes.NewReader(data), d)
			return err
		}, enclave.ErrBlob, 1},
		"deleted and put again": {func(s *Store, d enclave.Digest) error {
			if err := s.Delete(d); err != nil {
				return err
			}
			_, _, err := s.Put(t.Context(), bytes.NewReader(data), d)
			return err
		}, enclave.ErrBlob, 1},
	} {
		s := open(t)
		d := put(t, s, data)
		err := s.Derive(d, "panel", 1, func(io.WriterAt) error { return c.change(s, d) })
		if !errors.Is(err, c.want) {
			t.Errorf("%s gives %v", what, err)
		}
		if n := files(t, s); n != c.left {
			t.Errorf("%s leaves %d files", what, n)
		}
	}
}
