package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
)

func put(t *testing.T, s *Store, data []byte) enclave.Digest {
	t.Helper()
	d, _, err := s.Put(t.Context(), bytes.NewReader(data), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestMapReadsWords(t *testing.T) {
	s := open(t)
	want := []uint64{1, 1 << 63, 0x0123456789abcdef}
	var data []byte
	for _, w := range want {
		data = binary.LittleEndian.AppendUint64(data, w)
	}
	d := put(t, s, data)
	fill := func(w io.WriterAt) error { _, err := w.WriteAt(data, 0); return err }
	if err := s.Derive(d, "panel", int64(len(data)), fill); err != nil {
		t.Fatal(err)
	}
	blob, err1 := s.Map(d)
	panel, err2 := s.MapDerived(d, "panel")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(d); err != nil { // maps outlive their names
		t.Fatal(err)
	}
	for _, m := range []*Mapping{blob, panel} {
		got, err := m.Uint64s()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got)\n%s", err, diff)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	odd, err := s.Map(put(t, s, []byte("odd")))
	if err != nil {
		t.Fatal(err)
	}
	defer odd.Close()
	if _, err := odd.Uint64s(); !errors.Is(err, enclave.ErrBlob) {
		t.Errorf("three bytes as words give %v", err)
	}
	for what, read := range map[string]func() error{
		"Size":       func() error { _, err := s.Size(d); return err },
		"Map":        func() error { _, err := s.Map(d); return err },
		"MapDerived": func() error { _, err := s.MapDerived(d, "panel"); return err },
	} {
		if err := read(); !errors.Is(err, enclave.ErrNotFound) {
			t.Errorf("%s of a deleted blob gives %v", what, err)
		}
	}
}

func TestImport(t *testing.T) {
	from, s := open(t), open(t)
	data := []byte("sealed elsewhere")
	d := put(t, from, data)
	for _, wrong := range []enclave.Digest{{}, {1}} {
		if err := s.Import(t.Context(), from.Path(d), wrong); !errors.Is(err, enclave.ErrBlob) {
			t.Errorf("importing as %s gives %v", wrong, err)
		}
	}
	if n := files(t, s); n != 0 {
		t.Errorf("%d files were left behind", n)
	}
	for range 2 {
		if err := s.Import(t.Context(), from.Path(d), d); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Size(d); err != nil || n != int64(len(data)) {
		t.Errorf("size is %d, %v", n, err)
	}
}

func TestStageAllOrNone(t *testing.T) {
	s := open(t)
	a, b := put(t, s, []byte("a")), put(t, s, []byte("b"))
	fill := func(w io.WriterAt) error { _, err := w.WriteAt([]byte("panel of b"), 0); return err }
	if err := s.Derive(b, "panel", 10, fill); err != nil {
		t.Fatal(err)
	}
	good := []Input{{Digest: a, Name: "0"}, {Digest: b, Kind: "panel", Name: "1"}}
	dir := t.TempDir()
	if err := s.StageAll(t.Context(), dir, good); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"0": "a", "1": "panel of b"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		info, err2 := os.Stat(filepath.Join(dir, name))
		if err := errors.Join(err, err2); err != nil || string(got) != want || info.Mode().Perm() != 0o444 {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		last Input
		want error // nil = any
	}{
		{"missing blob", t.Context(), Input{Digest: enclave.Digest{1}, Name: "2"}, enclave.ErrNotFound},
		{"missing panel", t.Context(), Input{Digest: a, Kind: "panel", Name: "2"}, enclave.ErrNotFound},
		{"name taken", t.Context(), Input{Digest: b, Name: "0"}, fs.ErrExist},
		{"name outside", t.Context(), Input{Digest: b, Name: "../2"}, nil},
		{"no name", t.Context(), Input{Digest: b}, nil},
		{"cancelled", cancelled, Input{Digest: b, Name: "2"}, context.Canceled},
	} {
		dir := t.TempDir()
		err := s.StageAll(c.ctx, dir, append(good[:2:2], c.last))
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s gives %v", c.name, err)
		}
		if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
			t.Errorf("%s left %d files, %v", c.name, len(left), err)
		}
	}
}
