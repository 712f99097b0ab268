package evaluator

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"math/bits"
	"os"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave"
)

var sets = []string{"bgv13-t36", "bgv14-t50", "bgv14-t58"}

func params(t testing.TB, name string) *Params {
	t.Helper()
	p, err := Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The accumulators at their limit: every residue as large as can be, at and around the number of products that fit
// before they must be folded. 128 bits that ran over would be a wrong sum that nothing else notices.
func TestLazyAccumulationAtItsLimit(t *testing.T) {
	for _, name := range sets {
		p := params(t, name)
		for limb, q := range p.q {
			for _, fold := range []int{4, 5, 7, p.fold} {
				if fold > p.fold {
					continue
				}
				for _, chunks := range []int{1, 2, 3, 31, 32, 33, 64, 65, 130} {
					tiles := make([]uint64, chunks*2*Tile)
					for i := range tiles {
						tiles[i] = q - 1
					}
					var s product
					s.add(tiles, tiles, q, fold)
					var d0, d1, d2 [Tile]uint64
					s.finish(q, p.tModQ[limb], d0[:], d1[:], d2[:])
					// (−1)·(−1) = 1, so the tensor is (1, 2, 1) for every chunk.
					want := func(times int64) uint64 {
						x := new(big.Int).Mul(big.NewInt(times*int64(chunks)), new(big.Int).SetUint64(p.Set.T))
						return x.Mod(x, new(big.Int).SetUint64(q)).Uint64()
					}
					for i := range Tile {
						if d0[i] != want(1) || d1[i] != want(2) || d2[i] != want(1) {
							t.Fatalf("%s, prime %d, %d chunks, fold %d: (%d, %d, %d)", name, limb, chunks, fold, d0[i], d1[i], d2[i])
						}
					}
				}
			}
		}
	}
}

// The bound by which fold is chosen, in numbers: a folded accumulator and so many Karatsuba products stay below 2^128.
func TestFoldLeavesRoom(t *testing.T) {
	for _, name := range sets {
		p := params(t, name)
		for _, q := range p.q {
			most := new(big.Int).Lsh(big.NewInt(1), uint(bits.Len64(q)+64))
			product := new(big.Int).SetUint64(2 * (q - 1))
			product.Mul(product, product).Mul(product, big.NewInt(int64(p.fold)))
			if most.Add(most, product).BitLen() > 128 {
				t.Errorf("%s: %d products modulo %d need %d bits", name, p.fold, q, most.BitLen())
			}
		}
	}
}

// Uniform against the words of its comment: AES-256-CTR from a zero block, masked, skipping what is not below the prime.
func TestUniformIsItsDescription(t *testing.T) {
	p := params(t, "bgv13-t36")
	key := bytes.Repeat([]byte{9}, 32)
	got := make([]uint64, p.Words())
	p.Uniform(key, got)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	counter, at := uint64(0), 0
	word := func() uint64 {
		var in, out [16]byte
		binary.BigEndian.PutUint64(in[8:], counter/2)
		block.Encrypt(out[:], in[:])
		w := binary.LittleEndian.Uint64(out[8*(counter%2):])
		counter++
		return w
	}
	for _, q := range p.q {
		for range p.n {
			w := word() & (1<<bits.Len64(q) - 1)
			for w >= q {
				w = word() & (1<<bits.Len64(q) - 1)
			}
			if got[at] != w {
				t.Fatalf("word %d is %d, want %d", at, got[at], w)
			}
			at++
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a short key was taken")
		}
	}()
	p.Uniform(key[:31], got)
}

// Every blob sealed so far is opened with this expansion: its digest must not change.
func TestExpansionIsPinned(t *testing.T) {
	for name, want := range map[string]string{"bgv13-t36": "717ef5fc31169541", "bgv14-t50": "2c3b45b640632059", "bgv14-t58": "d14998b2f84d788b"} {
		p := params(t, name)
		w := make([]uint64, p.Words())
		p.Expand([32]byte{1, 2, 3}, 5, w)
		sum := sha256.Sum256(bytesOf(w))
		if got := hex.EncodeToString(sum[:8]); got != want {
			t.Errorf("%s: the uniform half hashes to %s, pinned is %s", name, got, want)
		}
		other := make([]uint64, p.Words())
		if p.Expand([32]byte{1, 2, 3}, 6, other); bytes.Equal(bytesOf(w), bytesOf(other)) {
			t.Errorf("%s: two chunks share their uniform half", name)
		}
	}
}

func TestParseBlobRefuses(t *testing.T) {
	p := params(t, "bgv13-t36")
	blob := func(change func(*BlobHeader)) []byte {
		h := NewBlobHeader(enclave.Digest{1}, p.Set.Name, enclave.Cube, "n", [32]byte{2})
		change(&h)
		page, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return append(page, make([]byte, p.ChunkBytes())...)
	}
	good := blob(func(*BlobHeader) {})
	if b, err := ParseBlob(good); err != nil || b.Chunks != 1 || b.Seed != [32]byte{2} || b.Header.Name != "n" {
		t.Fatalf("%+v, %v", b, err)
	}
	edit := func(f func([]byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	for name, data := range map[string][]byte{
		"nothing":             nil,
		"header alone":        good[:BlobHeaderBytes],
		"half a header":       good[:100],
		"truncated":           good[:len(good)-1],
		"longer":              append(bytes.Clone(good), 0),
		"another magic":       edit(func(b []byte) { b[7] = '2' }),
		"header too long":     edit(func(b []byte) { binary.LittleEndian.PutUint32(b[8:], BlobHeaderBytes) }),
		"header length huge":  edit(func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 1<<32-1) }),
		"header cut":          edit(func(b []byte) { b[8]-- }),
		"bytes after header":  edit(func(b []byte) { b[BlobHeaderBytes-1] = 1 }),
		"space in the header": edit(func(b []byte) { b[12] = ' ' }),
		"another kind":        blob(func(h *BlobHeader) { h.Kind = "yingzhou.blob.v2" }),
		"another layout":      blob(func(h *BlobHeader) { h.Layout = "columns" }),
		"another set":         blob(func(h *BlobHeader) { h.Params = "bgv12" }),
		"payload of a set":    blob(func(h *BlobHeader) { h.Params = "bgv14-t50" }),
		"short seed":          blob(func(h *BlobHeader) { h.Seed = h.Seed[:31] }),
	} {
		if b, err := ParseBlob(data); !errors.Is(err, ErrBlobFormat) || b != nil {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
	if _, err := (BlobHeader{Name: string(make([]byte, BlobHeaderBytes))}).Encode(); err == nil {
		t.Error("a header longer than its page was encoded")
	}
}

// files puts a blob and its panel where a node would have them.
func files(t *testing.T, layout string, chunks int) (*Params, enclave.Vector, *Files) {
	t.Helper()
	p := params(t, "bgv13-t36")
	dir := t.TempDir()
	page, err := NewBlobHeader(enclave.Digest{1}, p.Set.Name, layout, "v", [32]byte{2}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	v := enclave.Vector{Name: "v", Blob: enclave.Digest{7}, Chunks: int64(chunks)}
	place := func(d enclave.Digest, kind string) string { return filepath.Join(dir, d.Short()+"."+kind) }
	for kind, data := range map[string][]byte{KindBlob: append(page, make([]byte, p.ChunkBytes()*v.Chunks)...), KindPanel: make([]byte, p.PanelBytes(v.Chunks))} {
		if err := os.WriteFile(place(v.Blob, kind), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := NewFiles(place)
	t.Cleanup(func() { f.Close() })
	return p, v, f
}

func TestEvaluateRefuses(t *testing.T) {
	wrong := params(t, "bgv14-t50")
	for _, kind := range []string{enclave.Cube, enclave.Rows} {
		p, v, f := files(t, kind, 2)
		more, gone := v, v
		more.Chunks, gone.Blob = 3, enclave.Digest{8}
		inner := int64(p.N())
		for name, c := range map[string]struct {
			p      *Params
			vector enclave.Vector
			cell   int64
			want   error
		}{
			"as it should be":   {p, v, inner, nil},
			"another set":       {wrong, v, inner, enclave.ErrBlob},
			"more ciphertexts":  {p, more, inner, enclave.ErrBlob},
			"no such input":     {p, gone, inner, enclave.ErrNotFound},
			"cell past the end": {p, v, 2 * inner, errAny},
		} {
			if kind == enclave.Rows && c.want == errAny {
				continue
			}
			l := &enclave.Layout{Kind: kind, Vectors: []enclave.Vector{c.vector}}
			term := enclave.Term{Cells: []int64{0, c.cell}}
			if kind == enclave.Rows {
				term = enclave.Term{A: []int{0}, B: []int{0}}
			}
			out, err := Evaluate(t.Context(), c.p, l, []enclave.Term{term}, f.With(c.p), 2, nil)
			if (c.want == errAny && err == nil) || c.want != errAny && !errors.Is(err, c.want) || (err == nil) != (len(out) == 1) {
				t.Errorf("%s: %s gives %d results and %v", kind, name, len(out), err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l := &enclave.Layout{Kind: kind, Vectors: []enclave.Vector{v}}
		if _, err := Evaluate(ctx, p, l, []enclave.Term{{A: []int{0}, Cells: []int64{0}}}, f.With(p), 2, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: a cancelled evaluation gives %v", kind, err)
		}
	}
}

var errAny = errors.New("any error")

func TestProgressReachesTheEnd(t *testing.T) {
	for _, kind := range []string{enclave.Cube, enclave.Rows} {
		p, v, f := files(t, kind, 1)
		l := &enclave.Layout{Kind: kind, Vectors: []enclave.Vector{v}}
		last := 0.0
		terms := []enclave.Term{{A: []int{0}, Cells: []int64{0}}, {A: []int{0}, Cells: []int64{1}}}
		if _, err := Evaluate(t.Context(), p, l, terms, f.With(p), 3, func(done float64) {
			if done < last {
				t.Errorf("%s: progress went from %v to %v", kind, last, done)
			}
			last = done
		}); err != nil || last != 1 {
			t.Errorf("%s: progress ended at %v, %v", kind, last, err)
		}
	}
}

func TestFilesForget(t *testing.T) {
	p, v, f := files(t, enclave.Rows, 1)
	first, err := f.Blob(v.Blob)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.Blob(v.Blob); again != first || err != nil {
		t.Errorf("a blob is parsed twice: %v", err)
	}
	if _, err := f.Panel(p, v.Blob); err != nil {
		t.Error(err)
	}
	if err := f.Forget(v.Blob); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(f.locate(v.Blob, KindBlob), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f.locate(v.Blob, KindPanel), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Blob(v.Blob); !errors.Is(err, enclave.ErrBlob) || !errors.Is(err, ErrBlobFormat) {
		t.Errorf("a damaged blob gives %v", err)
	}
	if _, err := f.Panel(p, v.Blob); !errors.Is(err, enclave.ErrBlob) {
		t.Errorf("a damaged panel gives %v", err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestOutputDigestKeepsTheOrder(t *testing.T) {
	a, b := Ciphertext{Digest: enclave.Digest{1}}, Ciphertext{Digest: enclave.Digest{2}}
	seen := map[enclave.Digest]string{}
	for _, cts := range [][]Ciphertext{nil, {a}, {b}, {a, b}, {b, a}, {a, a}} {
		d := OutputDigest(cts)
		if other, taken := seen[d]; taken {
			t.Errorf("%d results have the digest of %s", len(cts), other)
		}
		seen[d] = fmt.Sprint(len(cts))
	}
}
