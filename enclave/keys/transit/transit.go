// Package transit keeps a custodian's secrets in its Vault (or OpenBao): transit wraps, computes and signs, kv v2 stores.
//
//	transit/keys/piece-K     AES-256-GCM, derived: wraps the pieces of one dealing K. It never leaves Vault
//	transit/keys/prf-K-p     HMAC: the PRF key of piece p, imported (BYOK) and not exportable: it never leaves Vault
//	transit/keys/sign        Ed25519: the custodian's signatures, made by whoever sets the Vault up
//	transit/keys/secrets     AES-256-GCM, derived: wraps other secrets, such as the receiving key
//	kv/pieces/K/p            the wrapped data key of a piece, and where its parts are
//	kv/pieces/K/p/g-i        part i of the encrypted piece
//
// A piece is 0.4 to 1.3 MB. Vault holds it as ciphertext under a data key that transit wraps with a context of dealing
// and piece: only the data key goes over the wire in the clear (inside TLS), the piece itself is decrypted in memory of
// the custodian and nowhere else, and rewrapping touches 80 bytes. It lies in parts, because Vault's integrated storage
// takes entries of at most 1 MiB.
//
// Every operation on a key first insists on an audit device.
package transit

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/vault"
)

// Keyring is keys.Keyring on a Vault. Several goroutines may use it.
type Keyring struct{ c *vault.Client }

// New makes a keyring of a client. It calls nothing.
func New(c *vault.Client) *Keyring { return &Keyring{c: c} }

func dealing(d enclave.Digest) string  { return hex.EncodeToString(d[:16]) }
func wrapping(d enclave.Digest) string { return "piece-" + dealing(d) }
func prfName(id keys.PieceID) string   { return fmt.Sprintf("prf-%s-%d", dealing(id.Keyset), id.Piece) }
func pathOf(id keys.PieceID) string    { return fmt.Sprintf("pieces/%s/%d", dealing(id.Keyset), id.Piece) }

// derivation is the context that transit derives the wrapping key of one piece from.
func derivation(id keys.PieceID) []byte {
	return binary.LittleEndian.AppendUint32(append([]byte("yingzhou vault piece v1\x00"), id.Keyset[:]...), uint32(id.Piece))
}

// sealed says where and under what a secret is stored.
type sealed struct {
	key     string // transit key
	context []byte
	path    string // in kv
}

func ofPiece(id keys.PieceID) sealed {
	return sealed{key: wrapping(id.Keyset), context: derivation(id), path: pathOf(id)}
}

// Import implements keys.Keyring. It is repeatable: the piece is stored last, so one that is there is whole.
func (r *Keyring) Import(ctx context.Context, id keys.PieceID, secret keys.PieceSecret) error {
	if err := r.c.Audited(ctx); err != nil {
		return fmt.Errorf("importing piece %d of %s: %w", id.Piece, id.Keyset.Short(), err)
	}
	err := r.importPiece(ctx, id, secret)
	if err != nil {
		return fmt.Errorf("importing piece %d of %s: %w", id.Piece, id.Keyset.Short(), err)
	}
	return nil
}

func (r *Keyring) importPiece(ctx context.Context, id keys.PieceID, secret keys.PieceSecret) error {
	have, err := r.get(ctx, ofPiece(id))
	defer clear(have)
	if err != nil && !errors.Is(err, vault.ErrNotFound) {
		return err
	}
	if err == nil && !bytes.Equal(have, secret.Piece) {
		return keys.ErrExists
	}
	if err := r.c.CreateWrapping(ctx, wrapping(id.Keyset)); err != nil {
		return err
	}
	if err := r.importPRF(ctx, prfName(id), secret.PRF[:]); err != nil {
		return err
	}
	if have != nil {
		return nil
	}
	return r.put(ctx, ofPiece(id), secret.Piece)
}

// Piece implements keys.Keyring.
func (r *Keyring) Piece(ctx context.Context, id keys.PieceID) ([]byte, error) {
	err := r.c.Audited(ctx)
	if err == nil {
		var plain []byte
		if plain, err = r.get(ctx, ofPiece(id)); err == nil {
			return plain, nil
		}
	}
	return nil, r.missing(ctx, err, id, wrapping(id.Keyset))
}

// PRF implements keys.Keyring.
func (r *Keyring) PRF(ctx context.Context, id keys.PieceID, message []byte) (out [32]byte, err error) {
	if err = r.c.Audited(ctx); err == nil {
		out, err = r.hmac(ctx, prfName(id), message)
	}
	if err != nil {
		return out, r.missing(ctx, err, id, prfName(id))
	}
	return out, nil
}

// missing turns what Vault says of a key or path that is not there into keys.ErrNoPiece.
func (r *Keyring) missing(ctx context.Context, err error, id keys.PieceID, key string) error {
	gone := errors.Is(err, vault.ErrNotFound)
	if errors.Is(err, vault.ErrRejected) { // as transit answers for a key that it does not have
		there, look := r.c.HasKey(ctx, key)
		gone, err = look == nil && !there, errors.Join(err, look)
	}
	if gone {
		err = keys.ErrNoPiece
	}
	return fmt.Errorf("piece %d of keyset %s: %w", id.Piece, id.Keyset.Short(), err)
}

// Destroy implements keys.Keyring: first the wrapping key, without which what is stored is noise, wherever a copy lies.
func (r *Keyring) Destroy(ctx context.Context, keyset enclave.Digest) error {
	pieces, err := r.pieces(ctx, keyset)
	if err == nil {
		err = r.c.DeleteKey(ctx, wrapping(keyset))
	}
	for _, id := range pieces {
		if err == nil {
			err = r.c.DeleteKey(ctx, prfName(id))
		}
		if err == nil {
			err = r.remove(ctx, pathOf(id))
		}
	}
	if err != nil {
		return fmt.Errorf("destroying keyset %s: %w", keyset.Short(), err)
	}
	return nil
}

// pieces lists what is stored of a dealing.
func (r *Keyring) pieces(ctx context.Context, keyset enclave.Digest) (out []keys.PieceID, err error) {
	names, err := r.c.List(ctx, r.c.KVMetadata("pieces/"+dealing(keyset)))
	seen := map[string]bool{}
	for _, n := range names {
		n = strings.TrimSuffix(n, "/")
		id := keys.PieceID{Keyset: keyset}
		if _, bad := fmt.Sscan(n, &id.Piece); bad == nil && !seen[n] {
			seen[n] = true
			out = append(out, id)
		}
	}
	return out, err
}

// Rotate implements keys.Keyring: a new version of the wrapping key, every data key of the dealing rewrapped under it,
// and then the older versions gone, so that a stolen copy of what was stored before is noise too.
func (r *Keyring) Rotate(ctx context.Context, keyset enclave.Digest) error {
	if err := r.rotate(ctx, keyset); err != nil {
		return fmt.Errorf("rotating the wrapping key of keyset %s: %w", keyset.Short(), err)
	}
	return nil
}

func (r *Keyring) rotate(ctx context.Context, keyset enclave.Digest) error {
	if err := r.c.Audited(ctx); err != nil {
		return err
	}
	pieces, err := r.pieces(ctx, keyset)
	if err != nil {
		return err
	}
	if len(pieces) == 0 {
		return keys.ErrNoPiece
	}
	key := wrapping(keyset)
	if err := r.c.Write(ctx, r.c.Transit("keys", key, "rotate"), nil, nil); err != nil {
		return err
	}
	for _, id := range pieces {
		if err := r.rewrap(ctx, ofPiece(id)); err != nil {
			return err
		}
	}
	var now struct {
		Latest int64 `json:"latest_version"`
	}
	if err := r.c.Read(ctx, r.c.Transit("keys", key), &now); err != nil {
		return err
	}
	if err := r.c.Write(ctx, r.c.Transit("keys", key, "config"), map[string]any{"min_decryption_version": now.Latest, "min_encryption_version": now.Latest}, nil); err != nil {
		return err
	}
	return r.c.Write(ctx, r.c.Transit("keys", key, "trim"), map[string]any{"min_available_version": now.Latest}, nil)
}

func (r *Keyring) rewrap(ctx context.Context, s sealed) error {
	rec, version, err := r.record(ctx, s)
	if err != nil {
		return err
	}
	var fresh struct {
		Ciphertext string `json:"ciphertext"`
	}
	if err := r.c.Write(ctx, r.c.Transit("rewrap", s.key), map[string]any{"ciphertext": rec.DataKey, "context": s.context}, &fresh); err != nil {
		return err
	}
	rec.DataKey = fresh.Ciphertext
	return r.store(ctx, s.path, rec, version)
}

// macText reads `vault:v1:BASE64` from the answer's buffer, without a string in between that could not be erased.
type macText [32]byte

func (m *macText) UnmarshalJSON(data []byte) error {
	data = bytes.Trim(data, `"`)
	at := bytes.LastIndexByte(data, ':')
	if at < 0 || base64.StdEncoding.DecodedLen(len(data)-at-1) > 33 {
		return errors.New("not an HMAC-SHA256")
	}
	var raw [33]byte
	defer clear(raw[:])
	n, err := base64.StdEncoding.Decode(raw[:], data[at+1:])
	if err != nil || n != len(m) {
		return errors.New("not an HMAC-SHA256")
	}
	copy(m[:], raw[:])
	return nil
}

func (r *Keyring) hmac(ctx context.Context, key string, message []byte) ([32]byte, error) {
	var out struct {
		HMAC macText `json:"hmac"`
	}
	err := r.c.Write(ctx, r.c.Transit("hmac", key, "sha2-256"), map[string]any{"input": message}, &out)
	return out.HMAC, err
}

// importPRF brings a PRF key into transit, or makes sure that it is the one there.
func (r *Keyring) importPRF(ctx context.Context, name string, key []byte) error {
	there, err := r.c.HasKey(ctx, name)
	if err != nil {
		return err
	}
	if !there {
		if err := r.bring(ctx, name, key); err != nil && !errors.Is(err, vault.ErrRejected) { // rejected: it is there by now
			return err
		}
	}
	challenge := make([]byte, 32)
	if _, err := rand.Read(challenge); err != nil {
		return err
	}
	got, err := r.hmac(ctx, name, challenge)
	if err != nil {
		return err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(challenge)
	if !hmac.Equal(mac.Sum(nil), got[:]) {
		return keys.ErrExists
	}
	return nil
}

func (r *Keyring) bring(ctx context.Context, name string, key []byte) error {
	var public struct {
		PEM string `json:"public_key"`
	}
	if err := r.c.Read(ctx, r.c.Transit("wrapping_key"), &public); err != nil {
		return err
	}
	wrapped, err := wrapForImport(public.PEM, key)
	if err != nil {
		return err
	}
	return r.c.Write(ctx, r.c.Transit("keys", name, "import"), map[string]any{"ciphertext": wrapped, "hash_function": "SHA256", "type": "hmac"}, nil)
}

func aead(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
