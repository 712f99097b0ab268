package main

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"unsafe"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc/engine"
)

// recorder digests what goes to a peer and what comes from it: the words in their order, little-endian, however they
// were cut into frames. What one node sent is what its peer received.
type recorder struct {
	engine.Peer
	sent, received hash.Hash
	bytes          int64
}

func record(p engine.Peer) *recorder {
	return &recorder{Peer: p, sent: sha256.New(), received: sha256.New()}
}

func (r *recorder) Send(step uint32, words []uint64) error {
	r.sent.Write(bytesOf(words))
	r.bytes += int64(8 * len(words))
	return r.Peer.Send(step, words)
}

func (r *recorder) Recv(step uint32, words []uint64) error {
	err := r.Peer.Recv(step, words)
	if err == nil {
		r.received.Write(bytesOf(words))
	}
	return err
}

// bytesOf is the words as they lie in memory, little-endian on every machine that this runs on.
func bytesOf(words []uint64) []byte {
	if len(words) == 0 {
		return nil
	}
	var probe [8]byte
	if binary.NativeEndian.PutUint16(probe[:], 1); probe[0] != 1 {
		out := make([]byte, 0, 8*len(words))
		for _, w := range words {
			out = binary.LittleEndian.AppendUint64(out, w)
		}
		return out
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
}

func (r *recorder) digests() (sent, received enclave.Digest) {
	return enclave.Digest(r.sent.Sum(nil)), enclave.Digest(r.received.Sum(nil))
}
