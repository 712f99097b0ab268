package evaluator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// Sealed blob: the stored half of one vector's ciphertexts (docs/FORMATS.md, "Sealed blobs").
//
//	offset 0     "YZBLOB01"
//	8            length of the header, uint32 little-endian
//	12           header, canonical JSON
//	4096         c0 of chunk 0, 1, …: for each prime N residues, uint64 little-endian
//
// Rows store c0 in the NTT domain, cubes in the coefficient domain. c1 follows from the seed.
const (
	blobMagic = "YZBLOB01"
	// BlobHeaderBytes is where the payload starts; a page, so that a mapped payload is aligned.
	BlobHeaderBytes = 4096
)

// BlobHeader says what a blob seals. Custodians compare it with the manifest's entry, so that blobs cannot be swapped.
type BlobHeader struct {
	Kind   string         `json:"kind"` // blobKind
	Keyset enclave.Digest `json:"keyset"`
	Params string         `json:"params"`
	Layout string         `json:"layout"` // enclave.Cube or enclave.Rows
	Name   string         `json:"name"`   // vector's name
	Seed   []byte         `json:"seed"`   // 32 bytes
}

const blobKind = "yingzhou.blob.v1"

// NewBlobHeader fills a header for a vector.
func NewBlobHeader(keyset enclave.Digest, params, layout, name string, seed [32]byte) BlobHeader {
	return BlobHeader{Kind: blobKind, Keyset: keyset, Params: params, Layout: layout, Name: name, Seed: seed[:]}
}

// Encode writes the header page.
func (h BlobHeader) Encode() ([]byte, error) {
	body, err := canon.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(blobMagic)+4+len(body) > BlobHeaderBytes {
		return nil, fmt.Errorf("blob header of vector %q has %d bytes, more than a page", h.Name, len(body))
	}
	page := make([]byte, BlobHeaderBytes)
	copy(page, blobMagic)
	binary.LittleEndian.PutUint32(page[8:], uint32(len(body)))
	copy(page[12:], body)
	return page, nil
}

// Blob is a sealed blob in memory, usually mapped. It does not own the bytes.
type Blob struct {
	Header BlobHeader
	Params *Params
	Seed   [32]byte
	Chunks int64
	c0     []uint64
}

var errResidue = errors.New("a residue is not reduced")

// ErrBlobFormat is wrapped by ParseBlob for bytes that are not a sealed blob.
var ErrBlobFormat = errors.New("not a sealed blob")

// ParseBlob reads a blob strictly: the header page must be what Encode writes and the payload whole ciphertexts.
// Residues are not scanned here; CheckReduced does, once, when a node takes a blob in.
func ParseBlob(data []byte) (*Blob, error) {
	if len(data) < BlobHeaderBytes || !bytes.HasPrefix(data, []byte(blobMagic)) {
		return nil, fmt.Errorf("%w: no %s header page", ErrBlobFormat, blobMagic)
	}
	n := binary.LittleEndian.Uint32(data[8:])
	if n > BlobHeaderBytes-12 {
		return nil, fmt.Errorf("%w: header of %d bytes", ErrBlobFormat, n)
	}
	b := &Blob{}
	if err := canon.Unmarshal(data[12:12+n], &b.Header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBlobFormat, err)
	}
	page, err := b.Header.Encode()
	if err != nil || !bytes.Equal(page, data[:BlobHeaderBytes]) {
		return nil, fmt.Errorf("%w: header page has bytes after the header", ErrBlobFormat)
	}
	if b.Header.Kind != blobKind || len(b.Header.Seed) != 32 || (b.Header.Layout != enclave.Cube && b.Header.Layout != enclave.Rows) {
		return nil, fmt.Errorf("%w: header names kind %q, layout %q, a seed of %d bytes", ErrBlobFormat, b.Header.Kind, b.Header.Layout, len(b.Header.Seed))
	}
	copy(b.Seed[:], b.Header.Seed)
	if b.Params, err = Compile(b.Header.Params); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBlobFormat, err)
	}
	payload := data[BlobHeaderBytes:]
	size := b.Params.ChunkBytes()
	if len(payload) == 0 || int64(len(payload))%size != 0 {
		return nil, fmt.Errorf("%w: payload of %d bytes is not whole ciphertexts of %d (truncated?)", ErrBlobFormat, len(payload), size)
	}
	b.Chunks = int64(len(payload)) / size
	b.c0 = wordsOf(payload)
	return b, nil
}

// CheckReduced verifies that every residue is below its prime; everything later relies on it.
func (b *Blob) CheckReduced() error {
	p := b.Params
	for i, w := range b.c0 {
		if w >= p.q[i/p.n%p.l] {
			return fmt.Errorf("%w: vector %q, ciphertext %d: %w", ErrBlobFormat, b.Header.Name, i/p.Words(), errResidue)
		}
	}
	return nil
}

func (b *Blob) chunk(i int64) []uint64 {
	w := int64(b.Params.Words())
	return b.c0[i*w : (i+1)*w]
}

// WriteChunk appends a chunk's c0 to a blob being written.
func WriteChunk(w io.Writer, c0 []uint64) error {
	_, err := w.Write(bytesOf(c0))
	return err
}

// wordsOf views bytes as words. Little-endian hosts only (the supported targets are); mapped payloads are
// aligned because the header is a page, and an unaligned slice is copied.
func wordsOf(b []byte) []uint64 {
	if len(b) == 0 {
		return nil
	}
	if uintptr(unsafe.Pointer(&b[0]))%8 != 0 {
		b = append(make([]byte, 0, len(b)), b...)
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), len(b)/8)
}

func bytesOf(w []uint64) []byte {
	if len(w) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), len(w)*8)
}

// Matches checks that a blob is the one a manifest names.
func (b *Blob) Matches(keyset enclave.Digest, params, layout string, v enclave.Vector) error {
	h := b.Header
	if h.Keyset != keyset || h.Params != params || h.Layout != layout || h.Name != v.Name || b.Chunks != v.Chunks {
		return fmt.Errorf("%w: header says vector %q of layout %q under keyset %s with %d ciphertexts, the manifest vector %q of %q under %s with %d",
			enclave.ErrBlob, h.Name, h.Layout, h.Keyset.Short(), b.Chunks, v.Name, layout, keyset.Short(), v.Chunks)
	}
	return nil
}
