package engine

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"slices"
	"testing"
)

// What two nodes draw alike is AES-128 in counter mode under a key of their secret, from a counter block that begins with
// the message's number and the lane: nodes of different builds must agree on it.
func TestStreamsAreCounterMode(t *testing.T) {
	w := newTrio(t)
	p := w.party[0]
	for range 0x1234 {
		p.begin()
	}
	for _, d := range []*direction{&p.next, &p.prev} {
		for _, lane := range []byte{0, 1} {
			block, err := aes.NewCipher(derive(d.peer.Secret(), "streams", 16))
			if err != nil {
				t.Fatal(err)
			}
			raw := make([]byte, 8*1001)
			cipher.NewCTR(block, []byte{0, 0, 0x12, 0x34, lane, 15: 0}).XORKeyStream(raw, raw)
			want := make([]uint64, len(raw)/8)
			for i := range want {
				want[i] = binary.LittleEndian.Uint64(raw[8*i:])
			}
			got := make([]uint64, len(want))
			s := p.stream(d, lane)
			s.Fill(got[:77])
			s.Fill(got[77:])
			if !slices.Equal(got, want) {
				t.Errorf("lane %d towards node %d differs", lane, d.number)
			}
		}
	}
}
