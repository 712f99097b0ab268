package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/sandbox/audit"
)

// TestFsck damages one file of a log of 600 entries (two full tiles and one of 88) in each way there is.
func TestFsck(t *testing.T) {
	t.Parallel()
	k, other := newKeys(t), newKeys(t)
	dir := t.TempDir()
	l := open(t, dir, k, newWitness(t, t.TempDir(), k))
	for i := 0; i < 600; i += 150 {
		mustAppend(t, l, i, i+150)
	}
	closeLog(t, l)
	r, err := audit.Fsck(t.Context(), dir, k.keys)
	if err != nil {
		t.Fatal(err)
	}
	if r.Checkpoint.Size != 600 || r.Files != 7 || r.Uncosigned != 0 {
		t.Errorf("report of a good log: %+v", r)
	}
	if _, err := audit.Fsck(t.Context(), dir, other.keys); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Fsck under another log's keys: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := audit.Fsck(cancelled, dir, k.keys); !errors.Is(err, context.Canceled) || errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Fsck, cancelled: %v", err)
	}
	for _, tc := range []struct {
		file  string
		entry int64 // expected for a flip near byte 300; -1: the whole file
	}{
		{"checkpoint.cosigned", -1},
		{"checkpoint", -1},
		{".state/treeState", -1},
		{"tile/entries/000", 1},
		{"tile/entries/001", 257},
		{"tile/entries/002.p/88", 513},
		{"tile/0/000", -1},
		{"tile/0/001", -1},
		{"tile/0/002.p/88", -1},
		{"tile/1/000.p/2", -1},
	} {
		for _, damage := range []struct {
			name  string
			do    func(t testing.TB, dir, file string)
			entry int64
		}{
			{"bit flipped", func(t testing.TB, dir, file string) {
				edit(t, dir, file, func(b []byte) []byte { b[min(300, len(b)/2)] ^= 1; return b })
			}, tc.entry},
			{"last byte flipped", func(t testing.TB, dir, file string) {
				// Of a note or JSON too: the last but one, as the last is a line end or brace.
				edit(t, dir, file, func(b []byte) []byte { b[len(b)-2] ^= 1; return b })
			}, -2},
			{"truncated", func(t testing.TB, dir, file string) {
				edit(t, dir, file, func(b []byte) []byte { return b[:len(b)-3] })
			}, -1},
			{"cut by a whole hash", func(t testing.TB, dir, file string) {
				edit(t, dir, file, func(b []byte) []byte { return b[:len(b)-32] })
			}, -1},
			{"emptied", func(t testing.TB, dir, file string) { truncate(t, dir, file, 0) }, -1},
			{"longer", func(t testing.TB, dir, file string) {
				edit(t, dir, file, func(b []byte) []byte { return append(b, b[len(b)-32:]...) })
			}, -1},
			{"missing", func(t testing.TB, dir, file string) { remove(t, dir, file) }, -1},
		} {
			t.Run(tc.file+"/"+damage.name, func(t *testing.T) {
				t.Parallel()
				dir := copyDir(t, dir)
				damage.do(t, dir, tc.file)
				r, err := audit.Fsck(t.Context(), dir, k.keys)
				if !errors.Is(err, audit.ErrDamaged) {
					t.Fatalf("Fsck: %v", err)
				}
				if len(r.Problems) != 1 {
					t.Errorf("%d problems, want the one: %v", len(r.Problems), r.Problems)
				}
				p := r.Problems[0]
				if p.Path != tc.file {
					t.Errorf("problem named in %q", p.Path)
				}
				if damage.entry != -2 && p.Index != damage.entry {
					t.Errorf("entry %d named, want %d", p.Index, damage.entry)
				}
				if !strings.Contains(err.Error(), tc.file) {
					t.Errorf("error does not name the file: %v", err)
				}
			})
		}
	}
}

func TestFsckManyProblems(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	l := open(t, dir, k, newWitness(t, t.TempDir(), k))
	mustAppend(t, l, 0, 600)
	closeLog(t, l)
	flip(t, dir, "tile/entries/000", 50)
	flip(t, dir, "tile/0/001", 50)
	remove(t, dir, "tile/entries/002.p/88")
	r, err := audit.Fsck(t.Context(), dir, k.keys)
	if !errors.Is(err, audit.ErrDamaged) {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range r.Problems {
		paths = append(paths, p.Path)
	}
	if got := strings.Join(paths, " "); got != "tile/entries/000 tile/0/001 tile/entries/002.p/88" {
		t.Errorf("problems in %s", got)
	}
	// Both copies of some hashes lost: what is left is still checked.
	remove(t, dir, "tile/0/002.p/88")
	if r, err = audit.Fsck(t.Context(), dir, k.keys); len(r.Problems) != 4 {
		t.Errorf("%v: %v", err, r.Problems)
	}
	if _, err := audit.Fsck(t.Context(), t.TempDir(), k.keys); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Fsck of an empty folder: %v", err)
	}
}

// TestFsckConsistentForgery: whoever owns the disk rewrites entry and tiles consistently; only the signatures tell.
func TestFsckConsistentForgery(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir, forged := t.TempDir(), t.TempDir()
	l := open(t, dir, k, newWitness(t, t.TempDir(), k))
	mustAppend(t, l, 0, 10)
	closeLog(t, l)
	f := open(t, forged, k, newWitness(t, t.TempDir(), k))
	mustAppend(t, f, 1000, 1010)
	closeLog(t, f)
	for _, sub := range []string{"tile"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(dir, sub), os.DirFS(filepath.Join(forged, sub))); err != nil {
			t.Fatal(err)
		}
	}
	r, err := audit.Fsck(t.Context(), dir, k.keys)
	if !errors.Is(err, audit.ErrDamaged) || r.Problems[0].Path != "checkpoint.cosigned" {
		t.Errorf("%v: %v", err, r.Problems)
	}
}
