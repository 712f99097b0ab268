// Package link connects the three nodes of a job: one mutually authenticated TLS 1.3 connection for each pair, on which
// vectors of words travel in frames of bounded length. Every frame says its step and its number, and is refused if it is
// not the one whose turn it is. Memory is bounded in both directions: whoever sends faster than the peer reads waits, and
// a peer that moves nothing for longer than Config.Stall ends the job.
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
	maxPayload = 64 << 10
	// window is how many frames may wait to be written: with what the kernel holds, all that a slow peer can make a node
	// keep. It must exceed what the protocols send ahead of what they receive.
	window = 32
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

	slots chan struct{} // one for each frame that may wait to be written
	queue chan []byte   // frames on their way to the writer
	mu    sync.Mutex
	spare [][]byte // frames that were written; the last one first, as it is still in the cache

	broken   chan struct{}
	written  chan struct{} // closed when the writer has ended
	breaking sync.Once
	closing  sync.Once
	writeErr error // set before broken is closed

	sent     uint32 // frames, owned by the sender
	received uint32 // frames, owned by the receiver
}

func newConn(peer int, raw *coalescing, t *tls.Conn, stall time.Duration) *Conn {
	c := &Conn{peer: peer, raw: raw, tls: t, stall: stall, slots: make(chan struct{}, window), queue: make(chan []byte, window),
		broken: make(chan struct{}), written: make(chan struct{})}
	for range window {
		c.slots <- struct{}{}
	}
	return c
}

// Peer is the number of the node at the other end.
func (c *Conn) Peer() int { return c.peer }

// Secret is 32 bytes that only the two nodes have, fresh for the connection.
func (c *Conn) Secret() []byte { return c.secret }

// Send hands the words over for writing, in as many frames as they need. It returns when they are copied, which takes as
// long as the peer leaves no room.
func (c *Conn) Send(step uint32, words []uint64) error {
	for len(words) > 0 {
		n := min(len(words), maxPayload/8)
		if err := c.enqueue(kindData, step, words[:n]); err != nil {
			return err
		}
		words = words[n:]
	}
	return nil
}

func (c *Conn) enqueue(kind, step uint32, words []uint64) error {
	select {
	case <-c.slots:
	default:
		timer := time.NewTimer(c.stall)
		defer timer.Stop()
		select {
		case <-c.slots:
		case <-c.broken:
			return c.writeErr
		case <-timer.C:
			return fmt.Errorf("sending: %w", mpc.ErrStalled)
		}
	}
	frame := c.take()[:headerSize+8*len(words)]
	header(frame, 8*len(words), kind, step, c.sent)
	c.sent++
	copy(frame[headerSize:], view(words))
	select {
	case c.queue <- frame: // never blocks: there are no more frames than places
		return nil
	case <-c.broken:
		return c.writeErr
	}
}

// take returns memory for a frame, and give takes it back with its slot.
func (c *Conn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.spare); n > 0 {
		frame := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return frame
	}
	return make([]byte, headerSize+maxPayload)
}

func (c *Conn) give(frame []byte) {
	c.mu.Lock()
	c.spare = append(c.spare, frame[:cap(frame)])
	c.mu.Unlock()
	c.slots <- struct{}{} // never blocks: it was taken
}

func header(frame []byte, length int, kind, step, number uint32) {
	binary.LittleEndian.PutUint32(frame, uint32(length))
	binary.LittleEndian.PutUint32(frame[4:], kind)
	binary.LittleEndian.PutUint32(frame[8:], step)
	binary.LittleEndian.PutUint32(frame[12:], number)
}

// write is the writer: it ends when the queue is closed or a write fails.
func (c *Conn) write() {
	defer close(c.written)
	for frame := range c.queue {
		err := c.writeFrame(frame)
		if err == nil && len(c.queue) == 0 {
			err = c.raw.flush()
		}
		if err != nil {
			c.fail(fmt.Errorf("sending: %w", network(err)))
			return
		}
		c.give(frame)
	}
	c.raw.flush() // what was queued before Close
}

func (c *Conn) writeFrame(frame []byte) error {
	if err := c.raw.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return err
	}
	_, err := c.tls.Write(frame)
	return err
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
	case <-c.slots:
		frame := c.take()[:headerSize+8]
		header(frame, 8, kindAbort, 0, c.sent)
		binary.LittleEndian.PutUint64(frame[headerSize:], uint64(blames))
		select {
		case c.queue <- frame:
		case <-c.broken:
		}
	default: // it has stopped reading
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
		close(c.queue)
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

// coalescing is a connection whose writes wait in a buffer until flush, because TLS writes every record by itself.
type coalescing struct {
	net.Conn
	r *bufio.Reader

	deadline atomic.Int64 // of the last writes in Unix nanoseconds, once set

	mu      sync.Mutex
	w       *bufio.Writer
	buffers bool // after the handshake
}

// buffer holds a frame and what TLS adds to it.
const buffer = maxPayload + 1<<10

func coalesce(c net.Conn) *coalescing {
	return &coalescing{Conn: c, r: bufio.NewReaderSize(c, buffer), w: bufio.NewWriterSize(c, buffer)}
}

func (c *coalescing) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *coalescing) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.w.Write(p)
	if err == nil && !c.buffers {
		err = c.w.Flush()
	}
	return n, err
}

func (c *coalescing) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.w.Flush()
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
