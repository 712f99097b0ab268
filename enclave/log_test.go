package enclave_test

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// testLog is a log in memory, with the reference implementation's tree (golang.org/x/mod/sumdb/tlog).
type testLog struct {
	t      testing.TB
	hashes []tlog.Hash
	size   int64
	leaves [][]byte
}

const origin = "yingzhou.lab/test"

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = l.hashes[at]
	}
	return out, nil
}

func (l *testLog) append(e enclave.Entry) {
	l.t.Helper()
	data := canon.MustMarshal(e)
	hashes, err := tlog.StoredHashes(l.size, data, l)
	if err != nil {
		l.t.Fatal(err)
	}
	l.hashes, l.size, l.leaves = append(l.hashes, hashes...), l.size+1, append(l.leaves, data)
}

func (l *testLog) text() string {
	l.t.Helper()
	root, err := tlog.TreeHash(l.size, l)
	if err != nil {
		l.t.Fatal(err)
	}
	return fmt.Sprintf("%s\n%d\n%s\n", origin, l.size, base64.StdEncoding.EncodeToString(root[:]))
}

func (l *testLog) checkpoint() enclave.Checkpoint {
	l.t.Helper()
	cp, err := enclave.ParseCheckpoint(l.text())
	if err != nil {
		l.t.Fatal(err)
	}
	return cp
}

func (l *testLog) proof(index int64, signers ...note.Signer) enclave.LogProof {
	l.t.Helper()
	path, err := tlog.ProveRecord(l.size, index, l)
	if err != nil {
		l.t.Fatal(err)
	}
	return enclave.LogProof{Entry: l.leaves[index], Index: index, Path: digests(path), Checkpoint: sign(l.t, l.text(), signers...)}
}

func digests(hs []tlog.Hash) []enclave.Digest {
	out := []enclave.Digest{}
	for _, h := range hs {
		out = append(out, enclave.Digest(h))
	}
	return out
}

func sign(t testing.TB, text string, signers ...note.Signer) string {
	t.Helper()
	data, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func noteKeys(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	secret, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err1 := note.NewSigner(secret)
	v, err2 := note.NewVerifier(public)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return s, v
}

func newLog(t testing.TB, entries int) *testLog {
	l := &testLog{t: t}
	for i := range entries {
		l.append(enclave.Entry{Type: enclave.EntryPlan, Subject: digest(fmt.Sprint(i)), By: "lab", At: at("2026-11-02T08:00:00Z")})
	}
	return l
}

func TestLogProofOfEveryEntry(t *testing.T) {
	log, logKey := noteKeys(t, origin)
	wit, witKey := noteKeys(t, "witness")
	keys := enclave.LogKeys{Origin: origin, Log: logKey, Witness: witKey}
	for _, size := range []int{1, 2, 7, 8} {
		l := newLog(t, size)
		for i := range int64(size) {
			e, cp, err := l.proof(i, log, wit).Check(keys)
			if err != nil || e.Subject != digest(fmt.Sprint(i)) || cp != l.checkpoint() {
				t.Errorf("entry %d of %d: %v, %+v, %+v", i, size, err, e, cp)
			}
		}
	}
}

func TestLogProofRefuses(t *testing.T) {
	log, logKey := noteKeys(t, origin)
	wit, witKey := noteKeys(t, "witness")
	stranger, _ := noteKeys(t, "witness")
	keys := enclave.LogKeys{Origin: origin, Log: logKey, Witness: witKey}
	l, other := newLog(t, 7), newLog(t, 9)
	// A log that ground a key whose 32-bit hash is the witness's signs twice, once under each name.
	ground := forged{log, log.Name(), wit.KeyHash()}
	for name, c := range map[string]struct {
		keys   enclave.LogKeys
		change func(*enclave.LogProof)
	}{
		"other entry":            {keys, func(p *enclave.LogProof) { p.Entry = l.leaves[4] }},
		"entry not canonical":    {keys, func(p *enclave.LogProof) { p.Entry = append([]byte(" "), p.Entry...) }},
		"other index":            {keys, func(p *enclave.LogProof) { p.Index++ }},
		"negative index":         {keys, func(p *enclave.LogProof) { p.Index = -1 }},
		"index past the end":     {keys, func(p *enclave.LogProof) { p.Index = 7 }},
		"short path":             {keys, func(p *enclave.LogProof) { p.Path = p.Path[1:] }},
		"long path":              {keys, func(p *enclave.LogProof) { p.Path = append(slices.Clone(p.Path), enclave.Digest{}) }},
		"damaged path":           {keys, func(p *enclave.LogProof) { p.Path = append([]enclave.Digest{{}}, p.Path[1:]...) }},
		"checkpoint of another":  {keys, func(p *enclave.LogProof) { p.Checkpoint = sign(t, other.text(), log, wit) }},
		"no witness":             {keys, func(p *enclave.LogProof) { p.Checkpoint = sign(t, l.text(), log) }},
		"no log":                 {keys, func(p *enclave.LogProof) { p.Checkpoint = sign(t, l.text(), wit) }},
		"another witness":        {keys, func(p *enclave.LogProof) { p.Checkpoint = sign(t, l.text(), log, stranger) }},
		"unsigned":               {keys, func(p *enclave.LogProof) { p.Checkpoint = l.text() }},
		"damaged text":           {keys, func(p *enclave.LogProof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n7\n", "\n8\n", 1) }},
		"not a checkpoint":       {keys, func(p *enclave.LogProof) { p.Checkpoint = sign(t, "hello\n", log, wit) }},
		"another log's name":     {enclave.LogKeys{Origin: "yingzhou.lab/other", Log: logKey, Witness: witKey}, func(*enclave.LogProof) {}},
		"log is its own witness": {enclave.LogKeys{Origin: origin, Log: logKey, Witness: logKey}, func(p *enclave.LogProof) { p.Checkpoint = sign(t, l.text(), log) }},
		"log's name, witness's hash": {enclave.LogKeys{Origin: origin, Log: forgedKey{logKey, log.Name(), wit.KeyHash()}, Witness: witKey},
			func(p *enclave.LogProof) { p.Checkpoint = sign(t, l.text(), ground) }},
		"witness's name, log's hash": {enclave.LogKeys{Origin: origin, Log: logKey, Witness: forgedKey{witKey, wit.Name(), log.KeyHash()}},
			func(p *enclave.LogProof) { p.Checkpoint = sign(t, l.text(), log) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := l.proof(2, log, wit)
			if _, _, err := p.Check(keys); err != nil {
				t.Fatal(err)
			}
			c.change(&p)
			if _, _, err := p.Check(c.keys); !errors.Is(err, enclave.ErrLogProof) {
				t.Errorf("it gives %v", err)
			}
		})
	}
	// The same two keys do verify when both really sign: it is the missing signature that counts, not the collision.
	both := enclave.LogKeys{Origin: origin, Log: forgedKey{logKey, log.Name(), wit.KeyHash()}, Witness: witKey}
	p := l.proof(2, log, wit)
	p.Checkpoint = sign(t, l.text(), ground, wit)
	if _, _, err := p.Check(both); err != nil {
		t.Errorf("a log and a witness whose hashes collide: %v", err)
	}
}

// forged is a key under another name and hash, as one could grind it.
type forged struct {
	note.Signer
	name string
	hash uint32
}

func (f forged) Name() string    { return f.name }
func (f forged) KeyHash() uint32 { return f.hash }

type forgedKey struct {
	note.Verifier
	name string
	hash uint32
}

func (f forgedKey) Name() string    { return f.name }
func (f forgedKey) KeyHash() uint32 { return f.hash }

func TestCheckConsistency(t *testing.T) {
	later, other := newLog(t, 9), newLog(t, 9)
	other.leaves, other.hashes, other.size = nil, nil, 0
	for range 5 {
		other.append(enclave.Entry{Type: enclave.EntryPlan, Subject: digest("forked"), By: "lab", At: at("2026-11-02T08:00:00Z")})
	}
	cp := later.checkpoint()
	for size := int64(1); size <= 9; size++ {
		path, err := tlog.ProveTree(9, size, later)
		if err != nil {
			t.Fatal(err)
		}
		earlier := newLog(t, int(size)).checkpoint()
		if err := enclave.CheckConsistency(earlier, cp, digests(path)); err != nil {
			t.Errorf("from %d to 9 entries: %v", size, err)
		}
		if size == 5 {
			if err := enclave.CheckConsistency(other.checkpoint(), cp, digests(path)); !errors.Is(err, enclave.ErrLogProof) {
				t.Errorf("a forked log gives %v", err)
			}
			if err := enclave.CheckConsistency(cp, earlier, digests(path)); !errors.Is(err, enclave.ErrLogProof) {
				t.Errorf("a log that shrank gives %v", err)
			}
			if err := enclave.CheckConsistency(earlier, cp, digests(path)[1:]); !errors.Is(err, enclave.ErrLogProof) {
				t.Errorf("a short proof gives %v", err)
			}
		}
	}
	if err := enclave.CheckConsistency(enclave.Checkpoint{Origin: origin}, cp, nil); err != nil {
		t.Errorf("from the empty log: %v", err)
	}
	if err := enclave.CheckConsistency(enclave.Checkpoint{Origin: "other"}, cp, nil); !errors.Is(err, enclave.ErrLogProof) {
		t.Errorf("from another log: %v", err)
	}
}

func TestParseCheckpointRefuses(t *testing.T) {
	good := newLog(t, 3).text()
	root := strings.Split(good, "\n")[2]
	for _, bad := range []string{"", "\n", good + "\n", good + "extension\n", strings.TrimSuffix(good, "\n"), "\n3\n" + root + "\n", "o\n-3\n" + root + "\n",
		"o\n03\n" + root + "\n", "o\n+3\n" + root + "\n", "o\n9223372036854775808\n" + root + "\n", "o\n3\n" + root[1:] + "\n", "o\n3\n" + root + "=\n", "o\n3\n\n",
		"o\n3\n" + strings.TrimSuffix(root, "=") + "\n", "o\r\n3\r\n" + root + "\r\n"} {
		if cp, err := enclave.ParseCheckpoint(bad); !errors.Is(err, enclave.ErrLogProof) {
			t.Errorf("%q is read as %+v, %v", bad, cp, err)
		}
	}
}

func FuzzCheckpoint(f *testing.F) {
	l := newLog(f, 3)
	f.Add(l.text())
	f.Add(newLog(f, 1).text())
	f.Add("o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n") // of the empty log
	log, logKey := noteKeys(f, origin)
	wit, witKey := noteKeys(f, "witness")
	keys := enclave.LogKeys{Origin: origin, Log: logKey, Witness: witKey}
	f.Add(sign(f, l.text(), log, wit))
	f.Fuzz(func(t *testing.T, text string) {
		keys.Open(text) // must not panic on notes; their signatures cannot be fuzzed
		cp, err := enclave.ParseCheckpoint(text)
		if err != nil {
			return
		}
		if again := fmt.Sprintf("%s\n%d\n%s\n", cp.Origin, cp.Size, base64.StdEncoding.EncodeToString(cp.Root[:])); again != text {
			t.Errorf("%q is read as %q", text, again)
		}
	})
}
