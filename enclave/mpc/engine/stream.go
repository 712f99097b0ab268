package engine

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"unsafe"

	"yingzhou.dev/lab/enclave/mpc/internal/ring"
)

// stream is a pseudo-random sequence of words that two nodes draw alike: AES-128 in counter mode, the message's number in
// the upper half of the first counter block.
type stream struct{ ctr cipher.Stream }

// stream begins the current message's sequence shared with one peer. A second purpose within a message needs another lane.
func (p *party) stream(d *direction, lane byte) *stream {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint32(iv[:], p.message)
	iv[4] = lane
	return &stream{cipher.NewCTR(d.key, iv[:])}
}

// fill writes the next words.
func (s *stream) fill(words []uint64) {
	for len(words) > 0 {
		n := min(len(words), len(zeros))
		s.ctr.XORKeyStream(view(words[:n]), view(zeros[:n]))
		words = words[n:]
	}
}

// zeros are read only: a stream is XORed to something.
var zeros [chunk]uint64

// xor adds the next words to words.
func (s *stream) xor(words []uint64) {
	b := view(words)
	s.ctr.XORKeyStream(b, b)
}

// view is the memory of words. Where nodes must agree on it they are little-endian: newParty makes sure.
func view(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

// digest sums up all words that went one way over a connection, at each end. Blocks are compressed by NH (Black, Halevi,
// Krawczyk, Krovetz and Rogaway, "UMAC", CRYPTO 1999) with 64-bit words under a key that the two nodes share, so that two
// different blocks collide with probability 2^-64; SHA-256 chains the results. It is several times as fast as SHA-256
// alone, and serves a comparison between two nodes that both know the key, not a proof to anyone.
type digest struct{ h hash.Hash }

// digested is how many words a block has, so that it and the key stay in the first-level cache.
const digested = 1024

func newDigest() *digest { return &digest{sha256.New()} }

// add digests words of one frame.
func (d *digest) add(key, words []uint64) {
	var block [24]byte
	for len(words) > 0 {
		n := min(len(words), digested)
		hi, lo := ring.NH(key, words[:n])
		binary.LittleEndian.PutUint64(block[:], lo)
		binary.LittleEndian.PutUint64(block[8:], hi)
		binary.LittleEndian.PutUint64(block[16:], uint64(n))
		d.h.Write(block[:])
		words = words[n:]
	}
}

// sum is the digest so far.
func (d *digest) sum() [4]uint64 { return digestWords([32]byte(d.h.Sum(nil))) }

func digestWords(sum [32]byte) [4]uint64 {
	var out [4]uint64
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	return out
}
