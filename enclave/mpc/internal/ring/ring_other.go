//go:build !amd64

package ring

func dot(x, y []uint64) uint64 { return dotGo(x, y) }

func product(z, xa, xb, ya, yb []uint64, r0, r1 *Stream) int { return 0 }

func keystream(words []uint64, key *Key, nonce [8]byte, block uint64) {
	keystreamGo(words, key, nonce, block)
}
