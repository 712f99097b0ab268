package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
)

// source yields what a test makes it.
type source func(offset int64) (io.Reader, error)

func (s source) ReadBlob(_ context.Context, _ enclave.Digest, offset int64) (io.ReadCloser, error) {
	r, err := s(offset)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

func partials(t *testing.T, s *Store) (n int) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "partial", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestPull(t *testing.T) {
	from := open(t)
	data := bytes.Repeat([]byte("sealed"), 1000)
	d := put(t, from, data)
	size := int64(len(data))
	down := errors.New("connection lost")
	good := func(offset int64) (io.Reader, error) { return bytes.NewReader(data[offset:]), nil }
	for name, c := range map[string]struct {
		src  source
		size int64
		want error
		left int // partial files
	}{
		"whole":     {good, size, nil, 0},
		"in pieces": {func(o int64) (io.Reader, error) { return io.LimitReader(bytes.NewReader(data[o:]), 7), nil }, size, nil, 0},
		"failing now and then": {func(o int64) (io.Reader, error) {
			return io.MultiReader(io.LimitReader(bytes.NewReader(data[o:]), 1000), iotest.ErrReader(down)), nil
		}, size, nil, 0},
		"not to be reached": {func(int64) (io.Reader, error) { return nil, down }, size, down, 1},
		"lost after a part": {func(o int64) (io.Reader, error) {
			if o > 0 {
				return nil, down
			}
			return io.MultiReader(bytes.NewReader(data[:100]), iotest.ErrReader(down)), nil
		}, size, down, 1},
		"other bytes": {func(o int64) (io.Reader, error) { return bytes.NewReader(bytes.Repeat([]byte("x"), int(size-o))), nil }, size, enclave.ErrBlob, 0},
		"more bytes": {func(o int64) (io.Reader, error) {
			return io.MultiReader(bytes.NewReader(data[o:]), bytes.NewReader([]byte("x"))), nil
		}, size, enclave.ErrBlob, 0},
		"endless":     {func(int64) (io.Reader, error) { return zeros{}, nil }, size, enclave.ErrBlob, 0},
		"fewer bytes": {func(o int64) (io.Reader, error) { return bytes.NewReader(data[min(o, 9):9]), nil }, size, enclave.ErrBlob, 0},
		"nothing":     {func(int64) (io.Reader, error) { return bytes.NewReader(nil), nil }, size, enclave.ErrBlob, 0},
		"wrong size":  {good, size - 1, enclave.ErrBlob, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			err := s.Pull(t.Context(), c.src, d, c.size)
			if !errors.Is(err, c.want) || s.Has(d) != (c.want == nil) || partials(t, s) != c.left {
				t.Fatalf("got %v, here %v, %d partial files", err, s.Has(d), partials(t, s))
			}
			if c.want == nil {
				if err := s.Verify(t.Context(), d); err != nil {
					t.Error(err)
				}
				return
			}
			if err := s.Pull(t.Context(), from, d, size); err != nil { // whatever was left, a good source mends it
				t.Error(err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// What arrived before the process ended is not asked for again; what a liar had sent is found out and dropped.
func TestPullResumesAfterARestart(t *testing.T) {
	data := bytes.Repeat([]byte("sealed"), 1000)
	d := put(t, open(t), data)
	down := errors.New("connection lost")
	for name, first := range map[string][]byte{"honest": data[:1000], "liar": bytes.Repeat([]byte("x"), 1000), "too long": bytes.Repeat([]byte("x"), 7000)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Pull(t.Context(), source(func(o int64) (io.Reader, error) {
				if o > 0 {
					return nil, down
				}
				return io.MultiReader(bytes.NewReader(first[:min(len(first), 1000)]), iotest.ErrReader(down)), nil
			}), d, int64(len(data)))
			if !errors.Is(err, down) {
				t.Fatal(err)
			}
			found, err := filepath.Glob(filepath.Join(dir, "partial", "*"))
			if err != nil || len(found) != 1 {
				t.Fatalf("partial files are %q, %v", found, err)
			}
			if err := os.WriteFile(found[0], first, 0o600); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(dir); err != nil {
				t.Fatal(err)
			}
			var asked []int64
			rest := source(func(o int64) (io.Reader, error) { asked = append(asked, o); return bytes.NewReader(data[o:]), nil })
			err = s.Pull(t.Context(), rest, d, int64(len(data)))
			if name == "liar" {
				if !errors.Is(err, enclave.ErrBlob) {
					t.Errorf("a liar's beginning gives %v", err)
				}
				err = s.Pull(t.Context(), rest, d, int64(len(data)))
			}
			if err != nil || s.Verify(t.Context(), d) != nil {
				t.Errorf("resumed: %v", err)
			}
			if want := map[string]int64{"honest": 1000, "liar": 1000, "too long": 0}[name]; asked[0] != want {
				t.Errorf("asked from %d, want %d", asked[0], want)
			}
		})
	}
}

func TestPullOnceForAll(t *testing.T) {
	data := []byte("sealed")
	d := put(t, open(t), data)
	s := open(t)
	reads := 0
	src := source(func(o int64) (io.Reader, error) { reads++; return bytes.NewReader(data[o:]), nil })
	var g errgroup.Group
	for range 16 {
		g.Go(func() error { return s.Pull(t.Context(), src, d, 6) })
	}
	if err := g.Wait(); err != nil || reads != 1 {
		t.Errorf("%v, read %d times", err, reads)
	}
}
