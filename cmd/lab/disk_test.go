//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
)

// smallDisk mounts a file system of its own. It needs the right to mount, as in a container that runs as root.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=700", mib))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skip("a full disk needs a small file system, and mounting one is not allowed here")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return dir
}

// fill takes all space but so much, and returns what gives it back.
func fill(t *testing.T, dir string, leaveKiB uint64) (free func()) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	size := int64(fs.Bavail)*fs.Bsize - int64(leaveKiB)<<10
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, max(size, 1)), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// A full disk stops commands with a clear message, at whatever point it is met; with space again they go on.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, 96)
	l := crashLab{t, filepath.Join(dir, "lab")}
	if err := copyLab(t.Context(), hometest.Approved, l.dir); err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(t.TempDir(), "health.csv")
	data, err := hometest.Table(2000)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(table, data, 0o600); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, leave := range some([]uint64{0, 64, 1030, 1100, 1300, 2048, 4096, 8192}, 3) {
		for _, args := range [][]string{
			{"seal", table, "--dataset", hometest.Dataset},
			{"lab", "scenario", "apply", "next", "--purpose", "p", "--epsilon", "1", "--until", "2030-01-01", "--use", "health: mdvis=aggregate"},
			{"lab", "job", "submit", "--scenario", hometest.Scenario, crashQuery},
		} {
			free := fill(t, dir, leave)
			_, errs, code := l.run(args...)
			free()
			what := fmt.Sprintf("%s %s with %d KiB left", args[0], args[1], leave)
			switch {
			case code == 0:
			case (code == 1 || code == 5) && (strings.Contains(errs, "no space left on device") || strings.Contains(errs, "disk is full")):
				failed++ // 5 if it was the custodians who had no space
			default:
				t.Errorf("%s: exit code %d: %s", what, code, errs)
			}
			l.must("lab", "audit", "fsck", "--blobs")
		}
	}
	if failed < 3 {
		t.Errorf("only %d commands met the full disk", failed)
	}
	for _, job := range l.jobs() {
		if !job.State.Ended() {
			l.run("lab", "job", "watch", string(job.ID)) // opened or failed, it ends
		}
	}
	for _, job := range l.jobs() {
		if !job.State.Ended() {
			t.Errorf("job %s is %s with space again", job.ID, job.State)
		}
	}
	l.must("seal", table, "--dataset", hometest.Dataset)
	l.must("lab", "job", "submit", "--scenario", hometest.Scenario, crashQuery)
	l.intact()
}
