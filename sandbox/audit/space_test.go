//go:build linux

package audit_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/audit"
)

// A full disk is told as one, whatever the storage makes of it, and the log goes on once there is room.
func TestFullDisk(t *testing.T) {
	disk := t.TempDir()
	switch err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=2m,mode=700"); {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		t.Skip("a full disk needs a small file system, and mounting one is not allowed here")
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	k := newKeys(t)
	l := open(t, filepath.Join(disk, "log"), k, newWitness(t, t.TempDir(), k))
	mustAppend(t, l, 0, 3)
	filler := filepath.Join(disk, "filler")
	var fs unix.Statfs_t
	if err := unix.Statfs(disk, &fs); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filler)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), entry(3)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	before := checkpoint(t, l)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, 3, 5)
	if after := checkpoint(t, l); after.Size <= before.Size {
		t.Errorf("with room again the log has %d entries, it had %d", after.Size, before.Size)
	}
}

// What Tessera was writing when it was killed is removed at the next opening, and nothing else.
func TestLeftoversAreSwept(t *testing.T) {
	dir := t.TempDir()
	k := newKeys(t)
	w := newWitness(t, t.TempDir(), k)
	l, err := audit.Open(t.Context(), config(dir, k, w))
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, 0, 300) // a full bundle and one that is not
	closeLog(t, l)
	files := func() (out []string) {
		if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			out = append(out, path)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := files()
	for _, name := range []string{"tile/entries/0001434434328", "tile/entries/001.p/441434434328", "tile/0/x0001234567", "checkpoint99999", ".state/treeState1434434328"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, open(t, dir, k, w))
	if diff := cmp.Diff(before, files()); diff != "" {
		t.Errorf("opened again it has (-before +after)\n%s", diff)
	}
	if _, err := audit.Fsck(t.Context(), dir, k.keys); err != nil {
		t.Error(err)
	}
}
