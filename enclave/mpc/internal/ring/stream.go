package ring

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/bits"
	"unsafe"
)

// Key is an AES-128 key from which streams are made.
type Key struct {
	block    cipher.Block
	schedule schedule
}

const rounds = 10 // of AES-128

// schedule has each round key twice, as a register of 256 bits holds it.
type schedule [rounds + 1][4]uint64

// NewKey takes 16 bytes.
func NewKey(key []byte) (*Key, error) {
	if len(key) != 16 {
		return nil, fmt.Errorf("making a key of streams: it has %d bytes, not 16", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making a key of streams: %w", err)
	}
	k := &Key{block: block}
	for r, w := range expand([16]byte(key)) {
		lo, hi := uint64(w[0])|uint64(w[1])<<32, uint64(w[2])|uint64(w[3])<<32
		k.schedule[r] = [4]uint64{lo, hi, lo, hi}
	}
	return k, nil
}

// Stream is a pseudo-random sequence of words: AES in counter mode (NIST SP 800-38A, section 6.5). A word is eight bytes of
// the key stream as they lie in memory.
type Stream struct {
	key   *Key
	nonce [8]byte
	next  uint64 // block
	rest  uint64 // second word of the block before it, if half
	half  bool
}

// Stream begins the sequence whose counter blocks are the nonce and a number from 0, big-endian.
func (k *Key) Stream(nonce [8]byte) *Stream { return &Stream{key: k, nonce: nonce} }

// batch is how many words of streams are made at once: 16 blocks.
const batch = 32

// Fill writes the next words.
func (s *Stream) Fill(words []uint64) {
	if s.half && len(words) > 0 {
		words[0] = s.rest
		s.half = false
		words = words[1:]
	}
	whole := len(words) / batch * batch
	s.blocks(words[:whole])
	words = words[whole:]
	if len(words) == 0 {
		return
	}
	var last [batch]uint64
	at := s.next
	s.blocks(last[:])
	copy(words, last[:])
	s.next = at + uint64(len(words)+1)/2
	s.half = len(words)%2 == 1
	s.rest = last[len(words)]
}

// blocks writes whole batches.
func (s *Stream) blocks(words []uint64) {
	if len(words) == 0 {
		return
	}
	keystream(words, s.key, s.nonce, s.next)
	s.next += uint64(len(words) / 2)
}

func keystreamGo(words []uint64, key *Key, nonce [8]byte, block uint64) {
	iv := [aes.BlockSize]byte(binary.BigEndian.AppendUint64(nonce[:], block))
	clear(words)
	b := Bytes(words)
	cipher.NewCTR(key.block, iv[:]).XORKeyStream(b, b)
}

// Bytes is the memory of words.
func Bytes(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

// expand makes the round keys (FIPS 197, section 5.2), words little-endian as the instructions of processors take them.
func expand(key [16]byte) (w [rounds + 1][4]uint32) {
	for i := range w[0] {
		w[0][i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	constant := byte(1)
	for r := 1; r <= rounds; r++ {
		var word uint32
		for i := range 4 {
			word |= uint32(substitute(byte(w[r-1][3]>>(8*i)))) << (8 * i)
		}
		word = bits.RotateLeft32(word, -8) ^ uint32(constant)
		for i := range w[r] {
			word ^= w[r-1][i]
			w[r][i] = word
		}
		constant = double(constant)
	}
	return w
}

// substitute is the S-box (FIPS 197, section 5.1.1), computed and not looked up: where a table is read would show which
// keys there are to who watches the cache.
func substitute(x byte) byte {
	inverse := byte(1) // x^254
	for range 7 {
		x = multiply(x, x)
		inverse = multiply(inverse, x)
	}
	y := inverse
	for i := 1; i <= 4; i++ {
		y ^= bits.RotateLeft8(inverse, i)
	}
	return y ^ 0x63
}

// multiply is the product in GF(2^8) (FIPS 197, section 4.3).
func multiply(x, y byte) (z byte) {
	for i := range 8 {
		z ^= x & -(y >> i & 1)
		x = double(x)
	}
	return z
}

func double(x byte) byte { return x<<1 ^ 0x1b&-(x>>7) }
