package audit_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/audit"
)

func TestAlteredProofsRefuse(t *testing.T) {
	t.Parallel()
	k, other := newKeys(t), newKeys(t)
	l := open(t, t.TempDir(), k, newWitness(t, t.TempDir(), k))
	old := mustAppend(t, l, 0, 3)[1]
	p := mustAppend(t, l, 3, 300)[100]
	for name, alter := range map[string]func(*enclave.LogProof){
		"another entry":     func(p *enclave.LogProof) { p.Entry = canon.MustMarshal(entry(9999)) },
		"not canonical":     func(p *enclave.LogProof) { p.Entry = append([]byte(" "), p.Entry...) },
		"no entry":          func(p *enclave.LogProof) { p.Entry = nil },
		"index before":      func(p *enclave.LogProof) { p.Index-- },
		"index after":       func(p *enclave.LogProof) { p.Index++ },
		"index beyond":      func(p *enclave.LogProof) { p.Index = 1 << 50 },
		"index negative":    func(p *enclave.LogProof) { p.Index = -1 },
		"path altered":      func(p *enclave.LogProof) { p.Path[0][31] ^= 1 },
		"path shorter":      func(p *enclave.LogProof) { p.Path = p.Path[:len(p.Path)-1] },
		"path longer":       func(p *enclave.LogProof) { p.Path = append(p.Path, enclave.Digest{}) },
		"path out of order": func(p *enclave.LogProof) { p.Path[0], p.Path[1] = p.Path[1], p.Path[0] },
		"older checkpoint":  func(p *enclave.LogProof) { p.Checkpoint = old.Checkpoint },
		"size altered":      func(p *enclave.LogProof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n300\n", "\n299\n", 1) },
		"no checkpoint":     func(p *enclave.LogProof) { p.Checkpoint = "" },
		"no cosignature":    func(p *enclave.LogProof) { p.Checkpoint = dropLine(p.Checkpoint, origin+"/witness ") },
		"no log signature":  func(p *enclave.LogProof) { p.Checkpoint = dropLine(p.Checkpoint, origin+" ") },
		"text after":        func(p *enclave.LogProof) { p.Checkpoint += "x" },
		"signed by another": func(p *enclave.LogProof) { p.Checkpoint = resign(t, p.Checkpoint, other) },
	} {
		t.Run(name, func(t *testing.T) {
			bad := p
			bad.Path = slices.Clone(p.Path)
			alter(&bad)
			if _, _, err := bad.Check(k.keys); !errors.Is(err, enclave.ErrLogProof) {
				t.Errorf("Check: %v, want ErrLogProof", err)
			}
		})
	}
	want, wantCP, err := p.Check(k.keys)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) { // any bit of any field
		raw := canon.MustMarshal(p)
		i := rapid.IntRange(0, len(raw)-1).Draw(rt, "byte")
		raw[i] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		var bad enclave.LogProof
		if err := canon.Unmarshal(raw, &bad); err != nil {
			return
		}
		// A signature's base64 has unused bits, which change nothing that is proved.
		got, cp, err := bad.Check(k.keys)
		if err == nil && (got != want || cp != wantCP || bad.Index != p.Index || !slices.Equal(bad.Path, p.Path)) {
			rt.Fatalf("proof with byte %d altered verifies", i)
		}
	})
}

func dropLine(text, name string) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(s string) bool { return strings.HasPrefix(s, "— "+name) }), "")
}

// resign replaces the signatures with those of another log and witness of the same names.
func resign(t *testing.T, text string, k keyring) string {
	t.Helper()
	body, _, _ := strings.Cut(text, "\n\n")
	out, err := note.Sign(&note.Note{Text: body + "\n"}, k.signer, k.witness)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// FuzzLogProof: the text form of a proof has one spelling, and only proofs of this log verify.
func FuzzLogProof(f *testing.F) {
	k := newKeys(f)
	l := open(f, f.TempDir(), k, newWitness(f, f.TempDir(), k))
	genuine := map[string]bool{}
	for _, p := range mustAppend(f, l, 0, 5) {
		genuine[string(p.Entry)] = true
		f.Add(canon.MustMarshal(p))
	}
	f.Add([]byte(`{"checkpoint":"","entry":"","index":0,"path":[]}`))
	f.Add([]byte(`{"checkpoint":"","entry":"","index":0,"path":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p enclave.LogProof
		if err := canon.Unmarshal(data, &p); err != nil {
			return
		}
		if again := canon.MustMarshal(p); !bytes.Equal(again, data) {
			t.Errorf("%q is written %q", data, again)
		}
		if _, _, err := p.Check(k.keys); err == nil && !genuine[string(p.Entry)] {
			t.Errorf("a forged entry verifies: %q", data)
		}
	})
}

// FuzzCheckpoint: a checkpoint's text has one spelling.
func FuzzCheckpoint(f *testing.F) {
	f.Add("lab.example/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
	f.Add("lab.example/log\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
	f.Add("lab.example/log\n012\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
	f.Add("lab.example/log\n-1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\next\n")
	f.Fuzz(func(t *testing.T, text string) {
		cp, err := enclave.ParseCheckpoint(text)
		if err != nil {
			return
		}
		if again := audit.CheckpointText(cp); again != text {
			t.Errorf("%q is written %q", text, again)
		}
	})
}

// FuzzCosignature: whatever a witness answers, what is stored is the log's note with exactly the two good signatures.
func FuzzCosignature(f *testing.F) {
	k := newKeys(f)
	w := newWitness(f, f.TempDir(), k)
	l := open(f, f.TempDir(), k, w)
	text, cp, err := l.Checkpoint(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	signed := dropLine(text, origin+"/witness ")
	lines := strings.TrimPrefix(text, signed)
	f.Add([]byte(lines))
	f.Add([]byte(lines + lines))
	f.Add([]byte("— somebody AAAAAAAA\n" + lines))
	f.Add([]byte("\n" + lines))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, lines []byte) {
		got, err := audit.MergeSignatures(k.keys, cp, []byte(signed), lines)
		if err == nil && got != text {
			t.Errorf("answer %q makes checkpoint %q", lines, got)
		}
	})
}

// FuzzBundle: entry bundles have one spelling.
func FuzzBundle(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 'x', 0, 0})
	f.Add([]byte{0, 3, 'x'})
	f.Fuzz(func(t *testing.T, data []byte) {
		raws, err := audit.SplitBundle(data)
		if err != nil {
			return
		}
		var again []byte
		for _, raw := range raws {
			again = append(again, byte(len(raw)>>8), byte(len(raw)))
			again = append(again, raw...)
		}
		if !bytes.Equal(again, data) {
			t.Errorf("%x is written %x", data, again)
		}
	})
}
