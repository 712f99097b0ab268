package shares

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/internal/canon"
)

// Share blob (docs/FORMATS.md, "Share blobs"): component 2 of one column.
//
//	offset 0   "YZSHARE1"
//	8          length of the header, uint32 little-endian
//	12         header, canonical JSON
//	then       chunks of 64 KiB of words (the last one shorter or full), each AES-256-GCM with a tag of 16 bytes
//
// The nonce is four zero bytes and the big-endian number 2·chunk, plus 1 for the last one, so that none can be moved or
// left off. Additional data is the SHA-256 of everything before the chunks.
const (
	blobMagic  = "YZSHARE1"
	blobKind   = "yingzhou.share.v1"
	chunkBytes = 64 << 10
	tagBytes   = 16
	maxHeader  = 4096
)

// Header says what a blob is a part of. A node compares it with the manifest, so that blobs cannot be swapped.
type Header struct {
	Kind     string         `json:"kind"`
	Keyset   enclave.Digest `json:"keyset"`
	Scenario enclave.Digest `json:"scenario"`
	Column   string         `json:"column"`
	Rows     int64          `json:"rows"`
}

// NewHeader fills a header.
func NewHeader(keyset, scenario enclave.Digest, column string, rows int64) Header {
	return Header{Kind: blobKind, Keyset: keyset, Scenario: scenario, Column: column, Rows: rows}
}

func (h Header) encode() ([]byte, error) {
	body, err := canon.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(body) > maxHeader {
		return nil, fmt.Errorf("share blob of column %q: header of %d bytes is too long", h.Column, len(body))
	}
	return append(binary.LittleEndian.AppendUint32([]byte(blobMagic), uint32(len(body))), body...), nil
}

func nonce(chunk int64, last bool) []byte {
	n := uint64(chunk) << 1
	if last {
		n++
	}
	return binary.BigEndian.AppendUint64(make([]byte, 4), n)
}

// stream is the words of a seed component, one after another: what mpc.Component.Expand gives at once.
type stream struct {
	ctr cipher.Stream
	buf []byte
}

func newStream(seed [32]byte) *stream {
	block, err := aes.NewCipher(seed[:])
	if err != nil {
		panic("shares: a seed is an AES-256 key: " + err.Error())
	}
	return &stream{ctr: cipher.NewCTR(block, make([]byte, aes.BlockSize))}
}

// next is the next n words; valid until the next call.
func (s *stream) next(n int) []byte {
	if cap(s.buf) < 8*n {
		s.buf = make([]byte, 8*n)
	}
	out := s.buf[:8*n]
	clear(out)
	s.ctr.XORKeyStream(out, out)
	return out
}

// Column is a column being split. Its third component waits in a file without a name until the number of rows is known,
// because commitment and blob begin with it. The file is safe to be found: without the other two components its words
// are uniformly random.
type Column struct {
	name string
	kind mpc.Kind
	keys [mpc.Nodes]Key
	in   [2]*stream
	rows int64
	file *os.File
	w    *bufio.Writer
	buf  []byte
}

// NewColumn begins a column.
func NewColumn(name string, keys [mpc.Nodes]Key) (*Column, error) {
	f, err := os.CreateTemp("", "share-*")
	if err != nil {
		return nil, fmt.Errorf("splitting column %q: %w", name, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("splitting column %q: %w", name, err), f.Close())
	}
	c := &Column{name: name, kind: KindOf(name), keys: keys, file: f, w: bufio.NewWriterSize(f, chunkBytes)}
	for i := range c.in {
		c.in[i] = newStream(keys[i].component(c.kind, name, 0).Seed)
	}
	return c, nil
}

// Add splits more rows: two's complement for numbers.
func (c *Column) Add(values []int64) error {
	a, b := c.in[0].next(len(values)), c.in[1].next(len(values))
	c.buf = c.buf[:0]
	for i, v := range values {
		x, y := binary.LittleEndian.Uint64(a[8*i:]), binary.LittleEndian.Uint64(b[8*i:])
		if c.kind == mpc.Number {
			x = uint64(v) - x - y
		} else {
			x ^= uint64(v) ^ y
		}
		c.buf = binary.LittleEndian.AppendUint64(c.buf, x)
	}
	c.rows += int64(len(values))
	if _, err := c.w.Write(c.buf); err != nil {
		return fmt.Errorf("splitting column %q: %w", c.name, err)
	}
	return nil
}

// Finish writes the blob and returns the commitments to all three components and the number of chunks.
func (c *Column) Finish(keyset, scenario enclave.Digest, blob io.Writer) (commitments []enclave.Digest, chunks int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("splitting column %q: %w", c.name, err)
		}
	}()
	if err := c.w.Flush(); err != nil {
		return nil, 0, err
	}
	if _, err := c.file.Seek(0, io.SeekStart); err != nil {
		return nil, 0, err
	}
	for i := range c.in {
		commitments = append(commitments, c.keys[i].component(c.kind, c.name, int(c.rows)).Commitment())
	}
	head, err := NewHeader(keyset, scenario, c.name, c.rows).encode()
	if err != nil {
		return nil, 0, err
	}
	if _, err := blob.Write(head); err != nil {
		return nil, 0, err
	}
	// The commitment is to the component's encoding, whose beginning says how many words follow.
	h := sha256.New()
	h.Write(mpc.Component{Kind: c.kind, Rows: int(c.rows), Salt: c.keys[2].salt(c.name), Words: []uint64{}}.Encode())
	ad := sha256.Sum256(head)
	aead, left := c.keys[2].aead(c.name), 8*c.rows
	plain, sealed := make([]byte, chunkBytes), make([]byte, 0, chunkBytes+tagBytes)
	for last := false; !last; chunks++ {
		n := min(left, chunkBytes)
		left -= n
		last = left == 0
		if _, err := io.ReadFull(c.file, plain[:n]); err != nil {
			return nil, 0, err
		}
		h.Write(plain[:n])
		sealed = aead.Seal(sealed[:0], nonce(chunks, last), plain[:n], ad[:])
		if _, err := blob.Write(sealed); err != nil {
			return nil, 0, err
		}
	}
	return append(commitments, enclave.Digest(h.Sum(nil))), chunks, nil
}

// Close lets go of the file. It may be called at any time.
func (c *Column) Close() error { return c.file.Close() }

// ErrBlob means that a blob is not what the manifest says, or was altered.
var ErrBlob = fmt.Errorf("share blob: %w", enclave.ErrBlob)

// Open reads component 2 of a column from its blob and compares its header.
func Open(r io.Reader, key Key, want Header) (mpc.Component, error) {
	c := mpc.Component{Kind: KindOf(want.Column), Rows: int(want.Rows), Salt: key.salt(want.Column)}
	bad := func(format string, args ...any) (mpc.Component, error) {
		return mpc.Component{}, fmt.Errorf("column %q: %w: %s", want.Column, ErrBlob, fmt.Sprintf(format, args...))
	}
	head, err := want.encode()
	if err != nil {
		return c, err
	}
	found := make([]byte, len(head))
	if _, err := io.ReadFull(r, found); err != nil || !bytes.Equal(found, head) {
		return bad("its header is not the manifest's")
	}
	ad := sha256.Sum256(head)
	aead, left := key.aead(want.Column), 8*want.Rows
	c.Words = make([]uint64, 0, want.Rows)
	sealed, plain := make([]byte, chunkBytes+tagBytes), make([]byte, 0, chunkBytes)
	for chunk, last := int64(0), false; !last; chunk++ {
		n := min(left, chunkBytes)
		left -= n
		last = left == 0
		if _, err := io.ReadFull(r, sealed[:n+tagBytes]); err != nil {
			return bad("it is cut off")
		}
		if plain, err = aead.Open(plain[:0], nonce(chunk, last), sealed[:n+tagBytes], ad[:]); err != nil {
			return bad("chunk %d does not authenticate", chunk)
		}
		for ; len(plain) > 0; plain = plain[8:] {
			c.Words = append(c.Words, binary.LittleEndian.Uint64(plain))
		}
		plain = plain[:0:0]
	}
	if n, _ := r.Read(sealed[:1]); n != 0 {
		return bad("something follows its last chunk")
	}
	return c, nil
}
