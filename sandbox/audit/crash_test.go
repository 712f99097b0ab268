package audit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/audit"
)

const crashDirVar = "AUDIT_TEST_CRASH_DIR"

// appendUntilKilled is the child of TestKill: it appends and prints each proof that it got.
func appendUntilKilled(dir string) {
	die := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var pairs [2]audit.KeyPair
	raw, err := os.ReadFile(filepath.Join(dir, "keys"))
	if err == nil {
		err = json.Unmarshal(raw, &pairs)
	}
	if err != nil {
		die(err)
	}
	k, err := readKeys(pairs[0], pairs[1])
	if err != nil {
		die(err)
	}
	w, err := audit.NewWitness(filepath.Join(dir, "witness"), k.witness, k.verifier)
	if err != nil {
		die(err)
	}
	ctx := context.Background()
	l, err := audit.Open(ctx, config(filepath.Join(dir, "log"), k, w))
	if err != nil {
		die(err)
	}
	for i := 0; ; i++ {
		proofs, err := l.Append(ctx, entry(i))
		if err != nil {
			die(err)
		}
		fmt.Printf("%s\n", canon.MustMarshal(proofs[0]))
	}
}

// TestKill kills the process of a log and its witness at several moments. Whatever was proved must still be there, in
// the one history that the witness signs.
func TestKill(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	raw, err := json.Marshal([2]audit.KeyPair{k.logPair, k.witnessPair})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var proved []enclave.LogProof
	for _, after := range []int{1, 3, 5, 2} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashDirVar+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < after && lines.Scan(); n++ {
			var p enclave.LogProof
			if err := canon.Unmarshal(lines.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			proved = append(proved, p)
		}
		if err := cmd.Process.Kill(); err != nil { // somewhere within the next append
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("child ended by itself: %v", err)
		}
	}
	l := open(t, filepath.Join(dir, "log"), k, newWitness(t, filepath.Join(dir, "witness"), k))
	mustAppend(t, l, 100, 101)
	now := checkpoint(t, l)
	if now.Size < int64(len(proved))+1 {
		t.Fatalf("log has %d entries, %d were proved", now.Size, len(proved))
	}
	for _, p := range proved {
		e, then, err := p.Check(k.keys)
		if err != nil {
			t.Fatal(err)
		}
		path, err := l.Consistency(t.Context(), then.Size, now.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := enclave.CheckConsistency(then, now, path); err != nil {
			t.Error(err)
		}
		again, err := l.Prove(t.Context(), p.Index)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := again.Check(k.keys); err != nil || got != e {
			t.Errorf("entry %d was %+v, is %+v: %v", p.Index, e, got, err)
		}
	}
	closeLog(t, l)
	if _, err := audit.Fsck(t.Context(), filepath.Join(dir, "log"), k.keys); err != nil {
		t.Error(err)
	}
}

// TestStopBetweenIntegrateAndCosign: the entries are in the tree, the witness has not seen them.
func TestStopBetweenIntegrateAndCosign(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	dir := t.TempDir()
	l := open(t, dir, k, w)
	mustAppend(t, l, 0, 3)
	w.down.Store(true)
	if _, err := l.Append(t.Context(), entries(3, 6)...); !errors.Is(err, errDown) {
		t.Fatalf("Append without witness: %v", err)
	}
	if size := checkpoint(t, l).Size; size != 3 {
		t.Errorf("checkpoint of %d entries is current, want the cosigned 3", size)
	}
	if _, err := l.Prove(t.Context(), 4); !errors.Is(err, enclave.ErrNotFound) {
		t.Errorf("Prove of an entry not cosigned: %v", err)
	}
	stopped := copyDir(t, dir)
	if r, err := audit.Fsck(t.Context(), stopped, k.keys); err != nil || r.Uncosigned != 3 {
		t.Errorf("Fsck: %+v, %v", r, err)
	}
	if _, err := audit.Open(t.Context(), config(stopped, k, w)); !errors.Is(err, errDown) {
		t.Errorf("Open with entries to cosign and no witness: %v", err)
	}
	w.down.Store(false)
	again := open(t, stopped, k, w)
	if size := checkpoint(t, again).Size; size != 6 {
		t.Errorf("reopened log has %d entries, want 6", size)
	}
	if p := mustAppend(t, again, 6, 7); p[0].Index != 6 {
		t.Errorf("next entry is %d, want 6", p[0].Index)
	}
	// The first folder is now the older copy: it may not go on beside its own successor.
	if _, err := l.Append(t.Context(), entry(99)); !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("Append to the superseded folder: %v, want ErrSplitView", err)
	}
}

// TestStopBetweenCosignAndStore: the witness has signed, the log has not stored it.
func TestStopBetweenCosignAndStore(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	dir := t.TempDir()
	l := open(t, dir, k, w)
	mustAppend(t, l, 0, 3)
	w.lostNext.Store(true)
	mustAppend(t, l, 3, 4) // found out and asked again within the round
	before, err := os.ReadFile(filepath.Join(dir, "checkpoint.cosigned"))
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, 4, 6)
	stopped := copyDir(t, dir)
	write(t, stopped, "checkpoint.cosigned", string(before))
	again := open(t, stopped, k, w)
	if size := checkpoint(t, again).Size; size != 6 {
		t.Errorf("reopened log has %d entries, want 6", size)
	}
}

func TestFailsClosedAndRecovers(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	dir := t.TempDir()
	l := open(t, dir, k, w)
	mustAppend(t, l, 0, 2)
	w.lies.Store(true)
	if p, err := l.Append(t.Context(), entry(2)); err == nil || p != nil {
		t.Errorf("Append with a lying witness: %v, %v", p, err)
	}
	w.lies.Store(false)
	w.down.Store(true)
	if p, err := l.Append(t.Context(), entry(3)); !errors.Is(err, errDown) || p != nil {
		t.Errorf("Append without witness: %v, %v", p, err)
	}
	w.down.Store(false)
	if p := mustAppend(t, l, 4, 5); p[0].Index != 4 {
		t.Errorf("entry after two failures is %d, want 4", p[0].Index)
	}
	closeLog(t, l)
	w.down.Store(true)
	l = open(t, dir, k, w) // nothing to cosign: reading works without the witness
	if _, err := l.Prove(t.Context(), 3); err != nil {
		t.Error(err)
	}
}

func TestOpenNewNeedsWitness(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	w.down.Store(true)
	dir := t.TempDir()
	if _, err := audit.Open(t.Context(), config(dir, k, w)); !errors.Is(err, errDown) {
		t.Errorf("Open: %v", err)
	}
	w.down.Store(false)
	open(t, dir, k, w)
}

// TestFullTileServesPartial: entries that await their cosignature have filled a tile, and Tessera has removed the partial
// one that the cosigned tree was made of.
func TestFullTileServesPartial(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	dir := t.TempDir()
	l := open(t, dir, k, w)
	mustAppend(t, l, 0, 250)
	w.down.Store(true)
	if _, err := l.Append(t.Context(), entries(250, 260)...); err == nil {
		t.Fatal("Append without witness succeeds")
	}
	for _, name := range []string{"tile/0/000.p", "tile/entries/000.p"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := l.Prove(t.Context(), 249); err != nil {
		t.Error(err)
	} else if _, cp, err := p.Check(k.keys); err != nil || cp.Size != 250 {
		t.Errorf("proof under %d entries: %v", cp.Size, err)
	}
	closeLog(t, l)
	if r, err := audit.Fsck(t.Context(), dir, k.keys); err != nil || r.Uncosigned != 10 {
		t.Errorf("Fsck: %+v, %v", r, err)
	}
	flip(t, dir, "tile/0/000", 249*32)
	if r, err := audit.Fsck(t.Context(), dir, k.keys); !errors.Is(err, audit.ErrDamaged) || r.Problems[0].Path != "tile/0/000" {
		t.Errorf("Fsck: %v", err)
	}
}

// TestGuard: what a damaged tree state could make Tessera ask for is not signed.
func TestGuard(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	l := open(t, t.TempDir(), k, newWitness(t, t.TempDir(), k))
	mustAppend(t, l, 0, 5)
	earlier := checkpoint(t, l)
	mustAppend(t, l, 5, 7)
	guard := audit.Guard(l)
	for name, cp := range map[string]enclave.Checkpoint{"now": checkpoint(t, l), "earlier": earlier} {
		if _, err := guard.Sign([]byte(audit.CheckpointText(cp))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for change, alter := range map[string]func(*enclave.Checkpoint){
			"root":   func(cp *enclave.Checkpoint) { cp.Root[0] ^= 1 },
			"larger": func(cp *enclave.Checkpoint) { cp.Size += 300 },
			"size":   func(cp *enclave.Checkpoint) { cp.Size-- },
			"origin": func(cp *enclave.Checkpoint) { cp.Origin = "other.example/log" },
		} {
			bad := cp
			alter(&bad)
			if _, err := guard.Sign([]byte(audit.CheckpointText(bad))); !errors.Is(err, audit.ErrDamaged) {
				t.Errorf("%s with another %s: %v", name, change, err)
			}
		}
	}
	if _, err := guard.Sign([]byte("some other statement\n")); err == nil {
		t.Error("signs what is not a checkpoint")
	}
}
