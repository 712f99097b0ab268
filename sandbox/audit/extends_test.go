package audit_test

import (
	"errors"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/audit"
)

func TestExtends(t *testing.T) {
	k, dir, state := newKeys(t), t.TempDir(), filepath.Join(t.TempDir(), "witness")
	w := newWitness(t, state, k)
	l := open(t, dir, k, w)
	mustAppend(t, l, 0, 5)
	early := checkpoint(t, l)
	old := copyDir(t, dir)
	mustAppend(t, l, 5, 300)
	late := checkpoint(t, l)
	keys := l.Keys()
	forked := early
	forked.Root[0] ^= 1
	for _, c := range []struct {
		name string
		dir  string
		seen enclave.Checkpoint
		want error
	}{
		{"nothing seen", dir, enclave.Checkpoint{}, nil},
		{"an earlier tree", dir, early, nil},
		{"the same tree", dir, late, nil},
		{"a later tree", old, late, audit.ErrSplitView},
		{"another history", dir, forked, audit.ErrSplitView},
		{"another tree of one size", old, forked, audit.ErrSplitView},
	} {
		if _, err := audit.Extends(c.dir, keys, c.seen); !errors.Is(err, c.want) {
			t.Errorf("%s gives %v, want %v", c.name, err, c.want)
		}
	}
	if cp, err := audit.Extends(dir, keys, early); err != nil || cp != late {
		t.Errorf("the log's own checkpoint is %+v, %v", cp, err)
	}
	if seen, err := audit.SeenBy(state, keys); err != nil || seen != late {
		t.Errorf("the witness has seen %+v, %v", seen, err)
	}
	if seen, err := audit.SeenBy(t.TempDir(), keys); err != nil || seen.Size != 0 {
		t.Errorf("a witness without state has seen %+v, %v", seen, err)
	}
}
