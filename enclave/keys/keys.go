// Package keys has custody of secrets: a custodian's pieces of keysets and the PRF keys that go with them, an agency's
// own dataset keys, and the signing and receiving keys of people and machines.
//
// The interfaces follow what HashiCorp Vault offers (transit: encrypt, HMAC, sign; kv v2: check-and-set), so that a
// Vault can stand behind them: a PRF key is used where it lies and never handed out. The file keyring in this package
// is the embedded default for development: its wrapping key lies beside what it wraps, and it says so.
//
// Keys never appear in an error or log; their types redact themselves.
package keys

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// Errors that callers branch on.
var (
	// ErrNoPiece means that this custodian does not hold the piece: it is another's, or it was destroyed.
	ErrNoPiece = errors.New("key piece is not held here")
	// ErrExists means that a different secret is already stored under the name; nothing was overwritten.
	ErrExists = errors.New("another secret is already stored under this name")
	// ErrDamaged means that a stored secret does not authenticate.
	ErrDamaged = errors.New("stored secret is damaged")
)

// PieceID names one piece of one keyset.
type PieceID struct {
	Keyset enclave.Digest
	Piece  int // index into Keyset.Pieces
}

// Keyring is a custodian's custody of key pieces.
type Keyring interface {
	// Import stores a piece and its PRF key. Storing the same again does nothing; storing another is ErrExists.
	Import(ctx context.Context, id PieceID, secret PieceSecret) error
	// Piece unwraps a piece's bytes into memory of the caller, who erases them after use.
	Piece(ctx context.Context, id PieceID) ([]byte, error)
	// PRF is HMAC-SHA256 of message under the piece's PRF key, which stays inside.
	PRF(ctx context.Context, id PieceID, message []byte) ([32]byte, error)
	// Destroy removes every piece of a keyset. What was saved elsewhere under the wrapping key alone stays unreadable.
	Destroy(ctx context.Context, keyset enclave.Digest) error
	// Rotate wraps every piece of a keyset under a new wrapping key and destroys the old one. Without a piece it is
	// ErrNoPiece.
	Rotate(ctx context.Context, keyset enclave.Digest) error
}

// Signer signs as one party.
type Signer interface {
	Name() string
	Sign(kind string, body []byte) (canon.Signature, error)
}

// SealWith encodes v and has the signer sign it.
func SealWith(s Signer, kind string, v any) (canon.Signed, error) {
	body, err := canon.Marshal(v)
	if err != nil {
		return canon.Signed{}, err
	}
	sig, err := s.Sign(kind, body)
	if err != nil {
		return canon.Signed{}, err
	}
	return canon.Signed{Kind: kind, Body: body, Sigs: []canon.Signature{sig}}, nil
}

// PieceSecret is what the owner deals to each holder of a piece.
type PieceSecret struct {
	PRF   [32]byte // key of smudging and noise, the same for every holder of the piece
	Piece []byte   // Piece, encoded
}

// Commitment is what the Keyset publishes for a piece; its 32 random bytes make it hiding.
func (s PieceSecret) Commitment() enclave.Digest {
	h := sha256.New()
	h.Write([]byte("yingzhou piece commitment\x00"))
	h.Write(s.PRF[:])
	h.Write(s.Piece)
	return enclave.Digest(h.Sum(nil))
}

// Encode writes the secret for transport under HPKE.
func (s PieceSecret) Encode() []byte { return append(append([]byte(nil), s.PRF[:]...), s.Piece...) }

// ParsePieceSecret reads what Encode wrote. The piece itself is checked by ParsePiece and by the commitment.
func ParsePieceSecret(data []byte) (PieceSecret, error) {
	var s PieceSecret
	if len(data) <= len(s.PRF) {
		return s, errors.New("parsing key piece: too short")
	}
	copy(s.PRF[:], data)
	s.Piece = append([]byte(nil), data[len(s.PRF):]...)
	return s, nil
}

// Piece is what a keyring keeps of a dealt piece beside its PRF key.
type Piece struct {
	// Lineage is a part of what a custodian opens component keys of shares with (shares.NodeSecret). It is the same in every
	// dealing of the owner's key, so that shares outlive a refresh, and ends with the keyset.
	Lineage []byte // LineageBytes
	Key     []byte // he.KeyPiece bytes
}

// LineageBytes is how long the part for component keys is.
const LineageBytes = 32

// Encode writes the piece for PieceSecret.Piece.
func (p Piece) Encode() []byte { return append(append([]byte(nil), p.Lineage...), p.Key...) }

// ParsePiece reads what Encode wrote. Both are parts of data, not copies, so that Erase leaves nothing of it.
func ParsePiece(data []byte) (Piece, error) {
	if len(data) <= LineageBytes {
		return Piece{}, errors.New("parsing key piece: too short")
	}
	return Piece{Lineage: data[:LineageBytes], Key: data[LineageBytes:]}, nil
}

// Erase overwrites the piece.
func (p Piece) Erase() { clear(p.Lineage); clear(p.Key) }

func (p Piece) String() string         { return "[piece]" }
func (p Piece) GoString() string       { return "[piece]" }
func (s PieceSecret) String() string   { return "[piece secret]" }
func (s PieceSecret) GoString() string { return "[piece secret]" }

// PieceInfo is the HPKE info string of a dealt piece: it binds keyset, piece and receiver.
func PieceInfo(id PieceID, custodian string) []byte {
	info := append([]byte("yingzhou piece v2\x00"), id.Keyset[:]...)
	info = binary.LittleEndian.AppendUint32(info, uint32(id.Piece))
	return append(info, custodian...)
}

// TableInfo is the HPKE info string of a result on its way to the operator.
func TableInfo(release enclave.Digest) []byte {
	return append([]byte("yingzhou table v1\x00"), release[:]...)
}
