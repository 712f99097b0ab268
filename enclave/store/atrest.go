package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"yingzhou.dev/lab/enclave"
)

// Keys gives and takes back the data keys that blobs are encrypted with at rest, each wrapped under a key that can be
// destroyed. Package datakey has them in Vault.
type Keys interface {
	// Fresh draws a data key for a blob that begins with head. ref is all that Open needs, and no secret.
	Fresh(ctx context.Context, head []byte) (key []byte, ref Ref, err error)
	// Open unwraps a data key. One whose wrapping key was destroyed is enclave.ErrNotFound.
	Open(ctx context.Context, ref Ref) (key []byte, err error)
}

// Ref is a wrapped data key.
type Ref struct {
	Scope   string `json:"scope"`   // what is disposed of together
	ID      []byte `json:"id"`      // random: the context of the wrapping
	Wrapped string `json:"wrapped"` // by Keys
}

// A blob at rest is
//
//	"YZREST01" | length of the reference, uint16 LE | reference, JSON | chunks
//
// where chunk i of 64 KiB of the blob is AES-256-GCM under the blob's own data key, with nonce i (11 bytes, big-endian)
// and a byte that is 1 in the last chunk only, and with everything before the chunks as additional data. (The STREAM
// construction, as age uses it.) A file that is cut short, lengthened or put together from two does not open.
const (
	restMagic = "YZREST01"
	restChunk = 64 << 10
	restTag   = 16
	headBytes = 4096 // what Keys.Fresh may look at
)

// OpenAtRest opens or creates a store whose blobs are encrypted in their files. Nobody can map them: nodes keep copies of
// their own in stores of the other sort, which are dropped when a dataset ends and are ciphertexts of its key in any case.
func OpenAtRest(dir string, keys Keys) (*Store, error) {
	s, err := Open(dir)
	if err != nil {
		return nil, err
	}
	s.keys = keys
	return s, nil
}

var errAtRest = errors.New("blobs of this store are encrypted at rest and cannot be mapped")

func restAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func restNonce(chunk int64, last bool) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[3:], uint64(chunk))
	if last {
		nonce[11] = 1
	}
	return nonce
}

// restWriter encrypts what is written to it. Nothing reaches the file before the head of the blob is known.
type restWriter struct {
	keys  Keys
	out   io.Writer
	buf   []byte
	box   cipher.AEAD // nil before the head is written
	head  []byte
	chunk int64
}

func (w *restWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(w.buf) == restChunk { // more follows: it is not the last
			if err := w.flush(false); err != nil {
				return n - len(p), err
			}
		}
		take := min(len(p), restChunk-len(w.buf))
		w.buf, p = append(w.buf, p[:take]...), p[take:]
	}
	return n, nil
}

func (w *restWriter) flush(last bool) error {
	if w.box == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	sealed := w.box.Seal(nil, restNonce(w.chunk, last), w.buf, w.head)
	w.chunk++
	w.buf = w.buf[:0]
	_, err := w.out.Write(sealed)
	return err
}

func (w *restWriter) begin() error {
	// The wrapping key may be in a Vault that is away; a writer has no context, and the Vault's client its own patience.
	key, ref, err := w.keys.Fresh(context.Background(), w.buf[:min(len(w.buf), headBytes)])
	if err != nil {
		return fmt.Errorf("data key: %w", err)
	}
	defer clear(key)
	if w.box, err = restAEAD(key); err != nil {
		return err
	}
	text, err := json.Marshal(ref)
	if err != nil || len(text) > 1<<15 {
		return errors.Join(errors.New("data key: its reference is too long"), err)
	}
	w.head = binary.LittleEndian.AppendUint16([]byte(restMagic), uint16(len(text)))
	w.head = append(w.head, text...)
	_, err = w.out.Write(w.head)
	return err
}

// restReader decrypts a file from an offset of the blob on.
type restReader struct {
	f      *os.File
	box    cipher.AEAD
	head   []byte
	chunk  int64
	chunks int64  // in all
	size   int64  // of the blob
	skip   int64  // of the next chunk
	buf    []byte // one sealed chunk
	rest   []byte // what of it, opened, is still to be read
}

func (s *Store) openAtRest(ctx context.Context, f *os.File, offset int64) (*restReader, error) {
	r := &restReader{f: f}
	ref, err := r.begin()
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > r.size {
		return nil, fmt.Errorf("offset %d of %d bytes", offset, r.size)
	}
	key, err := s.keys.Open(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	defer clear(key)
	if r.box, err = restAEAD(key); err != nil {
		return nil, err
	}
	// The end of the blob at a chunk's border is in the last chunk, which is read to see that the file is whole.
	r.chunk = min(offset/restChunk, r.chunks-1)
	r.skip = offset - r.chunk*restChunk
	_, err = f.Seek(int64(len(r.head))+r.chunk*(restChunk+restTag), io.SeekStart)
	return r, err
}

// begin reads what comes before the chunks and reckons the size.
func (r *restReader) begin() (ref Ref, err error) {
	start := make([]byte, len(restMagic)+2)
	if _, err := io.ReadFull(r.f, start); err != nil || !bytes.HasPrefix(start, []byte(restMagic)) {
		return ref, fmt.Errorf("%w: it is not a blob at rest", enclave.ErrBlob)
	}
	text := make([]byte, binary.LittleEndian.Uint16(start[len(restMagic):]))
	if _, err := io.ReadFull(r.f, text); err != nil {
		return ref, fmt.Errorf("%w: it is cut short", enclave.ErrBlob)
	}
	if err := json.Unmarshal(text, &ref); err != nil {
		return ref, fmt.Errorf("%w: its reference to a data key does not parse", enclave.ErrBlob)
	}
	r.head = append(start, text...)
	info, err := r.f.Stat()
	if err != nil {
		return ref, err
	}
	sealed := info.Size() - int64(len(r.head))
	r.chunks = (sealed + restChunk + restTag - 1) / (restChunk + restTag)
	r.size = sealed - r.chunks*restTag
	if r.chunks < 1 || r.size < 0 {
		return ref, fmt.Errorf("%w: it is cut short", enclave.ErrBlob)
	}
	return ref, nil
}

func (r *restReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.chunk == r.chunks {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *restReader) next() error {
	last := r.chunk == r.chunks-1
	if r.buf == nil {
		r.buf = make([]byte, restChunk+restTag)
	}
	sealed := r.buf
	n, err := io.ReadFull(r.f, sealed)
	if err != nil && !(last && errors.Is(err, io.ErrUnexpectedEOF)) {
		return fmt.Errorf("%w: it is cut short", enclave.ErrBlob)
	}
	plain, err := r.box.Open(sealed[:0], restNonce(r.chunk, last), sealed[:n], r.head)
	if err != nil {
		return fmt.Errorf("%w: chunk %d does not open", enclave.ErrBlob, r.chunk)
	}
	r.chunk++
	r.rest, r.skip = plain[min(r.skip, int64(len(plain))):], 0
	return nil
}

func (r *restReader) Close() error { return r.f.Close() }
