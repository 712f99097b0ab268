package audit_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/audit"
)

// forest is a log in memory whose key the test holds, so that it can lie.
type forest struct {
	hashes []tlog.Hash
	leaves int64
}

func (f *forest) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = f.hashes[x]
	}
	return out, nil
}

func (f *forest) add(t *testing.T, leaf string) {
	t.Helper()
	hashes, err := tlog.StoredHashes(f.leaves, []byte(leaf), f)
	if err != nil {
		t.Fatal(err)
	}
	f.hashes = append(f.hashes, hashes...)
	f.leaves++
}

func grow(t *testing.T, n int, fork string) *forest {
	t.Helper()
	f := &forest{}
	for i := range n {
		f.add(t, fmt.Sprintf("%s%d", fork, i))
	}
	return f
}

func (f *forest) sign(t *testing.T, size int64, s note.Signer) []byte {
	t.Helper()
	root, err := tlog.TreeHash(size, f)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", s.Name(), size, root)
	out, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *forest) prove(t *testing.T, to, from int64) (out []enclave.Digest) {
	t.Helper()
	path, err := tlog.ProveTree(to, from, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range path {
		out = append(out, enclave.Digest(h))
	}
	return out
}

func TestWitness(t *testing.T) {
	t.Parallel()
	k, stranger := newKeys(t), newKeys(t)
	honest, forked := grow(t, 20, ""), grow(t, 20, "fork")
	good := func(to, from int64) []enclave.Digest { return honest.prove(t, to, from) }
	for _, tc := range []struct {
		name  string
		old   int64
		proof []enclave.Digest
		note  []byte
		want  error // nil: any
		ok    bool
	}{
		{name: "extension", old: 10, proof: good(15, 10), note: honest.sign(t, 15, k.signer), ok: true},
		{name: "same again", old: 10, note: honest.sign(t, 10, k.signer), ok: true},
		{name: "rollback", old: 5, note: honest.sign(t, 5, k.signer), want: audit.ErrSplitView},
		{name: "rollback, size stated", old: 10, note: honest.sign(t, 9, k.signer), want: audit.ErrSplitView},
		{name: "rollback to nothing", old: 0, note: honest.sign(t, 0, k.signer), want: audit.ErrSplitView},
		{name: "fork of the same size", old: 10, note: forked.sign(t, 10, k.signer), want: audit.ErrSplitView},
		{name: "longer fork", old: 10, proof: forked.prove(t, 15, 10), note: forked.sign(t, 15, k.signer), want: audit.ErrSplitView},
		{name: "longer fork, honest proof", old: 10, proof: good(15, 10), note: forked.sign(t, 15, k.signer), want: audit.ErrSplitView},
		{name: "no proof", old: 10, note: honest.sign(t, 15, k.signer), want: audit.ErrSplitView},
		{name: "from another size", old: 9, proof: good(15, 9), note: honest.sign(t, 15, k.signer), want: audit.ErrConflict},
		{name: "from nothing", old: 0, note: honest.sign(t, 15, k.signer), want: audit.ErrConflict},
		{name: "another log", old: 10, proof: good(15, 10), note: honest.sign(t, 15, stranger.signer)},
		{name: "not a note", old: 10, note: []byte("hello\n")},
		{name: "empty", old: 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			w := newWitness(t, dir, k)
			if _, err := w.Cosign(t.Context(), 0, nil, honest.sign(t, 10, k.signer)); err != nil {
				t.Fatal(err)
			}
			lines, err := w.Cosign(t.Context(), tc.old, tc.proof, tc.note)
			if tc.ok {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := k.keys.Open(string(tc.note) + string(lines)); err != nil {
					t.Errorf("cosigned checkpoint does not open: %v", err)
				}
				return
			}
			if err == nil || lines != nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Fatalf("got %q, %v; want no signature and %v", lines, err, tc.want)
			}
			var split *audit.SplitViewError
			if errors.As(err, &split) {
				for _, text := range []string{split.Seen, split.Offered} {
					if _, err := note.Open([]byte(text), note.VerifierList(k.verifier)); err != nil {
						t.Errorf("evidence is not signed by the log: %v", err)
					}
				}
			}
			if size, err := w.Size(t.Context()); size != 10 || err != nil {
				t.Errorf("refusal moved the witness to %d, %v", size, err)
			}
			// It remembers across a restart.
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w = newWitness(t, dir, k)
			if _, err := w.Cosign(t.Context(), tc.old, tc.proof, tc.note); err == nil {
				t.Error("reopened witness signs what it refused")
			}
			if _, err := w.Cosign(t.Context(), 10, good(15, 10), honest.sign(t, 15, k.signer)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWitnessFolder(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	w := newWitness(t, dir, k)
	if _, err := audit.NewWitness(dir, k.witness, k.verifier); !errors.Is(err, audit.ErrInUse) {
		t.Errorf("second witness in one folder: %v", err)
	}
	if _, err := w.Cosign(t.Context(), 0, nil, grow(t, 3, "").sign(t, 3, k.signer)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, dir, "checkpoint.seen", 20)
	if _, err := audit.NewWitness(dir, k.witness, k.verifier); err == nil {
		t.Error("a witness with damaged memory opens")
	}
	if _, err := audit.NewWitness(t.TempDir(), nil, nil); err == nil {
		t.Error("a witness without keys opens")
	}
}

// TestLogMeetsItsPast: an old copy of the folder is put back.
func TestLogMeetsItsPast(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	w := &flaky{LocalWitness: newWitness(t, t.TempDir(), k)}
	dir := t.TempDir()
	l := open(t, dir, k, w)
	mustAppend(t, l, 0, 3)
	old := copyDir(t, dir)
	mustAppend(t, l, 3, 9)
	if _, err := audit.Open(t.Context(), config(old, k, w)); !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("Open of an old copy: %v, want ErrSplitView", err)
	}
	w.down.Store(true) // the witness cannot be asked at Open: the first append finds out
	stale := open(t, old, k, w)
	w.down.Store(false)
	for range 2 {
		if _, err := stale.Append(t.Context(), entry(50)); !errors.Is(err, audit.ErrSplitView) {
			t.Errorf("Append to an old copy: %v, want ErrSplitView", err)
		}
	}
	// Even grown past the witness's size, the other history is refused.
	if _, err := stale.Append(t.Context(), entries(60, 80)...); !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("Append to a longer fork: %v, want ErrSplitView", err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	if _, err := note.NewSigner(k.witnessPair.Secret); err == nil {
		t.Error("a witness's key loads as a log's")
	}
	if _, err := audit.NewWitnessSigner(k.logPair.Secret); err == nil {
		t.Error("a log's key loads as a witness's")
	}
	if _, _, err := audit.NewLogSigner(k.witnessPair.Secret); err == nil {
		t.Error("a witness's key loads as a log's")
	}
	if v, err := fnote.NewVerifierForCosignatureV1(k.witnessPair.Public); err != nil || v.KeyHash() != k.witness.KeyHash() {
		t.Errorf("public and secret key differ: %v", err)
	}
	for name, pub := range map[string][2]string{
		"swapped":       {k.witnessPair.Public, k.logPair.Public},
		"log twice":     {k.logPair.Public, k.logPair.Public},
		"witness twice": {k.witnessPair.Public, k.witnessPair.Public},
		"empty":         {"", ""},
		"hash altered":  {k.logPair.Public, "x" + k.witnessPair.Public},
	} {
		if _, err := audit.ParseKeys(pub[0], pub[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, name := range []string{"", "a b", "a+b"} {
		if _, _, err := audit.GenerateKeys(name); err == nil {
			t.Errorf("origin %q accepted", name)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if got := fmt.Sprintf(verb, k.logPair); got != k.logPair.Public {
			t.Errorf("%s shows %q", verb, got)
		}
	}
}

func TestOneSignatureIsNotTwo(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	l := open(t, dir, k, newWitness(t, t.TempDir(), k))
	mustAppend(t, l, 0, 3)
	text, _, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	stored, err := os.ReadFile(filepath.Join(dir, "checkpoint.cosigned"))
	if err != nil || string(stored) != text {
		t.Errorf("stored checkpoint is not the current one: %v", err)
	}
	alone, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.keys.Open(string(alone)); !errors.Is(err, enclave.ErrLogProof) {
		t.Errorf("checkpoint without cosignature opens: %v", err)
	}
}
