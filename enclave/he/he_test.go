package he

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
)

// fixture seals columns under a fresh key, the way package seal does, and serves them to the evaluator.
type fixture struct {
	t      testing.TB
	p      *Params
	key    *SecretKey
	layout enclave.Layout
	raw    map[enclave.Digest][]byte
}

func newFixture(t testing.TB, params, layout string) *fixture {
	t.Helper()
	p, err := Compile(params)
	if err != nil {
		t.Fatal(err)
	}
	key, err := GenerateKey(p)
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t: t, p: p, key: key, layout: enclave.Layout{Name: "l", Kind: layout}, raw: map[enclave.Digest][]byte{}}
}

// seal adds a vector of values and returns its index.
func (f *fixture) seal(name string, values []int64) int {
	f.t.Helper()
	var seed [32]byte
	rand.Read(seed[:])
	s, err := NewSealer(f.key, seed)
	if err != nil {
		f.t.Fatal(err)
	}
	page, err := evaluator.NewBlobHeader(enclave.Digest{}, f.p.Set.Name, f.layout.Kind, name, seed).Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	var buf bytes.Buffer
	buf.Write(page)
	out := make([]uint64, f.p.Words())
	chunks := int64(0)
	for at := 0; at < len(values); at += f.p.N() {
		part := values[at:min(at+f.p.N(), len(values))]
		if f.layout.Kind == enclave.Cube {
			err = s.Cells(chunks, part, out)
		} else {
			err = s.Slots(chunks, part, out)
		}
		if err != nil {
			f.t.Fatal(err)
		}
		if err := evaluator.WriteChunk(&buf, out); err != nil {
			f.t.Fatal(err)
		}
		chunks++
	}
	d := enclave.Digest(sum(buf.Bytes()))
	f.raw[d] = buf.Bytes()
	f.layout.Vectors = append(f.layout.Vectors, enclave.Vector{Name: name, Blob: d, Bytes: int64(buf.Len()), Chunks: chunks})
	return len(f.layout.Vectors) - 1
}

func (f *fixture) Blob(d enclave.Digest) (*evaluator.Blob, error) {
	return evaluator.ParseBlob(f.raw[d])
}

func (f *fixture) panelBytes(d enclave.Digest) ([]byte, error) {
	b, err := evaluator.ParseBlob(f.raw[d])
	if err != nil {
		return nil, err
	}
	w := make(memory, f.p.PanelBytes(b.Chunks))
	return w, b.Expand(w)
}

func (f *fixture) Panel(d enclave.Digest) (*evaluator.Panel, error) {
	data, err := f.panelBytes(d)
	if err != nil {
		return nil, err
	}
	return evaluator.OpenPanel(f.p.Params, data)
}

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func (f *fixture) evaluate(terms []enclave.Term, workers int) []evaluator.Ciphertext {
	f.t.Helper()
	cts, err := evaluator.Evaluate(context.Background(), f.p.Params, &f.layout, terms, f, workers, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return cts
}

// open combines shares of so many pieces with the given total noise on the first.
func (f *fixture) open(c *evaluator.Ciphertext, pieces []*KeyPiece, eta int64) int64 {
	f.t.Helper()
	bound := new(big.Int).Lsh(big.NewInt(1), uint(f.p.Set.SmudgeBits(len(pieces))))
	var shares []*big.Int
	for i, piece := range pieces {
		e, _ := rand.Int(rand.Reader, new(big.Int).Lsh(bound, 1))
		e.Sub(e, bound)
		n := new(big.Int)
		if i == 0 {
			n.SetInt64(eta)
		}
		h, err := NewOpener(piece).Share(c, n, e)
		if err != nil {
			f.t.Fatal(err)
		}
		again, err := f.p.ParseShare(f.p.EncodeShare(h))
		if err != nil {
			f.t.Fatal(err)
		}
		shares = append(shares, again)
	}
	return f.p.Combine(c, shares)
}

func sets() []string { return []string{"bgv13-t36", "bgv14-t50", "bgv14-t58"} }

func TestRowsSumsAndProductsOpenExactly(t *testing.T) {
	for _, name := range sets() {
		for _, rows := range []int{1, 1000, 16384, 3*16384 + 5} {
			t.Run(fmt.Sprintf("%s/%d", name, rows), func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, name, enclave.Rows)
				rng := mrand.New(mrand.NewPCG(1, uint64(rows)))
				one, a, b, x := make([]int64, rows), make([]int64, rows), make([]int64, rows), make([]int64, rows)
				var sumX, sumA, sumAX, sumABX int64
				for i := range rows {
					one[i], x[i] = 1, rng.Int64N(2001)-1000
					switch rng.IntN(3) {
					case 0:
						a[i] = 1
					case 1:
						b[i] = 1
					}
					sumX += x[i]
					sumA += a[i]
					sumAX += a[i] * x[i]
					sumABX += (a[i] + b[i]) * x[i]
				}
				va, vb, vx := f.seal("a", a), f.seal("b", b), f.seal("x", x)
				terms := []enclave.Term{{A: []int{vx}}, {A: []int{va}}, {A: []int{va}, B: []int{vx}}, {A: []int{va, vb}, B: []int{vx}}}
				cts := f.evaluate(terms, 2)
				pieces, err := f.key.Split(3)
				if err != nil {
					t.Fatal(err)
				}
				for i, want := range []int64{sumX, sumA, sumAX, sumABX} {
					if got := f.open(&cts[i], pieces, -7); got != want-7 {
						t.Errorf("term %d opened as %d, want %d", i, got, want-7)
					}
				}
				for i, c := range f.evaluate(terms, 1) {
					if c.Digest != cts[i].Digest {
						t.Errorf("term %d has another digest with another number of workers", i)
					}
				}
			})
		}
	}
}

func TestCubeOpensAnySetOfCells(t *testing.T) {
	for _, name := range sets() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, name, enclave.Cube)
			rng := mrand.New(mrand.NewPCG(2, 2))
			cells := make([]int64, f.p.N()+100)
			for i := range cells {
				cells[i] = rng.Int64N(1<<20) - 1<<19
			}
			v := f.seal("n", cells)
			pieces, err := f.key.Split(10)
			if err != nil {
				t.Fatal(err)
			}
			all := make([]int64, len(cells))
			for i := range all {
				all[i] = int64(i)
			}
			for _, set := range [][]int64{{0}, {1}, {int64(f.p.N() - 1), int64(f.p.N())}, all, all[5:77]} {
				cts := f.evaluate([]enclave.Term{{Vector: v, Cells: set}}, 1)
				var want int64
				for _, k := range set {
					want += cells[k]
				}
				if got := f.open(&cts[0], pieces, 3); got != want+3 {
					t.Errorf("sum of %d cells opened as %d, want %d", len(set), got, want+3)
				}
			}
		})
	}
}

// The definition of an opening, against Lattigo's polynomial arithmetic: the constant coefficient of c0 + c1·s.
func TestCubeShareIsTheInnerProductOfTheShiftedCiphertext(t *testing.T) {
	f := newFixture(t, "bgv13-t36", enclave.Cube)
	v := f.seal("n", []int64{5, 6, 7, 8})
	set := []int64{1, 3}
	c := f.evaluate([]enclave.Term{{Vector: v, Cells: set}}, 1)[0]
	pieces, err := f.key.Split(2)
	if err != nil {
		t.Fatal(err)
	}
	p := f.p
	mono := make([]uint64, p.Words()) // Σ X^{−k} = −Σ X^{N−k}
	for _, k := range set {
		for l, q := range p.q {
			mono[l*p.n+p.n-int(k)] = q - 1
		}
	}
	p.ringQ.NTT(p.poly(mono), p.poly(mono))
	c1 := make([]uint64, p.Words())
	p.Expand(c.Source.Seed, 0, c1)
	p.ringQ.MulCoeffsBarrett(p.poly(c1), p.poly(mono), p.poly(c1))
	want := make([]uint64, p.l)
	p.inner(c1, pieces[0].s1, want)
	got, err := NewOpener(pieces[0]).Share(&c, new(big.Int), new(big.Int))
	if err != nil {
		t.Fatal(err)
	}
	if got.Cmp(p.compose(want)) != 0 {
		t.Error("the sum of coefficients of c1·s differs from the constant coefficient of c1·ΣX^-k·s")
	}
}

func TestFewerPiecesOpenNothing(t *testing.T) {
	f := newFixture(t, "bgv14-t50", enclave.Rows)
	v := f.seal("x", []int64{41, 1})
	c := f.evaluate([]enclave.Term{{A: []int{v}}}, 1)[0]
	hits := 0
	for range 8 {
		pieces, err := f.key.Split(3)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.open(&c, pieces, 0); got != 42 {
			t.Fatalf("all pieces open %d, want 42", got)
		}
		for skip := range pieces {
			part := append(append([]*KeyPiece(nil), pieces[:skip]...), pieces[skip+1:]...)
			if got := f.open(&c, part, 0); got > -1<<30 && got < 1<<30 {
				hits++
			}
		}
	}
	if hits > 1 { // a uniform value mod 2^50 lands within ±2^30 with probability 2^-19
		t.Errorf("%d of 24 openings without one piece came near the true value", hits)
	}
}

// The largest circuit must stay below the noise bound that the smudging and the opening cap are computed from. Slots
// that are all at the extreme make a plaintext polynomial with one huge coefficient, random slots one with all large.
func TestNoiseOfTheLargestCircuit(t *testing.T) {
	for _, name := range sets() {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, name, enclave.Rows)
			rows := 8 * f.p.N() // the noise grows with the root of the rows: 2^22 rows add this many half bits
			rng := mrand.New(mrand.NewPCG(3, 3))
			a, x := make([]int64, rows), make([]int64, rows)
			for i := range rows {
				a[i], x[i] = rng.Int64N(2), rng.Int64N(1<<12)-1<<11
			}
			va, vx := f.seal("a", a), f.seal("x", x)
			c := f.evaluate([]enclave.Term{{A: []int{va}, B: []int{vx}}}, 2)[0]
			phase, err := f.key.Phase(&c)
			if err != nil {
				t.Fatal(err)
			}
			noise := phase.BitLen() - f.p.bigT.BitLen()
			growth := (22 - bitsOf(rows) + 1) / 2
			t.Logf("%s: %d rows 2^%d, at 2^22 rows about 2^%d, bound 2^%d, smudging 2^%d, %d openings", name, rows, noise, noise+growth,
				f.p.Set.NoiseBits, f.p.Set.SmudgeBits(3), f.p.Set.OpeningCap(3))
			if noise+growth+4 > f.p.Set.NoiseBits {
				t.Errorf("noise 2^%d at %d rows leaves less than 4 bits to the bound 2^%d at 2^22 rows", noise, rows, f.p.Set.NoiseBits)
			}
		})
	}
}

func bitsOf(n int) int { return big.NewInt(int64(n)).BitLen() - 1 }

func TestKeysRoundTripAndRefuse(t *testing.T) {
	f := newFixture(t, "bgv13-t36", enclave.Rows)
	data := f.key.MarshalBinary()
	k, err := ParseSecretKey(f.p, data)
	if err != nil || !bytes.Equal(k.MarshalBinary(), data) {
		t.Fatalf("secret key does not round-trip: %v", err)
	}
	pieces, err := f.key.Split(3)
	if err != nil {
		t.Fatal(err)
	}
	pd := pieces[2].MarshalBinary()
	piece, err := ParseKeyPiece(f.p, pd)
	if err != nil || !bytes.Equal(piece.MarshalBinary(), pd) {
		t.Fatalf("key piece does not round-trip: %v", err)
	}
	unreduced := bytes.Clone(pd)
	copy(unreduced[len(pieceMagic):], bytes.Repeat([]byte{0xff}, 8))
	for what, bad := range map[string][]byte{"truncated": pd[:len(pd)-1], "longer": append(bytes.Clone(pd), 0), "other magic": data, "unreduced": unreduced, "empty": nil} {
		if _, err := ParseKeyPiece(f.p, bad); err == nil {
			t.Errorf("%s key piece was accepted", what)
		}
	}
	if s := fmt.Sprintf("%v %+v %s", pieces[0], pieces[0], f.key); s != "[key piece] [key piece] [secret key]" {
		t.Errorf("keys print as %q", s)
	}
	if _, err := f.key.Split(1); err == nil {
		t.Error("a key was split into one piece")
	}
	piece.Erase()
	if piece.s1[0]|piece.s1[f.p.n-1]|piece.s2[7] != 0 {
		t.Error("an erased piece still has residues")
	}
}

func TestSealRefusesValuesBeyondThePlaintext(t *testing.T) {
	f := newFixture(t, "bgv13-t36", enclave.Rows)
	s, err := NewSealer(f.key, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]uint64, f.p.Words())
	if err := s.Slots(0, []int64{0, 1 << 36}, out); err == nil {
		t.Error("a value above t/2 was sealed")
	}
	if err := s.Slots(0, make([]int64, f.p.N()+1), out); err == nil {
		t.Error("more values than slots were sealed")
	}
}

func TestBlobMatchesOnlyItsOwnManifestEntry(t *testing.T) {
	f := newFixture(t, "bgv13-t36", enclave.Rows)
	v := f.layout.Vectors[f.seal("x", []int64{1})]
	b, err := f.Blob(v.Blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Matches(enclave.Digest{}, "bgv13-t36", enclave.Rows, v); err != nil {
		t.Error(err)
	}
	other := v
	other.Name = "y"
	if err := b.Matches(enclave.Digest{}, "bgv13-t36", enclave.Rows, other); !errors.Is(err, enclave.ErrBlob) {
		t.Errorf("a swapped vector gives %v", err)
	}
	if err := b.Matches(enclave.Digest{1}, "bgv13-t36", enclave.Rows, v); !errors.Is(err, enclave.ErrBlob) {
		t.Errorf("another keyset gives %v", err)
	}
	if err := b.CheckReduced(); err != nil {
		t.Error(err)
	}
	bad := bytes.Clone(f.raw[v.Blob])
	copy(bad[evaluator.BlobHeaderBytes+40:], bytes.Repeat([]byte{0xff}, 8))
	if b, err = evaluator.ParseBlob(bad); err != nil {
		t.Fatal(err)
	}
	if err := b.CheckReduced(); !errors.Is(err, evaluator.ErrBlobFormat) {
		t.Errorf("an unreduced residue gives %v", err)
	}
}

func FuzzParseBlob(f *testing.F) {
	fx := newFixture(f, "bgv13-t36", enclave.Cube)
	d := fx.layout.Vectors[fx.seal("n", []int64{1, 2})].Blob
	f.Add(fx.raw[d][:evaluator.BlobHeaderBytes])
	f.Add(fx.raw[d][:evaluator.BlobHeaderBytes+100])
	f.Add([]byte("YZBLOB01"))
	payload := fx.raw[d][evaluator.BlobHeaderBytes:]
	f.Fuzz(func(t *testing.T, head []byte) {
		if len(head) > evaluator.BlobHeaderBytes {
			head = head[:evaluator.BlobHeaderBytes]
		}
		data := append(bytes.Clone(head), payload...)
		b, err := evaluator.ParseBlob(data)
		if err != nil {
			return
		}
		page, err := b.Header.Encode()
		if err != nil || !bytes.Equal(page, data[:evaluator.BlobHeaderBytes]) {
			t.Errorf("accepted header does not encode to itself: %v", err)
		}
	})
}

// Expanding to a file gives what expanding to memory gives; io.OffsetWriter would do for any WriterAt.
func TestExpandToFile(t *testing.T) {
	f := newFixture(t, "bgv13-t36", enclave.Rows)
	v := f.layout.Vectors[f.seal("x", make([]int64, 20*f.p.N()))]
	b, err := f.Blob(v.Blob)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "panel"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := b.Expand(file); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := make(memory, f.p.PanelBytes(b.Chunks))
	if err := b.Expand(want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("panel in a file differs from the panel in memory")
	}
	if err := b.Expand(failing{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a full disk gives %v", err)
	}
}

type failing struct{}

func (failing) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }

func sum(b []byte) [32]byte { return sha256.Sum256(b) }
