// Package link connects the three nodes of a job: one mutually authenticated TLS 1.3 connection for each pair, on which
// vectors of words travel in frames of bounded length. Every frame says its step and its number, and is refused if it is
// not the one whose turn it is. Memory is bounded in both directions: whoever sends faster than the peer reads waits, and
// a peer that moves nothing for longer than Config.Stall ends the job.
//
// What the kernel takes at once is written by whoever sends; a goroutine writes the rest. A node has other things to do with
// its processors than to wake another goroutine for every frame.
//
// Keys are pinned, not certified: a job names the digest of each node's public key. The key exchange is X25519 with
// ML-KEM-768, and the secret that a pair's pseudo-random streams are derived from is exported from it (RFC 8446, section
// 7.5), so it is fresh for every job and neither node can choose it.
package link

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"yingzhou.dev/lab/enclave/mpc"
)

// A frame is a header of 16 bytes, little-endian, and a payload of words, little-endian:
//
//	length of the payload in bytes   uint32, a multiple of 8, at most maxPayload
//	kind                             uint32
//	step                             uint32
//	number on this connection        uint32, from 0
const (
	headerSize = 16
	maxPayload = 128 << 10
	// window is how many bytes may wait to be written: with what the kernel holds, all that a slow peer can make a node
	// keep. It must exceed what the protocols send ahead of what they receive.
	window = 4 << 20
)

const (
	kindHello uint32 = 1 + iota
	kindData
	kindAbort
)

// Conn is one node's end of the connection to a peer. Send and Recv are for one goroutine each, or one for both.
type Conn struct {
	peer   int
	secret []byte
	raw    *coalescing
	tls    *tls.Conn
	stall  time.Duration

	broken   chan struct{}
	written  chan struct{} // closed when the writer has ended
	breaking sync.Once
	closing  sync.Once
	writeErr error // set before broken is closed

	sending sync.Mutex // an Abort may come from elsewhere
	sent    uint32     // frames

	received uint32 // frames, owned by the receiver
}

func newConn(peer int, raw *coalescing, t *tls.Conn, stall time.Duration) *Conn {
	return &Conn{peer: peer, raw: raw, tls: t, stall: stall, broken: make(chan struct{}), written: make(chan struct{})}
}

// Peer is the number of the node at the other end.
func (c *Conn) Peer() int { return c.peer }

// Secret is 32 bytes that only the two nodes have, fresh for the connection.
func (c *Conn) Secret() []byte { return c.secret }

// Send hands the words over for writing, in as many frames as they need. It returns when they are encrypted, which takes
// as long as the peer leaves no room.
func (c *Conn) Send(step uint32, words []uint64) error {
	for len(words) > 0 {
		n := min(len(words), maxPayload/8)
		if err := c.room(); err != nil {
			return err
		}
		if err := c.frame(kindData, step, words[:n]); err != nil {
			return err
		}
		words = words[n:]
	}
	return nil
}

// room waits until there is room for a frame.
func (c *Conn) room() error {
	for {
		select {
		case <-c.broken:
			return c.writeErr
		default:
		}
		if c.raw.held() <= window-buffer {
			return nil
		}
		timer := time.NewTimer(c.stall)
		select {
		case <-c.raw.taken:
		case <-c.broken:
		case <-timer.C:
			return fmt.Errorf("sending: %w", mpc.ErrStalled)
		}
		timer.Stop()
	}
}

// frame encrypts a frame and writes it, as far as it goes at once.
func (c *Conn) frame(kind, step uint32, words []uint64) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	var h [headerSize]byte
	header(h[:], 8*len(words), kind, step, c.sent)
	c.sent++
	_, err := c.tls.Write(h[:])
	if err == nil {
		_, err = c.tls.Write(view(words))
	}
	if err == nil {
		err = c.raw.push(time.Now().Add(c.stall))
	}
	if err != nil {
		c.fail(fmt.Errorf("sending: %w", network(err)))
		return c.writeErr
	}
	return nil
}

func header(frame []byte, length int, kind, step, number uint32) {
	binary.LittleEndian.PutUint32(frame, uint32(length))
	binary.LittleEndian.PutUint32(frame[4:], kind)
	binary.LittleEndian.PutUint32(frame[8:], step)
	binary.LittleEndian.PutUint32(frame[12:], number)
}

// write is the writer of what the kernel did not take at once. It ends when a write fails, or with Close.
func (c *Conn) write() {
	defer close(c.written)
	for range c.raw.left {
		if err := c.raw.drain(c.stall); err != nil {
			c.fail(fmt.Errorf("sending: %w", network(err)))
			return
		}
	}
}

func (c *Conn) fail(err error) {
	c.breaking.Do(func() {
		c.writeErr = err
		close(c.broken)
	})
}

// Recv fills words with the next that the peer sent at this step.
func (c *Conn) Recv(step uint32, words []uint64) error {
	for len(words) > 0 {
		n, err := c.next(step, words)
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		words = words[n:]
	}
	return nil
}

// next reads one frame into words and says how many it had.
func (c *Conn) next(step uint32, words []uint64) (int, error) {
	length, kind, got, err := c.header()
	switch {
	case err != nil:
		return 0, err
	case kind == kindAbort:
		return 0, c.aborted(length)
	case kind != kindData:
		return 0, fmt.Errorf("%w: kind %d", mpc.ErrMalformed, kind)
	case got != step:
		return 0, fmt.Errorf("%w: it is of message %d, not %d", mpc.ErrReplayed, got, step)
	case length == 0 || length > 8*len(words):
		return 0, fmt.Errorf("%w: %d bytes where %d are expected", mpc.ErrMalformed, length, 8*len(words))
	}
	if _, err := io.ReadFull(c.tls, view(words[:length/8])); err != nil {
		return 0, network(err)
	}
	return length / 8, nil
}

// header reads the header of the next frame, of any kind.
func (c *Conn) header() (length int, kind, step uint32, err error) {
	if err := c.raw.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, 0, 0, network(err)
	}
	var h [headerSize]byte
	if _, err := io.ReadFull(c.tls, h[:]); err != nil {
		return 0, 0, 0, network(err)
	}
	length, kind, step, number, err := parseHeader(h)
	if err != nil {
		return 0, 0, 0, err
	}
	if number != c.received {
		return 0, 0, 0, fmt.Errorf("%w: frame number %d, not %d", mpc.ErrReplayed, number, c.received)
	}
	c.received++
	return length, kind, step, nil
}

// view is the memory of words, which are as on the wire: Connect refuses machines of the other byte order.
func view(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

func parseHeader(h [headerSize]byte) (length int, kind, step, number uint32, err error) {
	size := binary.LittleEndian.Uint32(h[:])
	kind = binary.LittleEndian.Uint32(h[4:])
	if size > maxPayload || size%8 != 0 {
		return 0, 0, 0, 0, fmt.Errorf("%w: length %d", mpc.ErrMalformed, size)
	}
	if kind < kindHello || kind > kindAbort {
		return 0, 0, 0, 0, fmt.Errorf("%w: kind %d", mpc.ErrMalformed, kind)
	}
	return int(size), kind, binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint32(h[12:]), nil
}

// Abort tells the peer that the job has failed and on which node, and closes the connection. It does not wait for a peer
// that does not read.
func (c *Conn) Abort(blames int) {
	select {
	case <-c.broken:
	default:
		if c.raw.held() <= window-buffer {
			c.frame(kindAbort, 0, []uint64{uint64(blames)}) // the connection ends anyway
		}
	}
	c.Close()
}

func (c *Conn) aborted(length int) error {
	var word [1]uint64
	if length != 8 {
		return &mpc.AbortError{Blames: -1}
	}
	if _, err := io.ReadFull(c.tls, view(word[:])); err != nil || word[0] >= mpc.Nodes {
		return &mpc.AbortError{Blames: -1}
	}
	return &mpc.AbortError{Blames: int(word[0])}
}

// lingers is how long Close lets a peer take what is on its way.
const lingers = time.Second

// Close ends the connection after what was sent, or after a second. Nothing may be sent any more.
func (c *Conn) Close() {
	c.closing.Do(func() {
		c.fail(fmt.Errorf("sending: %w", net.ErrClosed))
		c.raw.linger(time.Now().Add(lingers))
		c.raw.finish()
		<-c.written
		c.raw.Close()
	})
}

// network says what an error of the connection means for the job.
func network(err error) error {
	var alert tls.AlertError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return mpc.ErrStalled
	case errors.As(err, &alert) || isRecord(err):
		return fmt.Errorf("%w: %v", mpc.ErrMalformed, err)
	default:
		return fmt.Errorf("%w: %v", mpc.ErrGone, err)
	}
}

func isRecord(err error) bool {
	var r tls.RecordHeaderError
	return errors.As(err, &r)
}

// coalescing is a connection under TLS, which writes every record by itself. Records wait in memory until push hands them to
// the kernel, which mostly takes them at once; what it does not take is left to the writer, a goroutine of its own, and so
// is all that comes until it is done.
type coalescing struct {
	net.Conn
	r      *bufio.Reader
	direct func(p []byte) (int, error) // writes as much as goes at once; nil if the connection cannot

	deadline atomic.Int64 // of the last writes in Unix nanoseconds, once set

	left  chan struct{} // wakes the writer; there is room for one
	taken chan struct{} // the writer has written

	mu       sync.Mutex
	w        []byte // records that wait
	spare    []byte // memory for the next
	writing  int    // bytes that the writer is at
	busy     bool   // the writer is at work, or about to
	buffers  bool   // after the handshake
	finished bool
}

// buffer holds a frame and what TLS adds to it.
const buffer = maxPayload + 1<<10

func coalesce(c net.Conn) *coalescing {
	return &coalescing{Conn: c, r: bufio.NewReaderSize(c, buffer), direct: direct(c), left: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
}

func (c *coalescing) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *coalescing) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return 0, net.ErrClosed
	}
	if !c.buffers {
		return c.Conn.Write(p)
	}
	if c.w == nil {
		c.w = make([]byte, 0, buffer)
	}
	c.w = append(c.w, p...)
	return len(p), nil
}

// held is how many bytes wait.
func (c *coalescing) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.w) + c.writing
}

// push writes what waits as far as it goes at once, and leaves the rest to the writer.
func (c *coalescing) push(deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy || c.finished {
		return nil
	}
	if c.direct != nil {
		if err := c.SetWriteDeadline(deadline); err != nil {
			return err
		}
		n, err := c.direct(c.w)
		if err != nil {
			return err
		}
		c.w = c.w[:copy(c.w, c.w[n:])]
	}
	c.wake()
	return nil
}

// wake starts the writer if there is anything to write and it is not at work. The caller holds mu.
func (c *coalescing) wake() {
	if len(c.w) > 0 && !c.busy {
		c.busy = true
		c.left <- struct{}{} // never blocks: it was taken before busy went
	}
}

// drain writes all that waits.
func (c *coalescing) drain(stall time.Duration) error {
	for {
		c.mu.Lock()
		if len(c.w) == 0 {
			c.busy = false
			c.mu.Unlock()
			return nil
		}
		out := c.w
		c.w, c.spare, c.writing = c.spare[:0], nil, len(out)
		c.mu.Unlock()
		err := c.SetWriteDeadline(time.Now().Add(stall))
		if err == nil {
			_, err = c.Conn.Write(out)
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.spare, c.writing = out, 0
		c.mu.Unlock()
		select {
		case c.taken <- struct{}{}:
		default: // one notice is enough
		}
	}
}

// finish lets the writer end when all is written. Nothing can be written any more.
func (c *coalescing) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake()
	c.finished = true
	close(c.left)
}

func (c *coalescing) buffered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buffers = true
}

// SetWriteDeadline keeps the deadline of linger, if that is earlier.
func (c *coalescing) SetWriteDeadline(t time.Time) error {
	if last := c.deadline.Load(); last != 0 && last < t.UnixNano() {
		t = time.Unix(0, last)
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *coalescing) linger(t time.Time) {
	c.deadline.Store(t.UnixNano())
	c.Conn.SetWriteDeadline(t)
}
