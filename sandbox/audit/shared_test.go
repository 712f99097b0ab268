package audit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/audit"
)

func openShared(t testing.TB, dir string, k keyring, w audit.Witness) *audit.Log {
	t.Helper()
	cfg := config(dir, k, w)
	cfg.Shared = true
	l, err := audit.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLog(t, l) })
	return l
}

// lonely is a witness that notices two who ask it at once.
type lonely struct {
	*audit.LocalWitness
	inside, together atomic.Int64
}

func (w *lonely) Cosign(ctx context.Context, old int64, proof []enclave.Digest, checkpoint []byte) ([]byte, error) {
	if w.inside.Add(1) > 1 {
		w.together.Add(1)
	}
	defer w.inside.Add(-1)
	return w.LocalWitness.Cosign(ctx, old, proof, checkpoint)
}

// TestSharedLogIsOne: several logs append to one folder at once, and each sees at once what the others did.
func TestSharedLogIsOne(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	w := &lonely{LocalWitness: newWitness(t, t.TempDir(), k)}
	var logs []*audit.Log
	for range 3 {
		logs = append(logs, openShared(t, dir, k, w))
	}
	const callers, each = 4, 8
	var mu sync.Mutex
	seen := map[int64]bool{}
	var g errgroup.Group
	for c := range callers * len(logs) {
		own, other := logs[c%len(logs)], logs[(c+1)%len(logs)]
		g.Go(func() error {
			for i := range each {
				proofs, err := own.Append(t.Context(), entry(c*1000+2*i), entry(c*1000+2*i+1))
				if err != nil {
					return err
				}
				if proofs[1].Index != proofs[0].Index+1 {
					return errors.New("entries of one call are apart")
				}
				_, then, err := proofs[0].Check(k.keys)
				if err != nil {
					return err
				}
				again, err := other.Prove(t.Context(), proofs[0].Index)
				if err != nil {
					return fmt.Errorf("another log does not see it: %w", err)
				}
				got, now, err := again.Check(k.keys)
				if err != nil || got != entry(c*1000+2*i) {
					return fmt.Errorf("another log shows %+v, %w", got, err)
				}
				path, err := other.Consistency(t.Context(), then.Size, now.Size)
				if err != nil {
					return err
				}
				if err := enclave.CheckConsistency(then, now, path); err != nil {
					return err
				}
				mu.Lock()
				seen[proofs[0].Index], seen[proofs[1].Index] = true, true
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	want := 2 * callers * each * len(logs)
	for i, l := range logs {
		if size := checkpoint(t, l).Size; size != int64(want) || len(seen) != want {
			t.Errorf("log %d has %d entries, %d indexes were given, want %d", i, size, len(seen), want)
		}
	}
	if n := w.together.Load(); n > 0 {
		t.Errorf("the witness was asked by two at once %d times", n)
	}
	if r, err := audit.Fsck(t.Context(), dir, k.keys); err != nil || r.Uncosigned != 0 {
		t.Errorf("Fsck: %+v, %v", r, err)
	}
}

// TestSharedAndAlone: a log that is shared keeps out one that is not, and the reverse.
func TestSharedAndAlone(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	w := newWitness(t, t.TempDir(), k)
	shared := config(dir, k, w)
	shared.Shared = true
	a := openShared(t, dir, k, w)
	if _, err := audit.Open(t.Context(), config(dir, k, w)); !errors.Is(err, audit.ErrInUse) {
		t.Errorf("alone beside a shared one: %v", err)
	}
	mustAppend(t, a, 0, 3)
	closeLog(t, a)
	alone := open(t, dir, k, w)
	if _, err := audit.Open(t.Context(), shared); !errors.Is(err, audit.ErrInUse) {
		t.Errorf("shared beside one that is alone: %v", err)
	}
	if p := mustAppend(t, alone, 3, 4); p[0].Index != 3 {
		t.Errorf("next entry is %d, want 3", p[0].Index)
	}
}

// TestOthersCosignWhatWasLeft: what one log integrated and could not have cosigned, the next round of another one does.
func TestOthersCosignWhatWasLeft(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	good := newWitness(t, t.TempDir(), k)
	bad := &flaky{LocalWitness: good}
	a, b := openShared(t, dir, k, bad), openShared(t, dir, k, good)
	mustAppend(t, a, 0, 2)
	bad.down.Store(true)
	if _, err := a.Append(t.Context(), entries(2, 5)...); !errors.Is(err, errDown) {
		t.Fatalf("Append without witness: %v", err)
	}
	if size := checkpoint(t, b).Size; size != 2 {
		t.Errorf("the other log shows %d entries, 2 are cosigned", size)
	}
	if p := mustAppend(t, b, 5, 6); p[0].Index != 5 {
		t.Errorf("next entry is %d, want 5", p[0].Index)
	}
	if size := checkpoint(t, a).Size; size != 6 {
		t.Errorf("the log shows %d entries, want 6", size)
	}
	bad.down.Store(false)
	if p := mustAppend(t, a, 6, 7); p[0].Index != 6 {
		t.Errorf("next entry is %d, want 6", p[0].Index)
	}
}

// TestSharedLogNeverGoesBack: somebody puts an older checkpoint, or another history, in the place of the present one.
func TestSharedLogNeverGoesBack(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	a := openShared(t, dir, k, newWitness(t, t.TempDir(), k))
	mustAppend(t, a, 0, 2)
	old, _, err := a.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, a, 2, 4)
	now, _, err := a.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "checkpoint.cosigned", old)
	if _, _, err := a.Checkpoint(t.Context()); !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("Checkpoint: %v, want ErrSplitView", err)
	}
	if _, err := a.Append(t.Context(), entry(9)); !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("Append: %v, want ErrSplitView", err)
	}
	// The same keys, another witness that has forgotten: a history of its own.
	elsewhere := t.TempDir()
	fork := openShared(t, elsewhere, k, newWitness(t, t.TempDir(), k))
	mustAppend(t, fork, 10, 16)
	forked, _, err := fork.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "checkpoint.cosigned", forked)
	if _, err := a.Prove(t.Context(), 0); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Prove under a checkpoint that the tiles do not hash to: %v, want ErrDamaged", err)
	}
	closeLog(t, fork)
	whole := copyDir(t, elsewhere)
	move := func(name, from, to string) { // whole folders: the log's own Tessera is at work in them
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	own := t.TempDir()
	for _, name := range []string{"tile", ".state"} {
		move(name, dir, own)
		move(name, whole, dir)
	}
	if _, err := a.Prove(t.Context(), 0); !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("Prove under another history: %v, want ErrSplitView", err)
	}
	for _, name := range []string{"tile", ".state"} {
		move(name, dir, whole)
		move(name, own, dir)
	}
	write(t, dir, "checkpoint.cosigned", now)
	if p := mustAppend(t, a, 4, 5); p[0].Index != 4 {
		t.Errorf("next entry is %d, want 4", p[0].Index)
	}
}

const sharedDirVar = "AUDIT_TEST_SHARED_DIR"

// told is the witness as the processes of TestSharedByProcesses reach it: over a socket, in the test's process.
type told struct{ w *audit.LocalWitness }

// Ask is what Cosign is asked; package net/rpc wants it exported.
type Ask struct {
	Old        int64
	Proof      []enclave.Digest
	Checkpoint []byte
}

func (t *told) Cosign(a Ask, lines *[]byte) (err error) {
	*lines, err = t.w.Cosign(context.Background(), a.Old, a.Proof, a.Checkpoint)
	return err
}

func (t *told) Size(_ int, size *int64) (err error) {
	*size, err = t.w.Size(context.Background())
	return err
}

// asked is that witness in such a process. It kills the process in its nth exchange.
type asked struct {
	c        *rpc.Client
	verifier note.Verifier
	die      int
	after    bool // the witness has signed
	n        int
}

func (w *asked) Cosign(_ context.Context, old int64, proof []enclave.Digest, checkpoint []byte) (lines []byte, err error) {
	w.n++
	if w.n == w.die && !w.after {
		die()
	}
	err = w.c.Call("Witness.Cosign", Ask{old, proof, checkpoint}, &lines)
	if w.n == w.die {
		die()
	}
	return lines, err
}

func (w *asked) Size(context.Context) (size int64, err error) {
	return size, w.c.Call("Witness.Size", 0, &size)
}

func (w *asked) Verifier() note.Verifier { return w.verifier }

// die is SIGKILL: nothing of this process runs any more.
func die() {
	p, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = p.Kill()
	}
	fmt.Fprintln(os.Stderr, "not killed:", err)
	select {}
}

// appendShared is a child of TestSharedByProcesses: it appends and prints each proof that it got.
func appendShared(dir string) {
	err := func() error {
		var pairs [2]audit.KeyPair
		raw, err := os.ReadFile(filepath.Join(dir, "keys"))
		if err == nil {
			err = json.Unmarshal(raw, &pairs)
		}
		if err != nil {
			return err
		}
		k, err := readKeys(pairs[0], pairs[1])
		if err != nil {
			return err
		}
		c, err := rpc.Dial("unix", filepath.Join(dir, "s"))
		if err != nil {
			return err
		}
		w := &asked{c: c, verifier: k.keys.Witness, after: os.Getenv("AFTER") != ""}
		if w.die, err = strconv.Atoi(os.Getenv("DIE")); err != nil {
			return err
		}
		many, err := strconv.Atoi(os.Getenv("MANY"))
		if err != nil {
			return err
		}
		cfg := config(filepath.Join(dir, "log"), k, w)
		cfg.Shared = true
		l, err := audit.Open(context.Background(), cfg)
		if err != nil {
			return err
		}
		for i := range many {
			proofs, err := l.Append(context.Background(), entry(os.Getpid()*1000+i))
			if err != nil {
				return err
			}
			fmt.Printf("%s\n", canon.MustMarshal(proofs[0]))
		}
		return l.Close(context.Background())
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestSharedByProcesses has processes append to one log at once and kills two of them: one between the integration of its
// entries and the witness, one between the witness's signature and its storing. The third never hears of it, and whatever
// was proved to anyone is in the one history that the witness signs.
func TestSharedByProcesses(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir, err := os.MkdirTemp("", "shared") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	raw, err := json.Marshal([2]audit.KeyPair{k.logPair, k.witnessPair})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWitness(t, filepath.Join(dir, "witness"), k)
	server := rpc.NewServer()
	if err := server.RegisterName("Witness", &told{w}); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go func() {
		for {
			conn, err := socket.Accept()
			if err != nil {
				return // closed
			}
			go server.ServeConn(conn)
		}
	}()

	const many = 40
	start := func(die int, after string) (*exec.Cmd, func() []enclave.LogProof) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), sharedDirVar+"="+dir, "DIE="+strconv.Itoa(die), "AFTER="+after, "MANY="+strconv.Itoa(many))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, func() (proofs []enclave.LogProof) {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				var p enclave.LogProof
				if err := canon.Unmarshal(lines.Bytes(), &p); err != nil {
					t.Error(err)
				}
				proofs = append(proofs, p)
			}
			return proofs
		}
	}
	survivor, survived := start(0, "")
	first, one := start(9, "")
	second, two := start(14, "yes")
	proofs := [][]enclave.LogProof{survived(), one(), two()}
	if err := survivor.Wait(); err != nil {
		t.Errorf("the process that was left alone ended: %v", err)
	}
	for _, cmd := range []*exec.Cmd{first, second} {
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Errorf("a process was to be killed and ended: %v", err)
		}
	}
	if len(proofs[0]) != many {
		t.Errorf("the survivor got %d proofs of %d", len(proofs[0]), many)
	}
	l := openShared(t, filepath.Join(dir, "log"), k, w)
	now := checkpoint(t, l)
	seen := map[int64]bool{}
	for _, p := range append(append(proofs[0], proofs[1]...), proofs[2]...) {
		e, then, err := p.Check(k.keys)
		if err != nil {
			t.Fatal(err)
		}
		if seen[p.Index] {
			t.Errorf("two entries have index %d", p.Index)
		}
		seen[p.Index] = true
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
	// The killed ones' last entries were integrated: they are in the log, though nobody was told.
	if want := int64(len(seen)) + 2; now.Size != want {
		t.Errorf("the log has %d entries, want the %d that were proved and the two that were not", now.Size, want-2)
	}
	if r, err := audit.Fsck(t.Context(), filepath.Join(dir, "log"), k.keys); err != nil || r.Uncosigned != 0 {
		t.Errorf("Fsck: %+v, %v", r, err)
	}
}
