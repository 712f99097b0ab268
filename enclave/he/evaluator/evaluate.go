package evaluator

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"

	"yingzhou.dev/lab/enclave/he/internal/modq"
)

// Inputs gives the evaluator its mapped vectors. Both functions are called once per vector and concurrently never.
type Inputs interface {
	Blob(d enclave.Digest) (*Blob, error)   // cube vectors
	Panel(d enclave.Digest) (*Panel, error) // rows vectors
}

// Ciphertext is the result of one term, ready to be opened at one coefficient: an LWE sample (b, a) under s, and under
// s² where a product was taken.
type Ciphertext struct {
	// B holds the residues of the constant coefficient of c0.
	B []uint64
	// A1, A2 are c1 and c2 in the NTT domain (rows). A2 is nil for sums.
	A1, A2 []uint64
	// Source and Cells describe c1 of a cube term: Σ_{k∈Cells} X^{−k}·c1 of the source's chunks. It is never computed:
	// its inner product with s_p is a sum of coefficients of c1·s_p.
	Source *Blob
	Cells  []int64
	// Digest commits to all of it. Residues are fully reduced, so equal ciphertexts have equal digests.
	Digest enclave.Digest
}

// Evaluate computes every term of a plan. Results are deterministic to the bit, whatever the number of workers, so
// anyone who has the blobs can run it again and compare digests. progress gets a fraction of 1, from one goroutine at a
// time; it may be nil.
func Evaluate(ctx context.Context, p *Params, layout *enclave.Layout, terms []enclave.Term, in Inputs, workers int, progress func(float64)) ([]Ciphertext, error) {
	if progress == nil {
		progress = func(float64) {}
	}
	if layout.Kind == enclave.Cube {
		return evaluateCube(ctx, p, layout, terms, in, progress)
	}
	return evaluateRows(ctx, p, layout, terms, in, workers, progress)
}

// OutputDigest is what a Receipt carries: over the digests of all results in the plan's order.
func OutputDigest(cts []Ciphertext) enclave.Digest {
	h := sha256.New()
	h.Write([]byte("yingzhou output\x00"))
	for i := range cts {
		h.Write(cts[i].Digest[:])
	}
	return enclave.Digest(h.Sum(nil))
}

func evaluateCube(ctx context.Context, p *Params, layout *enclave.Layout, terms []enclave.Term, in Inputs, progress func(float64)) ([]Ciphertext, error) {
	blobs := make([]*Blob, len(layout.Vectors))
	out := make([]Ciphertext, len(terms))
	for i, t := range terms {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v := layout.Vectors[t.Vector]
		b := blobs[t.Vector]
		if b == nil {
			var err error
			if b, err = in.Blob(v.Blob); err != nil {
				return nil, fmt.Errorf("evaluating over vector %q: %w", v.Name, err)
			}
			if b.Params != p || b.Header.Layout != enclave.Cube || b.Chunks != v.Chunks {
				return nil, fmt.Errorf("evaluating over vector %q: %w: header does not match the manifest", v.Name, enclave.ErrBlob)
			}
			blobs[t.Vector] = b
		}
		if last := t.Cells[len(t.Cells)-1]; last >= b.Chunks*int64(p.n) {
			return nil, fmt.Errorf("evaluating over vector %q: cell %d is beyond its %d ciphertexts", v.Name, last, b.Chunks)
		}
		out[i] = Ciphertext{B: p.sumCells(b, t.Cells), Source: b, Cells: t.Cells}
		out[i].Digest = p.cubeDigest(&out[i], v.Blob)
		progress(float64(i+1) / float64(len(terms)))
	}
	return out, nil
}

// sumCells adds up coefficients of c0: the constant coefficient of c0·Σ X^{−k}.
func (p *Params) sumCells(b *Blob, cells []int64) []uint64 {
	sum := make([]uint64, p.l)
	for _, k := range cells {
		c0 := b.chunk(k / int64(p.n))
		at := int(k % int64(p.n))
		for i, q := range p.q {
			sum[i] = modq.Add(sum[i], c0[i*p.n+at], q)
		}
	}
	return sum
}

func (p *Params) cubeDigest(c *Ciphertext, blob enclave.Digest) enclave.Digest {
	h := sha256.New()
	h.Write([]byte("yingzhou cube ciphertext\x00" + p.Set.Name + "\x00"))
	h.Write(bytesOf(c.B))
	h.Write(blob[:])
	for _, r := range enclave.Runs(c.Cells) {
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], uint64(r.From))
		binary.LittleEndian.PutUint64(b[8:], uint64(r.Count))
		h.Write(b[:])
	}
	return enclave.Digest(h.Sum(nil))
}

func evaluateRows(ctx context.Context, p *Params, layout *enclave.Layout, terms []enclave.Term, in Inputs, workers int, progress func(float64)) ([]Ciphertext, error) {
	panels := make([]*Panel, len(layout.Vectors))
	out := make([]Ciphertext, len(terms))
	for i, t := range terms {
		for _, v := range append(slices.Clone(t.A), t.B...) {
			if panels[v] != nil {
				continue
			}
			vec := layout.Vectors[v]
			panel, err := in.Panel(vec.Blob)
			if err != nil {
				return nil, fmt.Errorf("evaluating over vector %q: %w", vec.Name, err)
			}
			if panel.p != p || panel.chunks != vec.Chunks {
				return nil, fmt.Errorf("evaluating over vector %q: %w: panel does not match the manifest", vec.Name, enclave.ErrBlob)
			}
			panels[v] = panel
		}
		out[i].A1 = make([]uint64, p.Words())
		if t.B != nil {
			out[i].A2 = make([]uint64, p.Words())
		}
	}
	constant := make([][]uint64, len(terms)) // c0 per term, kept only to add up its slots
	for i := range constant {
		constant[i] = make([]uint64, p.l*p.n/Tile)
	}
	tiles := p.l * (p.n / Tile)
	workers = max(1, min(workers, tiles))
	done := make(chan struct{}, tiles)
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error {
			e := rowsWorker{p: p, panels: panels, terms: terms, out: out, constant: constant}
			for at := w; at < tiles; at += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				e.tile(at/(p.n/Tile), at%(p.n/Tile))
				done <- struct{}{}
			}
			return nil
		})
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		n := 0
		for range done {
			n++
			progress(float64(n) / float64(tiles))
		}
	}()
	err := g.Wait()
	close(done)
	<-finished
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].B = make([]uint64, p.l)
		for l, q := range p.q {
			var sum uint64
			for _, v := range constant[i][l*(p.n/Tile) : (l+1)*(p.n/Tile)] {
				sum = modq.Add(sum, v, q)
			}
			out[i].B[l] = modq.Mul(sum, p.nInvQ[l], q) // Σ of NTT values = N · constant coefficient
		}
		out[i].Digest = p.rowsDigest(&out[i])
	}
	return out, nil
}

func (p *Params) rowsDigest(c *Ciphertext) enclave.Digest {
	h := sha256.New()
	h.Write([]byte("yingzhou rows ciphertext\x00" + p.Set.Name + "\x00"))
	h.Write(bytesOf(c.B))
	h.Write(bytesOf(c.A1))
	h.Write(bytesOf(c.A2))
	return enclave.Digest(h.Sum(nil))
}

// rowsWorker computes tiles; every tile of every term is written by exactly one worker.
type rowsWorker struct {
	p        *Params
	panels   []*Panel
	terms    []enclave.Term
	out      []Ciphertext
	constant [][]uint64
	a, b     []uint64 // sums of several vectors' tiles
	acc      product
	d0       [Tile]uint64
}

func (e *rowsWorker) tile(limb, tile int) {
	p := e.p
	q := p.q[limb]
	at := limb*p.n + tile*Tile
	var lastB []int
	var b []uint64
	for i := range e.terms {
		t := &e.terms[i]
		a := e.sum(t.A, &e.a, limb, tile)
		d1 := e.out[i].A1[at : at+Tile]
		if t.B == nil {
			sumTile(a, q, e.d0[:], d1)
		} else {
			if b == nil || !slices.Equal(lastB, t.B) { // terms of one measure share their second factor
				b, lastB = e.sum(t.B, &e.b, limb, tile), t.B
			}
			e.acc = product{}
			e.acc.add(a, b, q, p.fold)
			e.acc.finish(q, p.tModQ[limb], e.d0[:], d1, e.out[i].A2[at:at+Tile])
		}
		var sum uint64
		for _, v := range e.d0 {
			sum = modq.Add(sum, v, q)
		}
		e.constant[i][limb*(p.n/Tile)+tile] = sum
	}
}

// sum adds up the tiles of several vectors; one vector is used in place.
func (e *rowsWorker) sum(vectors []int, scratch *[]uint64, limb, tile int) []uint64 {
	first := e.panels[vectors[0]].tile(limb, tile)
	if len(vectors) == 1 {
		return first
	}
	if len(*scratch) < len(first) {
		*scratch = make([]uint64, len(first))
	}
	s := (*scratch)[:len(first)]
	copy(s, first)
	for _, v := range vectors[1:] {
		addTiles(s, e.panels[v].tile(limb, tile), e.p.q[limb])
	}
	return s
}
