// Package signer signs with Ed25519 keys that a Vault's transit engine has and never gives away: statements of a party,
// and signed notes such as a log's checkpoints (C2SP signed-note). It opens nothing and holds no key, so the control
// plane may link it.
//
// Each signature is checked under the public key that the roster has before it is given out: a key that was rotated or
// replaced in Vault signs nothing.
package signer

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/canon"
)

// ErrKey means that the key in Vault is not the one that the roster has.
var ErrKey = errors.New("the key in vault is not the one that the roster has: was it rotated?")

// Signer signs as one party. Several goroutines may use it.
type Signer struct {
	c      *vault.Client
	name   string // party
	key    string // transit key
	public ed25519.PublicKey
}

// Open is a signer whose public key is known. It calls nothing: the Vault may be down now and back later.
func Open(c *vault.Client, party, key string, public ed25519.PublicKey) *Signer {
	return &Signer{c: c, name: party, key: key, public: public}
}

// Read is a signer whose public key Vault tells: for making a roster, and nothing else.
func Read(ctx context.Context, c *vault.Client, party, key string) (*Signer, error) {
	s := Open(c, party, key, nil)
	var err error
	if s.public, err = s.latest(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Signer) latest(ctx context.Context) (ed25519.PublicKey, error) {
	var out struct {
		Type   string `json:"type"`
		Latest int    `json:"latest_version"`
		Keys   map[string]struct {
			Public []byte `json:"public_key"`
		} `json:"keys"`
	}
	if err := s.c.Read(ctx, s.c.Transit("keys", s.key), &out); err != nil {
		return nil, fmt.Errorf("signing key of %q: %w", s.name, err)
	}
	public := out.Keys[strconv.Itoa(out.Latest)].Public
	if out.Type != "ed25519" || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("signing key of %q: transit key %q is %q and not ed25519", s.name, s.key, out.Type)
	}
	return public, nil
}

// Ready reports what would keep the signer from signing now. It signs nothing.
func (s *Signer) Ready(ctx context.Context) error {
	if err := s.c.Audited(ctx); err != nil {
		return fmt.Errorf("signing key of %q: %w", s.name, err)
	}
	have, err := s.latest(ctx)
	if err == nil && !have.Equal(s.public) {
		err = fmt.Errorf("signing key of %q: transit key %q: %w", s.name, s.key, ErrKey)
	}
	return err
}

// Name is the party's name.
func (s *Signer) Name() string { return s.name }

// Verify is the public key, as it stands in the roster.
func (s *Signer) Verify() ed25519.PublicKey { return s.public }

// Sign signs as canon.Sign does.
func (s *Signer) Sign(kind string, body []byte) (canon.Signature, error) {
	sig, err := s.sign(canon.Message(kind, body))
	return canon.Signature{By: s.name, Sig: sig}, err
}

func (s *Signer) sign(message []byte) ([]byte, error) {
	// Signing has no context of its own: it takes milliseconds, and the client's patience bounds it.
	ctx := context.Background()
	if err := s.c.Audited(ctx); err != nil {
		return nil, fmt.Errorf("signing as %q: %w", s.name, err)
	}
	var out struct {
		Signature string `json:"signature"`
	}
	if err := s.c.Write(ctx, s.c.Transit("sign", s.key), map[string]any{"input": message}, &out); err != nil {
		return nil, fmt.Errorf("signing as %q: %w", s.name, err)
	}
	sig, err := base64.StdEncoding.DecodeString(out.Signature[strings.LastIndexByte(out.Signature, ':')+1:])
	if err != nil || !ed25519.Verify(s.public, message, sig) {
		return nil, fmt.Errorf("signing as %q: transit key %q: %w", s.name, s.key, ErrKey)
	}
	return sig, nil
}

func (s *Signer) LogValue() slog.Value { return slog.StringValue("[signer " + s.name + "]") }
func (s *Signer) String() string       { return "[signer " + s.name + "]" }

// Note is a note.Signer: it signs a log's checkpoints and other signed notes.
type Note struct {
	s *Signer
	v note.Verifier
}

// OpenNote is the signer of a note key that is given as text, NAME+HASH+KEY, as a roster has a log's. It calls nothing.
func OpenNote(c *vault.Client, key, vkey string) (*Note, error) {
	v, err := note.NewVerifier(vkey) // checks the form: a name, a hash, and the key after a byte that says which kind it is
	if err != nil {
		return nil, fmt.Errorf("note key %q: %w", vkey, err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return nil, fmt.Errorf("note key %q is not Ed25519", vkey)
	}
	return &Note{s: Open(c, v.Name(), key, raw[1:]), v: v}, nil
}

// NoteKey is the text form of a signer's public key as a note key, for the roster.
func (s *Signer) NoteKey(name string) (string, error) {
	return note.NewEd25519VerifierKey(name, s.public)
}

// Name implements note.Signer: the name of a note's key.
func (n *Note) Name() string { return n.v.Name() }

// KeyHash implements note.Signer.
func (n *Note) KeyHash() uint32 { return n.v.KeyHash() }

// Sign implements note.Signer.
func (n *Note) Sign(message []byte) ([]byte, error) { return n.s.sign(message) }

// Verifier is of the same key.
func (n *Note) Verifier() note.Verifier { return n.v }

// Ready reports what would keep it from signing now. It signs nothing.
func (n *Note) Ready(ctx context.Context) error { return n.s.Ready(ctx) }
