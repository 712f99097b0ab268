package evaluator

import (
	"fmt"
	"io"
)

// Tile is the number of residues that the kernel works on at a time: with six accumulators of 2 KiB, and panels read
// in sequence, everything but the stream of indicators stays in the L1 and L2 caches.
const Tile = 256

// Panel is a rows vector with both halves of its ciphertexts, laid out tile-major so that the kernel streams it:
//
//	[prime][N/Tile][chunk][c0, c1][Tile]
//
// It is derived from a blob once, when a node takes the blob in, and mapped read-only afterwards.
type Panel struct {
	p      *Params
	chunks int64
	w      []uint64
}

// OpenPanel views the bytes of an expanded panel.
func OpenPanel(p *Params, data []byte) (*Panel, error) {
	unit := p.PanelBytes(1)
	if len(data) == 0 || int64(len(data))%unit != 0 {
		return nil, fmt.Errorf("panel of %d bytes is not whole ciphertexts of %d", len(data), unit)
	}
	return &Panel{p: p, chunks: int64(len(data)) / unit, w: wordsOf(data)}, nil
}

// tile returns the chunks of one tile of one prime: chunks·2·Tile words.
func (v *Panel) tile(limb, tile int) []uint64 {
	size := int(v.chunks) * 2 * Tile
	at := (limb*(v.p.n/Tile) + tile) * size
	return v.w[at : at+size : at+size]
}

// expandBatch is how many chunks are gathered before a write; it bounds memory to expandBatch·2 ciphertext halves.
const expandBatch = 8

// Expand writes the panel of a rows blob to w at its final offsets, in memory independent of the row count.
func (b *Blob) Expand(w io.WriterAt) error {
	p := b.Params
	c1 := make([]uint64, expandBatch*p.Words())
	run := make([]uint64, expandBatch*2*Tile)
	for from := int64(0); from < b.Chunks; from += expandBatch {
		n := min(expandBatch, b.Chunks-from)
		for k := range n {
			p.Expand(b.Seed, from+k, c1[int(k)*p.Words():][:p.Words()])
		}
		for limb := range p.l {
			for tile := range p.n / Tile {
				at := limb*p.n + tile*Tile
				for k := range n {
					dst := run[int(k)*2*Tile:]
					copy(dst[:Tile], b.chunk(from + k)[at:])
					copy(dst[Tile:2*Tile], c1[int(k)*p.Words()+at:][:Tile])
				}
				offset := (int64(limb*(p.n/Tile)+tile)*b.Chunks + from) * 2 * Tile * 8
				if _, err := w.WriteAt(bytesOf(run[:int(n)*2*Tile]), offset); err != nil {
					return fmt.Errorf("expanding vector %q: %w", b.Header.Name, err)
				}
			}
		}
	}
	return nil
}
