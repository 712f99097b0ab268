package release

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// memory is tlog's stored-hash array, to compare with.
type memory []tlog.Hash

func (m memory) ReadHashes(indexes []int64) (out []tlog.Hash, _ error) {
	for _, x := range indexes {
		out = append(out, m[x])
	}
	return out, nil
}

// A follower that has restored a log of several pages knows the root at every size, as one that has all hashes in memory; and
// what is in its folder by then has names that a sweep knows nothing of.
func TestFollowerRestoresPages(t *testing.T) {
	dir := t.TempDir()
	f, err := openFollower(dir, "cust-a", nil)
	if err != nil {
		t.Fatal(err)
	}
	const entries = 2*pageLeaves + 37
	var want memory
	var leaves [][]byte
	for i := range int64(entries) {
		e := enclave.Entry{Type: enclave.EntryCharge, Subject: canon.Sum(fmt.Append(nil, i)), By: "cust-a"}
		if i%5 == 0 {
			e.Type = enclave.EntryStatement
		}
		leaf := canon.MustMarshal(e)
		hs, err := tlog.StoredHashes(i, leaf, want)
		if err != nil {
			t.Fatal(err)
		}
		want, leaves = append(want, hs...), append(leaves, leaf)
	}
	root := func(size int64) enclave.Digest {
		h, err := tlog.TreeHash(size, want)
		if err != nil {
			t.Fatal(err)
		}
		return enclave.Digest(h)
	}
	if err := f.save(leaves[:entries-1], seenFile{Size: entries - 1, Root: root(entries - 1)}); err != nil {
		t.Fatal(err)
	}
	if err := f.save(leaves[entries-1:], seenFile{Size: entries, Root: root(entries)}); err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if f, err = openFollower(dir, "cust-a", nil); err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if f.size != entries || len(f.statements) != (entries+4)/5 || len(f.own) != entries-(entries+4)/5 {
		t.Fatalf("%d entries are restored, %d statements, %d own charges", f.size, len(f.statements), len(f.own))
	}
	for _, size := range []int64{1, 2, pageLeaves - 1, pageLeaves, pageLeaves + 1, 2 * pageLeaves, entries - 1, entries} {
		if err := f.check(enclave.Checkpoint{Size: size, Root: root(size)}); err != nil {
			t.Errorf("at %d entries: %v", size, err)
		}
		if err := f.check(enclave.Checkpoint{Size: size, Root: canon.Sum(nil)}); err == nil {
			t.Errorf("at %d entries another root is taken", size)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 2 {
		t.Errorf("in the folder: %q, %v", names, err)
	}
	// What lies behind the entries that the checkpoint covers was never acted on.
	path := filepath.Join(dir, leavesName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, bytes.Repeat([]byte{0xff}, 9)...), 0o600); err != nil {
		t.Fatal(err)
	}
	torn, err := openFollower(dir, "cust-a", nil)
	if err != nil || torn.size != entries || torn.kept != int64(len(data)) {
		t.Fatalf("%d entries in %d bytes are restored, %v", torn.size, torn.kept, err)
	}
	if err := torn.close(); err != nil {
		t.Error(err)
	}
}
