package transit

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/canon"
)

// Signer signs as one party with an Ed25519 key that transit has and never gives away. Each signature is checked before
// it is returned: a key that was rotated in Vault but not in the roster must not sign anything.
type Signer struct {
	c      *vault.Client
	name   string // party
	key    string // transit key
	public ed25519.PublicKey
}

// NewSigner reads the public half of a transit key. Vault must be up.
func NewSigner(ctx context.Context, c *vault.Client, party, key string) (*Signer, error) {
	var out struct {
		Type   string `json:"type"`
		Latest int    `json:"latest_version"`
		Keys   map[string]struct {
			Public []byte `json:"public_key"`
		} `json:"keys"`
	}
	if err := c.Read(ctx, c.Transit("keys", key), &out); err != nil {
		return nil, fmt.Errorf("signing key of %q: %w", party, err)
	}
	public := out.Keys[strconv.Itoa(out.Latest)].Public
	if out.Type != "ed25519" || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("signing key of %q: transit key %q is %q and not ed25519", party, key, out.Type)
	}
	return &Signer{c: c, name: party, key: key, public: public}, nil
}

// Name is the party's name.
func (s *Signer) Name() string { return s.name }

// Verify is the public key, as it stands in the roster.
func (s *Signer) Verify() ed25519.PublicKey { return s.public }

// Sign implements keys.Signer.
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
		return nil, fmt.Errorf("signing as %q: the signature is not of the key that the roster has: was transit key %q rotated?", s.name, s.key)
	}
	return sig, nil
}

// Note signs checkpoints and other signed notes (C2SP signed-note) under a note key's name and hash.
func (s *Signer) Note(v note.Verifier) note.Signer { return noteSigner{s, v} }

type noteSigner struct {
	s *Signer
	v note.Verifier
}

func (n noteSigner) Name() string                        { return n.v.Name() }
func (n noteSigner) KeyHash() uint32                     { return n.v.KeyHash() }
func (n noteSigner) Sign(message []byte) ([]byte, error) { return n.s.sign(message) }
