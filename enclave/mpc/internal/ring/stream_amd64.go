package ring

import "golang.org/x/sys/cpu"

// keystreamVAES writes batches of key stream, from number block on.
//
//go:noescape
func keystreamVAES(words *uint64, schedule *schedule, nonce *[8]byte, block uint64, batches int)

// productVAES is Product for batches·16 words, the streams under two keys being at one block.
//
//go:noescape
func productVAES(z, xa, xb, ya, yb *uint64, schedule0, schedule1 *schedule, nonce *[8]byte, block uint64, batches int)

// features is register C of CPUID leaf 7.
func features() uint32

// hasVAES says that the processor encrypts two blocks with one instruction. Package cpu knows of it with AVX-512 only.
var hasVAES = cpu.X86.HasAVX2 && cpu.X86.HasAES && features()>>9&1 == 1

func keystream(words []uint64, key *Key, nonce [8]byte, block uint64) {
	if !hasVAES {
		keystreamGo(words, key, nonce, block)
		return
	}
	keystreamVAES(&words[0], &key.schedule, &nonce, block, len(words)/batch)
}

// product does as many words as the routine can, and says how many.
func product(z, xa, xb, ya, yb []uint64, r0, r1 *Stream) int {
	batches := len(z) / (batch / 2)
	if batches == 0 || !hasVAES || r0.half || r1.half || r0.next != r1.next || r0.nonce != r1.nonce {
		return 0
	}
	productVAES(&z[0], &xa[0], &xb[0], &ya[0], &yb[0], &r0.key.schedule, &r1.key.schedule, &r0.nonce, r0.next, batches)
	n := batches * (batch / 2)
	r0.next += uint64(n / 2)
	r1.next += uint64(n / 2)
	return n
}
