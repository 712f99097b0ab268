// Package datakey has the data keys of a blob store in a Vault: each blob has its own, from transit's datakey, wrapped
// under a key of the blob's dataset lineage. Destroying that key (art. 19) makes every blob of every version unreadable,
// wherever a copy of it lies. What the blobs hold are ciphertexts of the owner's key in any case, so this is a second
// lock, of the control plane's own, and it opens nothing by itself.
package datakey

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/vault"
)

// Keys implements store.Keys.
type Keys struct {
	c *vault.Client

	mu   sync.Mutex
	made map[string]bool // wrapping keys that are known to be there
}

// New keeps data keys in a Vault. It calls nothing.
func New(c *vault.Client) *Keys { return &Keys{c: c, made: map[string]bool{}} }

func name(lineage enclave.Digest) string { return "blobs-" + hex.EncodeToString(lineage[:16]) }

// Fresh implements store.Keys.
func (k *Keys) Fresh(ctx context.Context, head []byte) ([]byte, store.Ref, error) {
	var ref store.Ref
	lineage, err := store.LineageOf(head)
	if err != nil {
		return nil, ref, err
	}
	ref.Scope, ref.ID = name(lineage), make([]byte, 16)
	if _, err := rand.Read(ref.ID); err != nil {
		return nil, ref, err
	}
	if err := k.c.Audited(ctx); err != nil {
		return nil, ref, err
	}
	if err := k.make(ctx, ref.Scope); err != nil {
		return nil, ref, err
	}
	key, wrapped, err := k.c.DataKey(ctx, ref.Scope, ref.ID)
	ref.Wrapped = wrapped
	return key, ref, err
}

func (k *Keys) make(ctx context.Context, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.made[name] {
		return nil
	}
	if err := k.c.CreateWrapping(ctx, name); err != nil {
		return err
	}
	k.made[name] = true
	return nil
}

// Open implements store.Keys.
func (k *Keys) Open(ctx context.Context, ref store.Ref) ([]byte, error) {
	if err := k.c.Audited(ctx); err != nil {
		return nil, err
	}
	key, err := k.c.Unwrap(ctx, ref.Scope, ref.ID, ref.Wrapped)
	if !errors.Is(err, vault.ErrRejected) { // as transit answers where it has no such key
		return key, err
	}
	there, look := k.c.HasKey(ctx, ref.Scope)
	if look == nil && !there {
		return nil, fmt.Errorf("data key of %s was destroyed: %w", ref.Scope, enclave.ErrNotFound)
	}
	return nil, errors.Join(err, look)
}

// Destroy destroys the data keys of a lineage and reports whether there were any.
func (k *Keys) Destroy(ctx context.Context, lineage enclave.Digest) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	there, err := k.c.HasKey(ctx, name(lineage))
	if err == nil && there {
		err = k.c.DeleteKey(ctx, name(lineage))
	}
	if err != nil {
		return there, fmt.Errorf("destroying the data keys of keyset %s: %w", lineage.Short(), err)
	}
	delete(k.made, name(lineage))
	return there, nil
}
