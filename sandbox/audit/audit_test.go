package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/audit"
)

const origin = "lab.example/log"

func TestMain(m *testing.M) {
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	if dir := os.Getenv(crashDirVar); dir != "" {
		appendUntilKilled(dir) // never returns
	}
	if dir := os.Getenv(sharedDirVar); dir != "" {
		appendShared(dir)
	}
	os.Exit(m.Run())
}

// keyring is a log's and a witness's keys.
type keyring struct {
	logPair, witnessPair audit.KeyPair
	signer               note.Signer
	verifier             note.Verifier
	witness              *fnote.Signer
	keys                 enclave.LogKeys
}

func readKeys(logPair, witnessPair audit.KeyPair) (k keyring, err error) {
	k.logPair, k.witnessPair = logPair, witnessPair
	if k.signer, k.verifier, err = audit.NewLogSigner(logPair.Secret); err != nil {
		return k, err
	}
	if k.witness, err = audit.NewWitnessSigner(witnessPair.Secret); err != nil {
		return k, err
	}
	k.keys, err = audit.ParseKeys(logPair.Public, witnessPair.Public)
	return k, err
}

func newKeys(t testing.TB) keyring {
	t.Helper()
	logPair, witnessPair, err := audit.GenerateKeys(origin)
	if err != nil {
		t.Fatal(err)
	}
	k, err := readKeys(logPair, witnessPair)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWitness(t testing.TB, dir string, k keyring) *audit.LocalWitness {
	t.Helper()
	w, err := audit.NewWitness(dir, k.witness, k.verifier)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func config(dir string, k keyring, w audit.Witness) audit.Config {
	return audit.Config{Dir: dir, Signer: k.signer, Verifier: k.verifier, Witness: w, CheckpointInterval: 100 * time.Millisecond}
}

func open(t testing.TB, dir string, k keyring, w audit.Witness) *audit.Log {
	t.Helper()
	l, err := audit.Open(t.Context(), config(dir, k, w))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLog(t, l) })
	return l
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

// entry is different for each i.
func entry(i int) enclave.Entry {
	return enclave.Entry{
		Type:    enclave.EntryPlan,
		Subject: canon.Sum(fmt.Append(nil, i)),
		By:      "bureau",
		Job:     fmt.Sprintf("job-%d", i),
		At:      canon.At(time.Unix(1_700_000_000+int64(i), 0)),
	}
}

func entries(from, to int) (out []enclave.Entry) {
	for i := from; i < to; i++ {
		out = append(out, entry(i))
	}
	return out
}

func mustAppend(t testing.TB, l *audit.Log, from, to int) []enclave.LogProof {
	t.Helper()
	proofs, err := l.Append(t.Context(), entries(from, to)...)
	if err != nil {
		t.Fatal(err)
	}
	return proofs
}

func checkpoint(t testing.TB, l *audit.Log) enclave.Checkpoint {
	t.Helper()
	_, cp, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func TestAppendProveVerify(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	l := open(t, t.TempDir(), k, newWitness(t, t.TempDir(), k))
	if cp := checkpoint(t, l); cp.Size != 0 {
		t.Fatalf("new log has %d entries", cp.Size)
	}
	n := 0
	for _, size := range []int{1, 2, 253, 1, 300} { // crosses the 256 entries of a tile
		proofs := mustAppend(t, l, n, n+size)
		if len(proofs) != size {
			t.Fatalf("%d proofs for %d entries", len(proofs), size)
		}
		for i, p := range proofs {
			got, cp, err := p.Check(k.keys)
			if err != nil {
				t.Fatal(err)
			}
			if got != entry(n+i) || p.Index != int64(n+i) || cp.Size != int64(n+size) {
				t.Fatalf("proof of entry %d shows %+v at %d of %d", n+i, got, p.Index, cp.Size)
			}
		}
		n += size
	}
	for _, i := range []int64{0, 1, 255, 256, int64(n) - 1} {
		p, err := l.Prove(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := p.Check(k.keys); err != nil || got != entry(int(i)) {
			t.Fatalf("entry %d: %+v, %v", i, got, err)
		}
	}
	for _, i := range []int64{-1, int64(n), 1 << 40} {
		if _, err := l.Prove(t.Context(), i); !errors.Is(err, enclave.ErrNotFound) {
			t.Errorf("Prove(%d): %v, want ErrNotFound", i, err)
		}
	}
	i := 250
	for r, err := range l.Entries(t.Context(), 250, 520) {
		if err != nil || r.Index != int64(i) || r.Entry != entry(i) {
			t.Fatalf("Entries at %d: %+v, %v", i, r, err)
		}
		i++
	}
	if i != 520 {
		t.Errorf("Entries ended at %d, want 520", i)
	}
	for _, err := range l.Entries(t.Context(), 0, int64(n)+1) {
		if !errors.Is(err, enclave.ErrNotFound) {
			t.Errorf("Entries beyond the checkpoint: %v, want ErrNotFound", err)
		}
	}
}

func TestDuplicatesAreTwoLeaves(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	l := open(t, t.TempDir(), k, newWitness(t, t.TempDir(), k))
	proofs, err := l.Append(t.Context(), entry(7), entry(7))
	if err != nil || proofs[0].Index != 0 || proofs[1].Index != 1 {
		t.Errorf("proofs %+v, %v", proofs, err)
	}
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	l := open(t, t.TempDir(), k, newWitness(t, t.TempDir(), k))
	long := entry(0)
	long.Reason = strings.Repeat("x", 1<<16)
	for name, e := range map[string]enclave.Entry{"no type": {}, "too long": long} {
		if _, err := l.Append(t.Context(), entry(0), e); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if p, err := l.Append(t.Context()); err != nil || len(p) != 0 {
		t.Errorf("appending nothing: %v, %v", p, err)
	}
	if size := checkpoint(t, l).Size; size != 0 {
		t.Errorf("%d entries were logged", size)
	}
}

func TestConcurrentAppends(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	l := open(t, t.TempDir(), k, w)
	const callers, each = 16, 12
	var mu sync.Mutex
	seen := map[int64]enclave.LogProof{}
	var g errgroup.Group
	for c := range callers {
		g.Go(func() error {
			for i := range each {
				proofs, err := l.Append(t.Context(), entry(c*1000+2*i), entry(c*1000+2*i+1))
				if err != nil {
					return err
				}
				if proofs[1].Index != proofs[0].Index+1 {
					return errors.New("entries of one call are apart")
				}
				mu.Lock()
				for _, p := range proofs {
					seen[p.Index] = p
				}
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := callers * each * 2; len(seen) != want || checkpoint(t, l).Size != int64(want) {
		t.Errorf("%d different indexes in a log of %d, want %d", len(seen), checkpoint(t, l).Size, want)
	}
	if rounds := w.calls.Load(); rounds >= callers*each {
		t.Errorf("%d rounds of signing for %d concurrent calls: not grouped", rounds, callers*each)
	}
	for i, p := range seen {
		if _, _, err := p.Check(k.keys); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir, w := t.TempDir(), newWitness(t, t.TempDir(), k)
	var cps []enclave.Checkpoint
	for i := range 4 {
		l, err := audit.Open(t.Context(), config(dir, k, w))
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, i*100, i*100+100)
		cps = append(cps, checkpoint(t, l))
		closeLog(t, l)
		if _, err := l.Append(t.Context(), entry(0)); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("Append after Close: %v", err)
		}
		if _, _, err := l.Checkpoint(t.Context()); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("Checkpoint after Close: %v", err)
		}
		closeLog(t, l) // twice does no harm
	}
	l := open(t, dir, k, w)
	for i, from := range cps {
		for _, to := range cps[i:] {
			proof, err := l.Consistency(t.Context(), from.Size, to.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := enclave.CheckConsistency(from, to, proof); err != nil {
				t.Errorf("%d to %d: %v", from.Size, to.Size, err)
			}
		}
	}
	for _, bad := range [][2]int64{{-1, 5}, {6, 5}, {5, 401}} {
		if _, err := l.Consistency(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("Consistency%v succeeds", bad)
		}
	}
}

func TestConsistencyBetweenAnySizes(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	l := open(t, t.TempDir(), k, newWitness(t, t.TempDir(), k))
	cps := map[int64]enclave.Checkpoint{}
	var sizes []int64
	for n := 0; n < 600; n += 1 + n%61 {
		mustAppend(t, l, n, n+1+n%61)
		cp := checkpoint(t, l)
		cps[cp.Size] = cp
		sizes = append(sizes, cp.Size)
	}
	rapid.Check(t, func(rt *rapid.T) {
		from, to := rapid.SampledFrom(sizes).Draw(rt, "from"), rapid.SampledFrom(sizes).Draw(rt, "to")
		from, to = min(from, to), max(from, to)
		proof, err := l.Consistency(t.Context(), from, to)
		if err != nil {
			rt.Fatal(err)
		}
		if err := enclave.CheckConsistency(cps[from], cps[to], proof); err != nil {
			rt.Fatal(err)
		}
		if len(proof) > 0 {
			proof[rapid.IntRange(0, len(proof)-1).Draw(rt, "hash")][0] ^= 1
			if err := enclave.CheckConsistency(cps[from], cps[to], proof); err == nil {
				rt.Fatal("altered proof verifies")
			}
		}
	})
}

func TestSingleWriter(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir, w := t.TempDir(), newWitness(t, t.TempDir(), k)
	l := open(t, dir, k, w)
	if _, err := audit.Open(t.Context(), config(dir, k, w)); !errors.Is(err, audit.ErrInUse) {
		t.Fatalf("second Open: %v, want ErrInUse", err)
	}
	mustAppend(t, l, 0, 1)
	closeLog(t, l)
	open(t, dir, k, w)
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	k, other := newKeys(t), newKeys(t)
	w := newWitness(t, t.TempDir(), k)
	for name, change := range map[string]func(*audit.Config){
		"no folder":              func(c *audit.Config) { c.Dir = "" },
		"no signer":              func(c *audit.Config) { c.Signer = nil },
		"no verifier":            func(c *audit.Config) { c.Verifier = nil },
		"no witness":             func(c *audit.Config) { c.Witness = nil },
		"verifier of another":    func(c *audit.Config) { c.Verifier = other.verifier },
		"log is its own witness": func(c *audit.Config) { c.Witness = fakeWitness{k.verifier} },
		"checkpoints too often":  func(c *audit.Config) { c.CheckpointInterval = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t.TempDir(), k, w)
			change(&cfg)
			if l, err := audit.Open(t.Context(), cfg); err == nil {
				closeLog(t, l)
				t.Error("accepted")
			}
		})
	}
}

// fakeWitness has a key and nothing else.
type fakeWitness struct{ key note.Verifier }

func (fakeWitness) Cosign(context.Context, int64, []enclave.Digest, []byte) ([]byte, error) {
	return nil, errDown
}
func (fakeWitness) Size(context.Context) (int64, error) { return 0, errDown }
func (f fakeWitness) Verifier() note.Verifier           { return f.key }

func TestOpenRefusesDamage(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	for name, damage := range map[string]func(t *testing.T, dir string){
		"no tree state":         func(t *testing.T, dir string) { remove(t, dir, ".state/treeState") },
		"altered checkpoint":    func(t *testing.T, dir string) { flip(t, dir, "checkpoint.cosigned", 20) },
		"empty checkpoint":      func(t *testing.T, dir string) { truncate(t, dir, "checkpoint.cosigned", 0) },
		"altered tile":          func(t *testing.T, dir string) { flip(t, dir, "tile/0/000.p/5", 3) },
		"tree state goes back":  func(t *testing.T, dir string) { write(t, dir, ".state/treeState", `{"size":1,"root":""}`) },
		"tree state goes ahead": func(t *testing.T, dir string) { write(t, dir, ".state/treeState", `{"size":9,"root":""}`) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, w := t.TempDir(), newWitness(t, t.TempDir(), k)
			l := open(t, dir, k, w)
			mustAppend(t, l, 0, 5)
			closeLog(t, l)
			damage(t, dir)
			l, err := audit.Open(t.Context(), config(dir, k, w))
			if err == nil {
				closeLog(t, l)
			}
			if !errors.Is(err, audit.ErrDamaged) {
				t.Errorf("Open: %v, want ErrDamaged", err)
			}
		})
	}
}

func TestReadersRefuseDamage(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	l, err := audit.Open(t.Context(), config(dir, k, newWitness(t, t.TempDir(), k)))
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, 0, 5)
	flip(t, dir, "tile/entries/000.p/5", 40)
	if _, err := l.Prove(t.Context(), 0); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Prove: %v", err)
	}
	for _, err := range l.Entries(t.Context(), 0, 5) {
		if !errors.Is(err, audit.ErrDamaged) {
			t.Errorf("Entries: %v", err)
		}
	}
	if _, err := l.Prove(t.Context(), 4); err != nil {
		t.Errorf("Prove of a good entry beside the bad one: %v", err)
	}
	flip(t, dir, "tile/0/000.p/5", 0)
	if _, err := l.Consistency(t.Context(), 1, 5); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Consistency: %v", err)
	}
	if _, err := l.Append(t.Context(), entry(6)); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Append on a damaged tree: %v", err)
	}
	if err := l.Close(t.Context()); err == nil {
		t.Error("Tessera published a checkpoint of a damaged tree")
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	l := open(t, t.TempDir(), k, w)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(cancelled, entry(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("Append: %v", err)
	}
	if _, err := l.Prove(cancelled, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Prove: %v", err)
	}
	if size := checkpoint(t, l).Size; size != 0 {
		t.Errorf("a cancelled append was logged")
	}

	// One round is held up at the witness; a second call waits behind it, leaves, and must not be logged.
	w.hold, w.entered = make(chan struct{}), make(chan struct{})
	var first errgroup.Group
	first.Go(func() error { _, err := l.Append(t.Context(), entry(1)); return err })
	<-w.entered
	brief, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Append(brief, entry(2)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Append behind a slow round: %v", err)
	}
	if err := l.Close(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close during a slow round: %v", err)
	}
	close(w.hold)
	if err := first.Wait(); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	if size, err := w.LocalWitness.Size(t.Context()); size != 1 || err != nil {
		t.Errorf("witness has %d entries, want 1", size)
	}
}

// It looks at the whole process, so it does not run beside others.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	k := newKeys(t)
	l := open(t, t.TempDir(), k, newWitness(t, t.TempDir(), k))
	mustAppend(t, l, 0, 10)
	closeLog(t, l)
	// Tessera's own goroutines end soon after their context does; nothing tells when.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Second)
	for {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !strings.Contains(string(stacks), "transparency-dev/tessera") && !strings.Contains(string(stacks), "audit.(*Log)") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("goroutines after Close:\n%s", stacks)
		}
	}
}

// BenchmarkAppend is the latency of one caller after another.
func BenchmarkAppend(b *testing.B) {
	k := newKeys(b)
	l := open(b, b.TempDir(), k, newWitness(b, b.TempDir(), k))
	latencies := make([]time.Duration, 0, 1024)
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		mustAppend(b, l, i, i+1)
		latencies = append(latencies, time.Since(start))
	}
	report(b, latencies)
}

// BenchmarkAppendParallel is the latency and throughput with 64 callers.
func BenchmarkAppendParallel(b *testing.B) {
	k := newKeys(b)
	l := open(b, b.TempDir(), k, newWitness(b, b.TempDir(), k))
	var mu sync.Mutex
	var latencies []time.Duration
	b.SetParallelism((64 + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			start := time.Now()
			if _, err := l.Append(b.Context(), entry(1)); err != nil {
				b.Error(err)
				return
			}
			mu.Lock()
			latencies = append(latencies, time.Since(start))
			mu.Unlock()
		}
	})
	report(b, latencies)
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}
