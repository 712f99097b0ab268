package vault

import (
	"context"
	"errors"
)

// Operations on transit keys that wrap: AES-256-GCM with a derived key per context, never exportable.

// CreateWrapping makes a wrapping key; one that is there stays.
func (c *Client) CreateWrapping(ctx context.Context, name string) error {
	return c.Write(ctx, c.Transit("keys", name), map[string]any{"type": "aes256-gcm96", "derived": true}, nil)
}

// HasKey reports whether transit has a key of any type.
func (c *Client) HasKey(ctx context.Context, name string) (bool, error) {
	err := c.Read(ctx, c.Transit("keys", name), &struct{}{})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// DeleteKey destroys a key, whatever it wraps with it; one that is not there is no error.
func (c *Client) DeleteKey(ctx context.Context, name string) error {
	there, err := c.HasKey(ctx, name)
	if err != nil || !there {
		return err
	}
	if err := c.Write(ctx, c.Transit("keys", name, "config"), map[string]any{"deletion_allowed": true}, nil); err != nil {
		return err
	}
	return c.Delete(ctx, c.Transit("keys", name))
}

// DataKey draws 32 bytes, in the clear and wrapped under a key and context. The caller erases them.
func (c *Client) DataKey(ctx context.Context, name string, context []byte) (plain []byte, wrapped string, err error) {
	var out struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
	}
	err = c.Write(ctx, c.Transit("datakey", "plaintext", name), map[string]any{"context": context, "bits": 256}, &out)
	return out.Plaintext, out.Ciphertext, err
}

// Unwrap gives back what DataKey wrapped. The caller erases it.
func (c *Client) Unwrap(ctx context.Context, name string, context []byte, wrapped string) ([]byte, error) {
	var out struct {
		Plaintext []byte `json:"plaintext"`
	}
	err := c.Write(ctx, c.Transit("decrypt", name), map[string]any{"ciphertext": wrapped, "context": context}, &out)
	return out.Plaintext, err
}
