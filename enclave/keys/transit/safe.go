package transit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"yingzhou.dev/lab/enclave/vault"
)

// Safe keeps an owner's own secrets in its Vault: an agency's dataset keys and project keys. Unlike the secrets of a
// Keyring each is wrapped under a transit key of its own, so that a secret that is forgotten is gone wherever a copy of
// what kv held lies.
//
//	transit/keys/own-H   AES-256-GCM, derived: wraps one secret, H is 16 bytes of the digest of its name
//	kv/own/H             its wrapped data key and where its parts are
type Safe struct{ ring *Keyring }

// NewSafe makes a safe of a client. It calls nothing.
func NewSafe(c *vault.Client) *Safe { return &Safe{ring: New(c)} }

func owned(name string) sealed {
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:16]) // and not the name, whose length a Vault on files could not take
	return sealed{key: "own-" + id, context: append([]byte("yingzhou vault own v1\x00"), name...), path: "own/" + id}
}

// Put stores a secret under a name. Putting the same again does nothing; another is keys.ErrExists.
func (s *Safe) Put(ctx context.Context, name string, secret []byte) error {
	at := owned(name)
	err := s.ring.c.Audited(ctx)
	if err == nil {
		err = s.ring.c.CreateWrapping(ctx, at.key)
	}
	if err == nil {
		err = s.ring.put(ctx, at, secret)
	}
	if err != nil {
		return fmt.Errorf("storing secret %q: %w", name, err)
	}
	return nil
}

// Get unwraps a secret into memory of the caller, who erases it. A missing one is fs.ErrNotExist, as on files.
func (s *Safe) Get(ctx context.Context, name string) ([]byte, error) {
	at := owned(name)
	err := s.ring.c.Audited(ctx)
	if err == nil {
		var plain []byte
		if plain, err = s.ring.get(ctx, at); err == nil {
			return plain, nil
		}
	}
	gone := errors.Is(err, vault.ErrNotFound)
	if errors.Is(err, vault.ErrRejected) { // as transit answers for a key that it does not have
		there, look := s.ring.c.HasKey(ctx, at.key)
		gone, err = look == nil && !there, errors.Join(err, look)
	}
	if gone {
		err = errors.Join(err, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("reading secret %q: %w", name, err)
}

// Forget destroys a secret: first the key that wraps it, then what it wrapped. One that is not there is no error.
func (s *Safe) Forget(ctx context.Context, name string) error {
	at := owned(name)
	err := s.ring.c.Audited(ctx)
	if err == nil {
		err = s.ring.c.DeleteKey(ctx, at.key)
	}
	if err == nil {
		err = s.ring.remove(ctx, at.path)
	}
	if err != nil {
		return fmt.Errorf("removing secret %q: %w", name, err)
	}
	return nil
}
