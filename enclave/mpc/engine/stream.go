package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"yingzhou.dev/lab/enclave/mpc/internal/ring"
)

// stream begins the current message's sequence of pseudo-random words shared with one peer: the message's number leads its
// counter blocks. A second purpose within a message needs another lane.
func (p *party) stream(d *direction, lane byte) *ring.Stream {
	var nonce [8]byte
	binary.BigEndian.PutUint32(nonce[:], p.message)
	nonce[4] = lane
	return d.key.Stream(nonce)
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
