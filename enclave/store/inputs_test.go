package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave"
)

func TestStage(t *testing.T) {
	s, dir := open(t), t.TempDir()
	d, other := put(t, s, []byte("x")), put(t, s, []byte("y"))
	for range 2 {
		if err := Stage(s.Path(d), dir, "in"); err != nil {
			t.Fatal(err)
		}
	}
	if err := Stage(s.Path(other), dir, "in"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("staging another blob under a taken name gives %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "in")); err != nil || string(got) != "x" {
		t.Errorf("staged %q, %v", got, err)
	}
	if err := Stage(s.Path(enclave.Digest{1}), dir, "missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("staging a missing blob gives %v", err)
	}
	for _, name := range []string{"", ".", "..", "../in", "a/b"} {
		if err := Stage(s.Path(d), dir, name); err == nil {
			t.Errorf("a blob was staged as %q", name)
		}
	}
	if err := os.Symlink(s.Path(d), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := Stage(s.Path(d), dir, "link"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a name taken by a symbolic link gives %v", err)
	}
}

// Where links cannot reach, a copy stands in for the link and is told from another file by its bytes.
func TestStageByCopy(t *testing.T) {
	dir := t.TempDir()
	path := func(name, data string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(data), 0o444); err != nil {
			t.Fatal(err)
		}
		return p
	}
	blob, longer, flipped := path("blob", "sealed"), path("longer", "sealed!"), path("flipped", "seaLed")
	target := filepath.Join(dir, "copy")
	if err := copyTo(blob, target); err != nil {
		t.Fatal(err)
	}
	if err := copyTo(blob, target); !errors.Is(err, fs.ErrExist) {
		t.Errorf("copying to a taken name gives %v", err)
	}
	if err := Stage(blob, dir, "copy"); err != nil {
		t.Errorf("staging what was copied before: %v", err)
	}
	for _, p := range []string{longer, flipped} {
		if err := Stage(p, dir, "copy"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("staging %q over a copy of another file gives %v", filepath.Base(p), err)
		}
	}
	if err := copyTo(dir, filepath.Join(dir, "broken")); err == nil { // a folder opens but does not read
		t.Error("a folder was copied")
	}
	if _, err := os.Lstat(filepath.Join(dir, "broken")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy that broke off left its beginning: %v", err)
	}
}
