package mpc

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"yingzhou.dev/lab/enclave"
)

// Digest names a program, a component or a question by SHA-256.
type Digest = enclave.Digest

// ErrComponent means that a dealt component is not what its commitment or its encoding promises.
var ErrComponent = errors.New("dealt component is damaged or not the one committed to")

// Component is one of the three parts of a dealt column: a seed that expands to as many words as there are rows, or the
// words. Components 0 and 1 are seeds and component 2 makes the sum right, so node 0 receives two seeds and the others a
// seed and the words. Encode it, encrypt it to its two holders, and publish its Commitment.
type Component struct {
	Kind Kind
	Rows int
	// Salt keeps the commitment from confirming a guess of the column to the node that lacks this component.
	Salt  [32]byte
	Seed  [32]byte // used if Words is nil
	Words []uint64
}

// Holders are the nodes that hold component c: c itself and the one before.
func Holders(c int) [2]int { return [2]int{c % Nodes, (c + Nodes - 1) % Nodes} }

// Deal splits the values of a column: two's complement for a number. Randomness must be cryptographic.
func Deal(random io.Reader, kind Kind, values []uint64) ([Nodes]Component, error) {
	var out [Nodes]Component
	if kind != Number && kind != Word {
		return out, fmt.Errorf("dealing a column of kind %q: only numbers and words are dealt", kind)
	}
	for c := range out {
		out[c].Kind, out[c].Rows = kind, len(values)
		if _, err := io.ReadFull(random, out[c].Salt[:]); err != nil {
			return out, fmt.Errorf("dealing a column: %w", err)
		}
	}
	for c := range Nodes - 1 {
		if _, err := io.ReadFull(random, out[c].Seed[:]); err != nil {
			return out, fmt.Errorf("dealing a column: %w", err)
		}
	}
	x0, x1 := out[0].Expand(), out[1].Expand()
	for i, v := range values {
		if kind == Number {
			x0[i] = v - x0[i] - x1[i]
		} else {
			x0[i] ^= v ^ x1[i]
		}
	}
	out[Nodes-1].Words = x0
	return out, nil
}

// Expand is the component's words. The caller may write to them only if the component is a seed.
func (c Component) Expand() []uint64 {
	if c.Words != nil || c.Rows == 0 {
		return c.Words
	}
	block, err := aes.NewCipher(c.Seed[:])
	if err != nil {
		panic("mpc: a seed is an AES-256 key: " + err.Error())
	}
	buf := make([]byte, 8*min(c.Rows, 4096))
	out := make([]uint64, c.Rows)
	stream := cipher.NewCTR(block, make([]byte, aes.BlockSize))
	for at := 0; at < c.Rows; {
		clear(buf)
		stream.XORKeyStream(buf, buf)
		for o := 0; o < len(buf) && at < c.Rows; o += 8 {
			out[at] = binary.LittleEndian.Uint64(buf[o:])
			at++
		}
	}
	return out
}

// Commitment is the SHA-256 of the encoding: what the Manifest publishes and each holder checks before use.
func (c Component) Commitment() Digest {
	h := sha256.New()
	c.encode(h)
	return Digest(h.Sum(nil))
}

// Encoding: magic, kind, form, rows, salt, then the seed or the words; integers little-endian.
const (
	componentMagic = "yzmpc.c1"
	headerSize     = len(componentMagic) + 1 + 1 + 8 + 32
	seedForm       = 0
	wordForm       = 1
	// MaxRows bounds a frame; row numbers fit 32 bits.
	MaxRows = 1 << 27
)

// Encode is the component's one encoding.
func (c Component) Encode() []byte {
	var out bytes.Buffer
	out.Grow(headerSize + max(len(c.Seed), 8*len(c.Words)))
	c.encode(&out)
	return out.Bytes()
}

// encode writes to what never fails.
func (c Component) encode(w io.Writer) {
	header := make([]byte, 0, headerSize)
	header = append(header, componentMagic...)
	form := byte(seedForm)
	if c.Words != nil {
		form = wordForm
	}
	header = append(header, c.Kind[0], form)
	header = binary.LittleEndian.AppendUint64(header, uint64(c.Rows))
	w.Write(append(header, c.Salt[:]...))
	if c.Words == nil {
		w.Write(c.Seed[:])
		return
	}
	var block [4096]byte
	for words := c.Words; len(words) > 0; {
		n := min(len(words), len(block)/8)
		for i, v := range words[:n] {
			binary.LittleEndian.PutUint64(block[8*i:], v)
		}
		w.Write(block[:8*n])
		words = words[n:]
	}
}

// ParseComponent reads what Encode wrote, and nothing else.
func ParseComponent(data []byte) (Component, error) {
	var c Component
	if len(data) < headerSize || string(data[:len(componentMagic)]) != componentMagic {
		return c, fmt.Errorf("parsing component: %w: no header", ErrComponent)
	}
	rest := data[len(componentMagic):]
	switch rest[0] {
	case Number[0]:
		c.Kind = Number
	case Word[0]:
		c.Kind = Word
	default:
		return c, fmt.Errorf("parsing component: %w: kind %d", ErrComponent, rest[0])
	}
	form, rows := rest[1], binary.LittleEndian.Uint64(rest[2:])
	if rows > MaxRows {
		return c, fmt.Errorf("parsing component: %w: %d rows are more than %d", ErrComponent, rows, MaxRows)
	}
	c.Rows = int(rows)
	copy(c.Salt[:], rest[10:])
	body := data[headerSize:]
	switch {
	case form == seedForm && len(body) == 32:
		copy(c.Seed[:], body)
	case form == wordForm && len(body) == 8*c.Rows:
		c.Words = make([]uint64, c.Rows)
		for i := range c.Words {
			c.Words[i] = binary.LittleEndian.Uint64(body[8*i:])
		}
	default:
		return Component{}, fmt.Errorf("parsing component: %w: form %d of %d rows with %d bytes", ErrComponent, form, rows, len(body))
	}
	return c, nil
}
