package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"yingzhou.dev/lab/enclave/mpc"
)

// agree makes sure, before anything is opened, that both ends of each connection saw the same words so far, and that both
// holders of each component of x hold the same. One round.
func (p *party) agree(x share) {
	p.begin()
	type claim [12]uint64 // what I sent you, what I received from you, my copy of the component we share
	make := func(d *direction, component []uint64) claim {
		var c claim
		sent, received, copy_ := d.sent.sum(), d.received.sum(), wordsDigest(component)
		copy(c[:], sent[:])
		copy(c[4:], received[:])
		copy(c[8:], copy_[:])
		return c
	}
	mine := map[*direction]claim{&p.next: make(&p.next, x.b), &p.prev: make(&p.prev, x.a)}
	for _, d := range []*direction{&p.next, &p.prev} {
		c := mine[d]
		if err := d.peer.Send(p.message, c[:]); err != nil {
			p.fail(d.number, err)
		}
	}
	p.words += 24
	for _, d := range []*direction{&p.next, &p.prev} {
		var c claim
		if err := d.peer.Recv(p.message, c[:]); err != nil {
			p.fail(d.number, err)
		}
		m := mine[d]
		switch {
		case [4]uint64(c[:4]) != [4]uint64(m[4:8]) || [4]uint64(c[4:8]) != [4]uint64(m[:4]):
			p.fail(d.number, fmt.Errorf("%w: what one node sent is not what the other received", mpc.ErrInconsistent))
		case [4]uint64(c[8:]) != [4]uint64(m[8:]):
			p.fail(d.number, fmt.Errorf("%w: two nodes hold different values", mpc.ErrInconsistent))
		}
	}
	p.rounds++
	if p.transcript != nil {
		if err := p.transcript.Verify(); err != nil {
			p.fail(nobody, fmt.Errorf("verifying products: %w", err))
		}
	}
}

// open makes x known to all nodes. The component that a node lacks comes from one peer, and its digest from the other;
// they must match before anything is returned. Two rounds, the first being agree.
func (p *party) open(x share, combine func(missing, a, b uint64) uint64) []uint64 {
	p.agree(x)
	p.begin()
	out := make([]uint64, len(x.a))
	own := wordsDigest(x.b)
	for i := 0; i < len(out); i += frame {
		j := min(i+frame, len(out))
		p.send(&p.next, x.a[i:j])
		p.recv(&p.prev, out[i:j])
	}
	p.send(&p.prev, own[:])
	var want [4]uint64
	p.recv(&p.next, want[:])
	if wordsDigest(out) != want {
		p.fail(p.prev.number, fmt.Errorf("%w: the opened component is not the one that node %d holds too", mpc.ErrInconsistent, p.next.number))
	}
	p.rounds++
	for i := range out {
		out[i] = combine(out[i], x.a[i], x.b[i])
	}
	return out
}

func (p *party) openNumbers(x share) []uint64 {
	return p.open(x, func(m, a, b uint64) uint64 { return m + a + b })
}

func (p *party) openWords(x share) []uint64 {
	return p.open(x, func(m, a, b uint64) uint64 { return m ^ a ^ b })
}

func wordsDigest(words []uint64) [4]uint64 {
	h := sha256.New()
	var block [1024]byte
	for len(words) > 0 {
		n := min(len(words), len(block)/8)
		for i, w := range words[:n] {
			binary.LittleEndian.PutUint64(block[8*i:], w)
		}
		h.Write(block[:8*n])
		words = words[n:]
	}
	return digestWords([32]byte(h.Sum(nil)))
}
