package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/quick"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// list names what a folder holds, temporary files as "tmp".
func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, tempPrefix) {
			name = "tmp"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestWriteFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	for _, content := range []string{"one", "", "three, longer"} {
		if err := WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		if got := read(t, name); got != content {
			t.Errorf("content %q, want %q", got, content)
		}
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o640 { // whatever the umask
		t.Errorf("mode %v, want 0640", info.Mode())
	}
	if got := list(t, filepath.Dir(name)); got != "f" {
		t.Errorf("folder holds %q", got)
	}
}

func TestWriteFileAnyContent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := quick.Check(func(b []byte) bool {
		return WriteFile(name, b, 0o600) == nil && read(t, name) == string(b)
	}, &quick.Config{MaxCount: 20}); err != nil {
		t.Error(err)
	}
}

// A symbolic link is replaced, not followed: a writer that follows one could be made to write elsewhere.
func TestWriteFileReplacesSymlink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, []byte("kept"), 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if read(t, target) != "kept" || read(t, link) != "new" {
		t.Errorf("target %q, link %q", read(t, target), read(t, link))
	}
}

func TestLongestName(t *testing.T) {
	name := filepath.Join(t.TempDir(), strings.Repeat("n", 255)) // NAME_MAX
	if err := WriteFile(name, []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
}

// A crash is a writer that stops anywhere before Commit: the old content stands, and Sweep removes what is left.
func TestCrashBeforeCommit(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	if err := WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(*File) error{
		func(*File) error { return nil },
		func(f *File) error { _, err := f.Write([]byte("ne")); return err },
		func(f *File) error { _, err := f.Write([]byte("new")); return errors.Join(err, f.Sync()) },
	} {
		f, err := Create(name, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(step(f), f.File.Close()); err != nil { // the process ends here
			t.Fatal(err)
		}
		if read(t, name) != "old" || list(t, dir) != "tmp f" {
			t.Errorf("after the crash: %q in %q", read(t, name), list(t, dir))
		}
		if err := Sweep(dir); err != nil {
			t.Fatal(err)
		}
		if read(t, name) != "old" || list(t, dir) != "f" {
			t.Errorf("after Sweep: %q in %q", read(t, name), list(t, dir))
		}
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Abort(), f.Abort()); err != nil { // may be deferred and called
		t.Error(err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Commit after Abort: %v, want fs.ErrClosed", err)
	}
	if got := list(t, dir); got != "" {
		t.Errorf("folder holds %q", got)
	}
}

func TestAbortAfterCommit(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 0o400)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Commit(), f.Abort()); err != nil {
		t.Error(err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Commit: %v, want fs.ErrClosed", err)
	}
	if _, err := f.WriteString("y"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after Commit: %v, want fs.ErrClosed", err)
	}
	if got := read(t, filepath.Join(dir, "f")); got != "x" {
		t.Errorf("content %q", got)
	}
}

func TestCommitAsInAnotherFolder(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := errors.Join(MkdirAll(in, 0o700), MkdirAll(out, 0o700)); err != nil {
		t.Fatal(err)
	}
	f, err := Create(filepath.Join(in, "blob"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.CommitAs(filepath.Join(out, "digest")); err != nil {
		t.Fatal(err)
	}
	if list(t, in) != "" || list(t, out) != "digest" {
		t.Errorf("in %q, out %q", list(t, in), list(t, out))
	}
}

// Whatever step fails, no temporary file stays and the old content does.
func TestFailuresLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	temporary := filepath.Join(dir, tempPrefix+"x")
	for name, run := range map[string]func() error{
		"rename onto a full folder": func() error { return WriteFile(taken, []byte("x"), 0o600) },
		"no such folder":            func() error { return WriteFile(filepath.Join(dir, "no", "f"), []byte("x"), 0o600) },
		"temporary name":            func() error { return WriteFile(temporary, []byte("x"), 0o600) },
		"commit as temporary name": func() error {
			f, err := Create(filepath.Join(dir, "f"), 0o600)
			if err != nil {
				t.Fatal(err)
			}
			return f.CommitAs(temporary)
		},
		"commit into no folder": func() error {
			f, err := Create(filepath.Join(dir, "f"), 0o600)
			if err != nil {
				t.Fatal(err)
			}
			return f.CommitAs(filepath.Join(dir, "no", "f"))
		},
		"write fails": func() error {
			f, err := Create(filepath.Join(dir, "f"), 0o600)
			if err != nil {
				t.Fatal(err)
			}
			f.File.Close() // the disk goes away
			return f.Commit()
		},
	} {
		if err := run(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := list(t, dir); got != "taken" {
			t.Errorf("%s: folder holds %q", name, got)
		}
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{tempPrefix + "1", tempPrefix + "f-2", "kept.tmp-3", "kept"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, tempPrefix+"folder", "x"), 0o700); err != nil { // not ours
		t.Fatal(err)
	}
	if err := errors.Join(Sweep(dir), Sweep(dir)); err != nil {
		t.Fatal(err)
	}
	if got := list(t, dir); got != "tmp kept kept.tmp-3" {
		t.Errorf("folder holds %q", got)
	}
	if err := Sweep(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Sweep of no folder: %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := MkdirAll(deep+"/", 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(filepath.Join(deep, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(filepath.Join(deep, "f"), 0o700); err == nil {
		t.Error("made a folder of a file")
	}
	if err := MkdirAll(filepath.Join(deep, "f", "g"), 0o700); err == nil {
		t.Error("made a folder under a file")
	}
	t.Chdir(dir)
	if err := MkdirAll("x/y", 0o700); err != nil {
		t.Errorf("relative: %v", err)
	}
}

func TestSyncDir(t *testing.T) {
	if err := SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := SyncDir(filepath.Join(t.TempDir(), "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir of no folder: %v", err)
	}
}
