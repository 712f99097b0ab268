package prio3

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
)

// A report on the wire (docs/FORMATS.md, "Reports"). Every part has a length that the collection fixes, so there is one
// way to write a report and nothing may follow it.
//
//	magic | collection | id | reporter | public share | leader's ciphertext | helper's ciphertext | signature
const (
	reportMagic  = "YZREPORT01"
	idBytes      = 16
	sealOverhead = 1120 + 16 // X-Wing encapsulated key and AES-256-GCM tag
)

// maxReport bounds a frame of a spool.
const maxReport = 4 << 20

type report struct {
	collection enclave.Digest
	id         [idBytes]byte
	reporter   uint32
	public     []byte
	sealed     [aggregators][]byte
	signed     []byte // everything before the signature
	signature  []byte
}

// ReportBytes is the length of every report to the collection.
func (t *Task) ReportBytes() int {
	n := len(reportMagic) + len(t.Digest) + idBytes + 4 + t.vdaf.public + ed25519.SignatureSize
	for _, in := range t.vdaf.input {
		n += in + sealOverhead
	}
	return n
}

// parse takes a report apart. It reads nothing but lengths: whether the parts are any good is found out later.
func (t *Task) parse(data []byte) (*report, error) {
	if len(data) != t.ReportBytes() || !bytes.HasPrefix(data, []byte(reportMagic)) {
		return nil, fmt.Errorf("report of %d bytes is not one of this collection, which has %d", len(data), t.ReportBytes())
	}
	r := &report{signed: data[:len(data)-ed25519.SignatureSize], signature: data[len(data)-ed25519.SignatureSize:]}
	rest := data[len(reportMagic):]
	take := func(n int) []byte {
		out := rest[:n:n]
		rest = rest[n:]
		return out
	}
	copy(r.collection[:], take(len(r.collection)))
	copy(r.id[:], take(idBytes))
	r.reporter = binary.LittleEndian.Uint32(take(4))
	r.public = take(t.vdaf.public)
	for i := range r.sealed {
		r.sealed[i] = take(t.vdaf.input[i] + sealOverhead)
	}
	return r, nil
}

// info binds a share to its report and receiver: no part of one report opens in another.
func (r *report) info(aggregator int) []byte {
	out := append([]byte("yingzhou report v1\x00"), r.collection[:]...)
	out = append(out, r.id[:]...)
	out = binary.LittleEndian.AppendUint32(out, r.reporter)
	sum := sha256.Sum256(r.public)
	return append(append(out, sum[:]...), byte(aggregator))
}

// signedText is what the reporter signs.
func signedText(body []byte) []byte { return append([]byte("yingzhou report\n"), body...) }

// Report makes one reporter's report. measurement has one element, or one per label for a vector: 0 or 1 for a count, the
// value for a sum, the label's index for a histogram. public are the aggregators' receiving keys, leader's first.
func (t *Task) Report(reporter int, key ed25519.PrivateKey, public [aggregators][]byte, measurement []uint64) ([]byte, error) {
	if reporter < 0 || reporter >= len(t.Reporters) {
		return nil, fmt.Errorf("reporting to collection %q: there is no reporter %d", t.Name, reporter)
	}
	r := &report{collection: t.Digest, reporter: uint32(reporter)}
	coins := make([]byte, t.vdaf.rand)
	rand.Read(r.id[:]) // never fails: see crypto/rand
	rand.Read(coins)
	var shares [aggregators][]byte
	var err error
	t.with(func(v *vdaf) { r.public, shares, err = v.shard(measurement, r.id, coins) })
	if err != nil {
		return nil, fmt.Errorf("reporting to collection %q: %w", t.Name, err)
	}
	for i := range r.sealed {
		if r.sealed[i], err = keys.SealTo(public[i], r.info(i), shares[i]); err != nil {
			return nil, fmt.Errorf("reporting to collection %q: %w", t.Name, err)
		}
	}
	return r.encode(key), nil
}

func (r *report) encode(key ed25519.PrivateKey) []byte {
	out := append([]byte(reportMagic), r.collection[:]...)
	out = append(out, r.id[:]...)
	out = binary.LittleEndian.AppendUint32(out, r.reporter)
	out = append(out, r.public...)
	for _, s := range r.sealed {
		out = append(out, s...)
	}
	return append(out, ed25519.Sign(key, signedText(out))...)
}

// A spool holds reports as they came in, each behind its length (uint32 LE). What is in a frame is not judged here.

// WriteReport appends a frame.
func WriteReport(w io.Writer, data []byte) error {
	if len(data) > maxReport {
		return fmt.Errorf("a report of %d bytes is longer than any", len(data))
	}
	_, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

// errFrame means that what follows cannot be taken apart.
var errFrame = errors.New("reports end in the middle of one, or one is longer than any")

// ReadReport reads the next frame; io.EOF at the end. A frame that is cut off or longer than any report ends the spool
// with an error, because nothing after it can be found.
func ReadReport(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, frame(err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxReport {
		return nil, fmt.Errorf("reading a report: a frame of %d bytes: %w", n, errFrame)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, frame(err)
	}
	return data, nil
}

func frame(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errFrame
	}
	return fmt.Errorf("reading a report: %w", err)
}
