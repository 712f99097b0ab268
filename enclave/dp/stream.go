package dp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"math/bits"
)

// Stream is a deterministic stream of pseudo-random bytes: the AES-256-CTR key stream with an all-zero first counter
// block (128 bits, big-endian increment) under the key
//
//	HMAC-SHA256(key, len(context_1) ‖ context_1 ‖ len(context_2) ‖ context_2 ‖ …)
//
// where each length is 8 bytes big-endian. Every method takes the next unread bytes and is defined by them alone, so the
// values drawn do not depend on how reads are grouped. Numbers are big-endian.
//
// A Stream is not safe for concurrent use.
type Stream struct {
	ctr cipher.Stream
	buf [256]byte
	at  int // next unread byte of buf
}

// NewStream derives the stream of a key for a context. The key is any secret of at least 128 bits of entropy; it is not
// kept, and NewStream panics if it is empty, because noise that anyone can draw protects nobody. Different lists of
// contexts give independent streams: the lengths make (“ab”), (“a”, “b”) and (“ab”, “”) differ.
func NewStream(key []byte, context ...[]byte) *Stream {
	if len(key) == 0 {
		panic("dp: NewStream needs a key")
	}
	mac := hmac.New(sha256.New, key)
	var length [8]byte
	for _, c := range context {
		binary.BigEndian.PutUint64(length[:], uint64(len(c)))
		mac.Write(length[:])
		mac.Write(c)
	}
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		panic("dp: HMAC-SHA256 makes a 32-byte key: " + err.Error())
	}
	s := &Stream{ctr: cipher.NewCTR(block, make([]byte, aes.BlockSize))}
	s.at = len(s.buf)
	return s
}

// Read fills p with the next len(p) bytes. It is an io.Reader that never ends and never fails.
func (s *Stream) Read(p []byte) (int, error) {
	n := copy(p, s.buf[s.at:])
	s.at += n
	if rest := p[n:]; len(rest) > 0 {
		clear(rest)
		s.ctr.XORKeyStream(rest, rest)
	}
	return len(p), nil
}

// Uint64 is the next 8 bytes.
func (s *Stream) Uint64() uint64 { return s.take(8) }

// Bool is the lowest bit of the next byte.
func (s *Stream) Bool() bool { return s.take(1)&1 == 1 }

// Below is uniform in [0, n) for n > 0: the next ⌈w/8⌉ bytes as a number whose bits from w up are cleared, w being the
// bit length of n−1, and the bytes after those while that number is not below n. Below(1) takes no byte. It panics unless
// n is positive.
func (s *Stream) Below(n *big.Int) *big.Int {
	if n.Sign() <= 0 {
		panic("dp: Below needs a positive bound")
	}
	if n.IsUint64() {
		return new(big.Int).SetUint64(s.below64(n.Uint64()))
	}
	x := new(big.Int).Sub(n, one)
	width := x.BitLen()
	buf := make([]byte, (width+7)/8)
	for {
		s.Read(buf)
		buf[0] &= 0xff >> (8*len(buf) - width)
		if x.SetBytes(buf).Cmp(n) < 0 {
			return x
		}
	}
}

// below64 is Below for 0 < n < 2^64.
func (s *Stream) below64(n uint64) uint64 {
	width := bits.Len64(n - 1)
	mask := ^uint64(0) >> (64 - width)
	for {
		if x := s.take((width+7)/8) & mask; x < n {
			return x
		}
	}
}

// Symmetric is uniform in (−bound, bound) for bound > 0: Below(2·bound − 1) − (bound − 1). This is the smudging noise
// that hides a key piece in an opened share.
func (s *Stream) Symmetric(bound *big.Int) *big.Int {
	width := new(big.Int).Lsh(bound, 1)
	x := s.Below(width.Sub(width, one))
	return x.Sub(x, bound).Add(x, one)
}

// take is the next size ≤ 8 bytes as a number.
func (s *Stream) take(size int) uint64 {
	var x uint64
	for range size {
		if s.at == len(s.buf) {
			clear(s.buf[:])
			s.ctr.XORKeyStream(s.buf[:], s.buf[:])
			s.at = 0
		}
		x = x<<8 | uint64(s.buf[s.at])
		s.at++
	}
	return x
}

var one = big.NewInt(1)
