package evaluator

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// Uniform fills out (Words() residues, NTT domain) with uniform residues from a 32-byte key: AES-256-CTR with a
// zero counter block, read as little-endian 64-bit words, each masked to the bit length of its prime and skipped if not
// below it; prime by prime, position by position, one stream throughout.
func (p *Params) Uniform(key []byte, out []uint64) {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("he: Uniform needs a 32-byte key")
	}
	ctr := cipher.NewCTR(block, make([]byte, aes.BlockSize))
	var buf [8192]byte
	at := len(buf)
	for i, q := range p.q {
		mask := uint64(1)<<bits.Len64(q) - 1
		limb := out[i*p.n : (i+1)*p.n]
		for j := 0; j < len(limb); {
			if at == len(buf) {
				clear(buf[:])
				ctr.XORKeyStream(buf[:], buf[:])
				at = 0
			}
			w := binary.LittleEndian.Uint64(buf[at:]) & mask
			at += 8
			if w < q {
				limb[j] = w
				j++
			}
		}
	}
}

// chunkKey derives the key of one ciphertext's uniform half from its blob's seed.
func chunkKey(seed [32]byte, chunk int64) []byte {
	mac := hmac.New(sha256.New, seed[:])
	mac.Write([]byte("yingzhou c1\x00"))
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(chunk))
	mac.Write(b[:])
	return mac.Sum(nil)
}
