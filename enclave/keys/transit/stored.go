package transit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/vault"
)

// partBytes is what one kv entry holds of an encrypted secret: in base64 and JSON well below 1 MiB.
const partBytes = 384 << 10

// maxParts bounds what a record may claim.
const maxParts = 64

// record is what kv has of a secret. It holds no secret by itself.
type record struct {
	DataKey string `json:"data_key"` // wrapped by transit
	Stem    string `json:"stem"`     // names the parts: fresh for every writing, so no other writer's part is among them
	Parts   int    `json:"parts"`
}

func (r record) part(path string, i int) string { return fmt.Sprintf("%s/%s-%d", path, r.Stem, i) }

// put encrypts a secret under a fresh data key and stores it, unless another is there by then (check-and-set).
func (r *Keyring) put(ctx context.Context, s sealed, plain []byte) error {
	key, wrapped, err := r.c.DataKey(ctx, s.key, s.context)
	if err != nil {
		return err
	}
	defer clear(key)
	box, err := aead(key)
	if err != nil {
		return fmt.Errorf("vault gave an unusable data key: %w", err)
	}
	data := box.Seal(nil, nil, plain, s.context)
	stem := make([]byte, 8)
	if _, err := rand.Read(stem); err != nil {
		return err
	}
	rec := record{DataKey: wrapped, Stem: hex.EncodeToString(stem)}
	for ; len(data) > 0; rec.Parts++ {
		n := min(len(data), partBytes)
		part := map[string]any{"data": map[string]any{"bytes": data[:n]}}
		if err := r.c.Write(ctx, r.c.KVData(rec.part(s.path, rec.Parts)), part, nil); err != nil {
			return err
		}
		data = data[n:]
	}
	err = r.store(ctx, s.path, rec, 0)
	if !errors.Is(err, keys.ErrExists) {
		return err
	}
	for i := range rec.Parts {
		if err := r.c.Delete(ctx, r.c.KVMetadata(rec.part(s.path, i))); err != nil {
			return err
		}
	}
	have, look := r.get(ctx, s)
	defer clear(have)
	if look == nil && bytes.Equal(have, plain) {
		return nil
	}
	return errors.Join(err, look)
}

// store writes a record by check-and-set: version 0 means that there must be none. keys.ErrExists means that another is
// there.
func (r *Keyring) store(ctx context.Context, path string, rec record, version int64) error {
	err := r.c.Write(ctx, r.c.KVData(path), map[string]any{"options": map[string]any{"cas": version}, "data": rec}, nil)
	if !errors.Is(err, vault.ErrRejected) {
		return err
	}
	// The answer to this very writing may have been lost.
	have, _, look := r.record(ctx, sealed{path: path})
	switch {
	case look != nil:
		return errors.Join(err, look)
	case have == rec:
		return nil
	}
	return keys.ErrExists
}

func (r *Keyring) record(ctx context.Context, s sealed) (rec record, version int64, err error) {
	var out struct {
		Data     record `json:"data"`
		Metadata struct {
			Version int64 `json:"version"`
		} `json:"metadata"`
	}
	if err := r.c.Read(ctx, r.c.KVData(s.path), &out); err != nil {
		return rec, 0, err
	}
	if out.Data.Parts < 1 || out.Data.Parts > maxParts || out.Data.DataKey == "" {
		return rec, 0, fmt.Errorf("%s: %w", s.path, keys.ErrDamaged)
	}
	return out.Data, out.Metadata.Version, nil
}

// get unwraps a secret into memory of the caller, who erases it. vault.ErrNotFound means that there is none.
func (r *Keyring) get(ctx context.Context, s sealed) ([]byte, error) {
	rec, _, err := r.record(ctx, s)
	if err != nil {
		return nil, err
	}
	var data []byte
	for i := range rec.Parts {
		var part struct {
			Data struct {
				Bytes []byte `json:"bytes"`
			} `json:"data"`
		}
		if err := r.c.Read(ctx, r.c.KVData(rec.part(s.path, i)), &part); err != nil {
			return nil, err
		}
		data = append(data, part.Data.Bytes...)
	}
	key, err := r.c.Unwrap(ctx, s.key, s.context, rec.DataKey)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	box, err := aead(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, keys.ErrDamaged)
	}
	plain, err := box.Open(nil, nil, data, s.context)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, keys.ErrDamaged)
	}
	return plain, nil
}

// remove deletes a secret with its parts, all versions and the metadata; parts that a broken writing left go too.
func (r *Keyring) remove(ctx context.Context, path string) error {
	parts, err := r.c.List(ctx, r.c.KVMetadata(path))
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := r.c.Delete(ctx, r.c.KVMetadata(path+"/"+strings.TrimSuffix(p, "/"))); err != nil {
			return err
		}
	}
	return r.c.Delete(ctx, r.c.KVMetadata(path))
}

// The transit key of secrets that are no pieces.
const secretsKey = "secrets"

func named(name string) sealed {
	return sealed{key: secretsKey, context: append([]byte("yingzhou vault secret v1\x00"), name...), path: "secrets/" + hex.EncodeToString([]byte(name))}
}

// Put stores another secret under a name. Putting the same again does nothing; another is keys.ErrExists.
func (r *Keyring) Put(ctx context.Context, name string, secret []byte) error {
	err := r.c.Audited(ctx)
	if err == nil {
		err = r.c.CreateWrapping(ctx, secretsKey)
	}
	if err == nil {
		err = r.put(ctx, named(name), secret)
	}
	if err != nil {
		return fmt.Errorf("storing secret %q: %w", name, err)
	}
	return nil
}

// Get unwraps a secret that Put stored. vault.ErrNotFound means that there is none.
func (r *Keyring) Get(ctx context.Context, name string) ([]byte, error) {
	err := r.c.Audited(ctx)
	if err == nil {
		var plain []byte
		if plain, err = r.get(ctx, named(name)); err == nil {
			return plain, nil
		}
	}
	return nil, fmt.Errorf("reading secret %q: %w", name, err)
}

// Forget removes a secret that Put stored.
func (r *Keyring) Forget(ctx context.Context, name string) error {
	if err := r.remove(ctx, named(name).path); err != nil {
		return fmt.Errorf("removing secret %q: %w", name, err)
	}
	return nil
}
