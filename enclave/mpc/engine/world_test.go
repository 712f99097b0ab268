package engine

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"yingzhou.dev/lab/enclave/mpc"
)

// memory is a pair's connection inside one process: what package link does, without the network.
type memory struct {
	in, out chan message
	rest    []uint64
	secret  []byte
	closed  chan struct{}
	once    *sync.Once
}

type message struct {
	step  uint32
	words []uint64
}

func pair() (a, b *memory) {
	secret := make([]byte, 32)
	rand.Read(secret)
	x, y := make(chan message, 32), make(chan message, 32)
	closed, once := make(chan struct{}), &sync.Once{}
	return &memory{in: x, out: y, secret: secret, closed: closed, once: once}, &memory{in: y, out: x, secret: secret, closed: closed, once: once}
}

func (m *memory) Secret() []byte { return m.secret }
func (m *memory) close()         { m.once.Do(func() { close(m.closed) }) }

func (m *memory) Send(step uint32, words []uint64) error {
	select {
	case m.out <- message{step, append([]uint64(nil), words...)}:
		return nil
	case <-m.closed:
		return mpc.ErrGone
	}
}

func (m *memory) Recv(step uint32, words []uint64) error {
	for len(words) > 0 {
		if len(m.rest) == 0 {
			var got message
			select {
			case got = <-m.in:
			case <-m.closed:
				return mpc.ErrGone
			}
			if got.step != step {
				return fmt.Errorf("%w: %d, not %d", mpc.ErrReplayed, got.step, step)
			}
			if len(got.words) > len(words) {
				return mpc.ErrMalformed
			}
			m.rest = got.words
		}
		n := copy(words, m.rest)
		m.rest, words = m.rest[n:], words[n:]
	}
	return nil
}

// trio is three nodes in one process.
type trio struct {
	peers [3][2]Peer // next, prev
	close func()
	party [3]*party
}

func newTrio(t testing.TB) *trio {
	t.Helper()
	w := &trio{}
	var ends []*memory
	for i := range 3 {
		a, b := pair()
		ends = append(ends, a)
		w.peers[i][0], w.peers[(i+1)%3][1] = a, b
	}
	w.close = func() {
		for _, e := range ends {
			e.close()
		}
	}
	w.start(t)
	return w
}

func (w *trio) start(t testing.TB) {
	t.Helper()
	for i := range w.party {
		p, err := newParty(i, w.peers[i][0], w.peers[i][1])
		if err != nil {
			t.Fatal(err)
		}
		w.party[i] = p
	}
}

// run has every node do the same and returns their errors.
func (w *trio) run(f func(p *party)) [3]error {
	var errs [3]error
	var wg sync.WaitGroup
	for i, p := range w.party {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					f, ok := r.(*failure)
					if !ok {
						panic(r)
					}
					errs[i] = f.err
					w.close()
				}
			}()
			f(p)
		})
	}
	wg.Wait()
	return errs
}

type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func (w *trio) do(t fataler, f func(p *party)) {
	t.Helper()
	errs := w.run(f)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
}

// random is a fast source of words for dealing.
func randomWords(n int) []uint64 {
	b := make([]byte, 8*n)
	rand.Read(b)
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return out
}

func deal(values []uint64, additive bool) [3]share {
	n := len(values)
	c := [3][]uint64{randomWords(n), randomWords(n), make([]uint64, n)}
	for i, v := range values {
		if additive {
			c[2][i] = v - c[0][i] - c[1][i]
		} else {
			c[2][i] = v ^ c[0][i] ^ c[1][i]
		}
	}
	var out [3]share
	for i := range out {
		out[i] = share{append([]uint64(nil), c[i]...), append([]uint64(nil), c[(i+1)%3]...)}
	}
	return out
}

// reveal puts a vector together and makes sure that both copies of each component are equal.
func reveal(t fataler, s [3]share, additive bool) []uint64 {
	t.Helper()
	out := make([]uint64, s[0].len())
	for i := range 3 {
		next := s[(i+1)%3]
		if s[i].len() != len(out) || len(s[i].b) != len(out) {
			t.Fatalf("node %d has %d and %d words, node 0 %d", i, len(s[i].a), len(s[i].b), len(out))
		}
		for k := range out {
			if s[i].b[k] != next.a[k] {
				t.Fatalf("nodes %d and %d hold different components of row %d", i, (i+1)%3, k)
			}
			if additive {
				out[k] += s[i].a[k]
			} else {
				out[k] ^= s[i].a[k]
			}
		}
	}
	return out
}

func revealBits(t fataler, s [3]share, n int) []bool {
	t.Helper()
	words := reveal(t, s, false)
	out := make([]bool, n)
	for i := range out {
		out[i] = bit(words, i)
	}
	return out
}
