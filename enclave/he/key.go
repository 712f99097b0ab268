package he

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/tuneinsight/lattigo/v6/ring"
	"github.com/tuneinsight/lattigo/v6/utils/sampling"
)

// SecretKey is an owner's ternary secret, kept in the NTT domain. It never leaves the agency.
type SecretKey struct {
	p *Params
	s []uint64 // NTT, plain residues
}

// GenerateKey draws a uniform ternary secret from the operating system's generator.
func GenerateKey(p *Params) (*SecretKey, error) {
	prng, err := sampling.NewPRNG()
	if err != nil {
		return nil, fmt.Errorf("drawing secret key: %w", err)
	}
	sampler, err := ring.NewSampler(prng, p.ringQ, ring.Ternary{P: 2.0 / 3}, false)
	if err != nil {
		return nil, fmt.Errorf("drawing secret key: %w", err)
	}
	k := &SecretKey{p: p, s: make([]uint64, p.Words())}
	poly := p.poly(k.s)
	sampler.Read(poly)
	p.ringQ.NTT(poly, poly)
	return k, nil
}

// LogValue keeps the key out of logs.
func (k *SecretKey) LogValue() slog.Value { return slog.StringValue("[secret key]") }

// String keeps the key out of formatted text.
func (k *SecretKey) String() string { return "[secret key]" }

// Erase overwrites the key. The garbage collector may have moved nothing: the slice is never copied.
func (k *SecretKey) Erase() { clear(k.s) }

const (
	secretMagic = "YZSECRET1"
	pieceMagic  = "YZPIECE01"
)

// MarshalBinary writes the key for the owner's own keyring.
func (k *SecretKey) MarshalBinary() []byte { return appendWords([]byte(secretMagic), k.s) }

// Derive is a secret of the owner that follows from the key, the same whenever it is asked for, and from which the key does
// not follow: HKDF-SHA256 (RFC 5869) of MarshalBinary, with info.
func (k *SecretKey) Derive(info string) (out [32]byte, err error) {
	data := k.MarshalBinary()
	defer clear(data)
	key, err := hkdf.Key(sha256.New, data, nil, info, len(out))
	if err != nil {
		return out, fmt.Errorf("deriving from the secret key: %w", err)
	}
	defer clear(key)
	return [32]byte(key), nil
}

// ParseSecretKey reads what MarshalBinary wrote.
func ParseSecretKey(p *Params, data []byte) (*SecretKey, error) {
	words, err := p.parseWords(data, secretMagic, 1)
	if err != nil {
		return nil, fmt.Errorf("parsing secret key: %w", err)
	}
	return &SecretKey{p: p, s: words}, nil
}

// KeyPiece is one additive part of s and of s². Each polynomial is uniform by itself. The pieces of s² make opening of
// degree-two results linear, so no relinearisation key exists.
type KeyPiece struct {
	p      *Params
	s1, s2 []uint64 // NTT
}

func (k *KeyPiece) LogValue() slog.Value { return slog.StringValue("[key piece]") }
func (k *KeyPiece) String() string       { return "[key piece]" }

// Erase overwrites the piece.
func (k *KeyPiece) Erase() { clear(k.s1); clear(k.s2) }

// MarshalBinary writes the piece for its holders' keyrings.
func (k *KeyPiece) MarshalBinary() []byte {
	return appendWords(appendWords([]byte(pieceMagic), k.s1), k.s2)
}

// ParseKeyPiece reads what MarshalBinary wrote.
func ParseKeyPiece(p *Params, data []byte) (*KeyPiece, error) {
	words, err := p.parseWords(data, pieceMagic, 2)
	if err != nil {
		return nil, fmt.Errorf("parsing key piece: %w", err)
	}
	return &KeyPiece{p: p, s1: words[:p.Words()], s2: words[p.Words():]}, nil
}

// Split shares s and s² additively: all pieces but the last are uniform, and the last makes the sums right, so any
// proper subset of the pieces is uniform and independent of s.
func (k *SecretKey) Split(pieces int) ([]*KeyPiece, error) {
	if pieces < 2 {
		return nil, fmt.Errorf("splitting a key into %d pieces hides nothing", pieces)
	}
	p := k.p
	last := &KeyPiece{p: p, s1: slices.Clone(k.s), s2: make([]uint64, p.Words())}
	s, sq := p.poly(k.s), p.poly(last.s2)
	p.ringQ.MulCoeffsBarrett(s, s, sq)
	out := make([]*KeyPiece, 0, pieces)
	for range pieces - 1 {
		piece := &KeyPiece{p: p, s1: make([]uint64, p.Words()), s2: make([]uint64, p.Words())}
		for _, part := range []struct{ piece, rest []uint64 }{{piece.s1, last.s1}, {piece.s2, last.s2}} {
			var seed [32]byte
			if _, err := rand.Read(seed[:]); err != nil {
				return nil, fmt.Errorf("drawing key piece: %w", err)
			}
			p.Uniform(seed[:], part.piece)
			p.ringQ.Sub(p.poly(part.rest), p.poly(part.piece), p.poly(part.rest))
		}
		out = append(out, piece)
	}
	return append(out, last), nil
}

func appendWords(out []byte, words []uint64) []byte {
	for _, w := range words {
		out = binary.LittleEndian.AppendUint64(out, w)
	}
	return out
}

var errResidue = errors.New("a residue is not reduced")

// parseWords reads polys polynomials and insists on fully reduced residues, so a value has one encoding.
func (p *Params) parseWords(data []byte, magic string, polys int) ([]uint64, error) {
	body, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok {
		return nil, fmt.Errorf("does not start with %s", magic)
	}
	if len(body) != polys*p.Words()*8 {
		return nil, fmt.Errorf("%d bytes, want %d for %s", len(body), polys*p.Words()*8, p.Set.Name)
	}
	out := make([]uint64, polys*p.Words())
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(body[8*i:])
		if out[i] >= p.q[i/p.n%p.l] {
			return nil, errResidue
		}
	}
	return out, nil
}
