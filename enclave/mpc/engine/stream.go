package engine

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"
	"unsafe"
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
	clear(words)
	s.xor(words)
}

// xor adds the next words to words.
func (s *stream) xor(words []uint64) {
	b := view(words)
	s.ctr.XORKeyStream(b, b)
}

// view is the memory of words. Where nodes must agree on it they are little-endian: newParty makes sure.
func view(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

// digest sums up all words that went one way over a connection, at each end. Blocks of a frame at most are compressed by
// NH (Black, Halevi, Krawczyk, Krovetz and Rogaway, "UMAC", CRYPTO 1999) with 64-bit words under a key that the two nodes
// share, so that two different blocks collide with probability 2^-64; SHA-256 chains the results. It is several times as
// fast as SHA-256 alone, and serves a comparison between two nodes that both know the key, not a proof to anyone.
type digest struct{ h hash.Hash }

func newDigest() *digest { return &digest{sha256.New()} }

func (d *digest) add(key, words []uint64) {
	var block [24]byte
	hi, lo := nh(key, words)
	binary.LittleEndian.PutUint64(block[:], lo)
	binary.LittleEndian.PutUint64(block[8:], hi)
	binary.LittleEndian.PutUint64(block[16:], uint64(len(words)))
	d.h.Write(block[:])
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

// nh is Σ (m₂ᵢ+k₂ᵢ)·(m₂ᵢ₊₁+k₂ᵢ₊₁) mod 2^128. A last odd word is paired with zero.
func nh(key, words []uint64) (hi, lo uint64) {
	key = key[:len(words)]
	i := 0
	var carry uint64
	for ; i+1 < len(words); i += 2 {
		h, l := bits.Mul64(words[i]+key[i], words[i+1]+key[i+1])
		lo, carry = bits.Add64(lo, l, 0)
		hi += h + carry
	}
	if i < len(words) {
		h, l := bits.Mul64(words[i]+key[i], key[0]^0x9E3779B97F4A7C15)
		lo, carry = bits.Add64(lo, l, 0)
		hi += h + carry
	}
	return hi, lo
}
