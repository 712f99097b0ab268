// Package engine evaluates an mpc.Program at one of three nodes, which run it in step with each other. Nothing is opened
// but what a release says, with its noise, and the comparison bits of shuffled sorts, which depend on nothing but chance.
//
// Every primitive is one message in each direction that it uses, cut into frames that are computed, sent and received in
// turn, so that a vector of any length is one round and stays in the cache while it is worked on. A node that lags is
// waited for; one that stalls, leaves or errs ends the job with an *mpc.PartyError.
package engine

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/internal/ring"
)

// Peer is the connection to another node; package link has it. Send may return before the words have arrived, but must
// not keep them. Recv must not return words that were not sent at the same step. Errors wrap those of package mpc.
type Peer interface {
	Send(step uint32, words []uint64) error
	Recv(step uint32, words []uint64) error
	Secret() []byte // 32 bytes that only the two nodes have, fresh for the job
}

// share is a node's two components of a vector: of numbers or words, one per row; of bits, 64 rows to a word.
type share struct{ a, b []uint64 }

func newShare(n int) share { return share{make([]uint64, n), make([]uint64, n)} }

func (s share) len() int             { return len(s.a) }
func (s share) slice(i, j int) share { return share{s.a[i:j:j], s.b[i:j:j]} }

// direction is one of a node's two peers.
type direction struct {
	peer           Peer
	number         int // of the node
	key            *ring.Key
	check          []uint64 // key of the digests
	sent, received *digest
}

// party is one node at work. It is used by one goroutine, and panics with *failure when a peer fails: run recovers.
type party struct {
	id         int
	next, prev direction
	message    uint32 // number of the current message, the same at all nodes
	step       string // for errors
	transcript Transcript

	rounds   int64 // messages waited for, one after the other
	words    int64 // sent to both peers
	compares int64 // opened by sorts
	r0, r1   []uint64
	spare    []share
}

// failure carries an error out of the protocols.
type failure struct{ err error }

func newParty(id int, next, prev Peer) (*party, error) {
	if id < 0 || id >= mpc.Nodes || next == nil || prev == nil {
		return nil, fmt.Errorf("node %d with peers %v and %v cannot take part", id, next, prev)
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("nodes agree on pseudo-random words in little-endian order, which this machine has not")
	}
	p := &party{id: id, r0: make([]uint64, chunk), r1: make([]uint64, chunk)}
	for _, d := range []struct {
		dir    *direction
		peer   Peer
		number int
	}{{&p.next, next, (id + 1) % mpc.Nodes}, {&p.prev, prev, (id + 2) % mpc.Nodes}} {
		key, err := ring.NewKey(derive(d.peer.Secret(), "streams", 16))
		if err != nil {
			return nil, err
		}
		digests, err := ring.NewKey(derive(d.peer.Secret(), "digests", 16))
		if err != nil {
			return nil, err
		}
		check := make([]uint64, digested)
		digests.Stream([8]byte{}).Fill(check)
		*d.dir = direction{peer: d.peer, number: d.number, key: key, check: check, sent: newDigest(), received: newDigest()}
	}
	return p, nil
}

func derive(secret []byte, label string, size int) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, "yingzhou mpc "+label, size)
	if err != nil {
		panic("engine: HKDF of a few bytes: " + err.Error())
	}
	return key
}

// begin starts the next message. All nodes begin the same messages in the same order, whether or not they have a part in
// them, so a message's number keys its pseudo-random streams and places its frames.
func (p *party) begin() {
	p.message++
	if p.message == 0 {
		p.fail(p.next.number, errors.New("too many messages"))
	}
}

// nobody is blamed for an error that may be any node's.
const nobody = -1

func (p *party) fail(number int, err error) {
	panic(&failure{&mpc.PartyError{Party: number, Step: p.step, Err: err}})
}

// send and recv move words of the current message and digest them, in pieces of a frame.
func (p *party) send(d *direction, words []uint64) {
	p.words += int64(len(words))
	for len(words) > 0 {
		n := min(len(words), frame)
		d.sent.add(d.check, words[:n])
		if err := d.peer.Send(p.message, words[:n]); err != nil {
			p.fail(d.number, err)
		}
		words = words[n:]
	}
}

func (p *party) recv(d *direction, words []uint64) {
	for len(words) > 0 {
		n := min(len(words), frame)
		if err := d.peer.Recv(p.message, words[:n]); err != nil {
			p.fail(d.number, err)
		}
		d.received.add(d.check, words[:n])
		words = words[n:]
	}
}

const (
	// chunk is how many words a kernel works on at once: with what it reads and writes, they stay in the cache.
	chunk = 4096
	// frame is how many words are sent at once: 127 planes of a whole block of rows. With what TLS adds they fill two
	// segments of the loopback interface; what 128 leave for a third costs as much as a whole one.
	frame = 127 * blockRows / 64
	// ahead is how many frames a node sends before it waits for the peer's: what is on its way hides the peer's delay, and
	// stays below what a connection buffers.
	ahead = 16
)

// reshare makes a vector of n words from three parts that add up to it (or XOR to it): local writes part [i, j), masked,
// to z.a, and what the next node has made arrives in z.b. One round.
func (p *party) reshare(z share, local func(i, j int)) {
	n := len(z.a)
	received := 0
	for i := 0; i < n; i += frame {
		j := min(i+frame, n)
		local(i, j)
		p.send(&p.prev, z.a[i:j])
		if k := i - ahead*frame; k >= 0 {
			p.recv(&p.next, z.b[k:k+frame])
			received = k + frame
		}
	}
	for ; received < n; received += frame {
		p.recv(&p.next, z.b[received:min(received+frame, n)])
	}
	p.rounds++
}
