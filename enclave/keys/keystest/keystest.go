// Package keystest is the conformance suite of keys.Keyring.
package keystest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
)

// Run checks one implementation. reopen returns the keyring as another process would find it.
func Run(t *testing.T, open func(t *testing.T) (ring keys.Keyring, reopen func() keys.Keyring)) {
	id := keys.PieceID{Keyset: enclave.Digest{1, 2, 3}, Piece: 1}
	secret := keys.PieceSecret{PRF: [32]byte{9, 8, 7}, Piece: []byte("piece bytes, as long as they like")}
	prf := func(message string) (out [32]byte) {
		mac := hmac.New(sha256.New, secret.PRF[:])
		mac.Write([]byte(message))
		return [32]byte(mac.Sum(nil))
	}
	check := func(t *testing.T, ring keys.Keyring) {
		t.Helper()
		ctx := t.Context()
		got, err := ring.Piece(ctx, id)
		if err != nil || !bytes.Equal(got, secret.Piece) {
			t.Errorf("piece comes back as %d bytes, %v", len(got), err)
		}
		if out, err := ring.PRF(ctx, id, []byte("m")); err != nil || out != prf("m") {
			t.Errorf("PRF is not HMAC-SHA256 under the dealt key: %v", err)
		}
	}
	t.Run("import and use", func(t *testing.T) {
		ring, reopen := open(t)
		if err := ring.Import(t.Context(), id, secret); err != nil {
			t.Fatal(err)
		}
		check(t, ring)
		check(t, reopen())
		if err := ring.Import(t.Context(), id, secret); err != nil {
			t.Errorf("importing the same again: %v", err)
		}
		other := secret
		other.PRF[0]++
		if err := ring.Import(t.Context(), id, other); !errors.Is(err, keys.ErrExists) {
			t.Errorf("importing another secret gives %v, want ErrExists", err)
		}
		check(t, ring)
	})
	t.Run("large", func(t *testing.T) {
		ring, reopen := open(t)
		large := secret
		large.Piece = bytes.Repeat([]byte("0123456789abcdef"), 83_000) // as of the widest parameter set, in odd size
		if err := ring.Import(t.Context(), id, large); err != nil {
			t.Fatal(err)
		}
		if got, err := reopen().Piece(t.Context(), id); err != nil || !bytes.Equal(got, large.Piece) {
			t.Errorf("a large piece comes back as %d bytes, %v", len(got), err)
		}
	})
	t.Run("rotate", func(t *testing.T) {
		ring, reopen := open(t)
		if err := ring.Rotate(t.Context(), id.Keyset); !errors.Is(err, keys.ErrNoPiece) {
			t.Errorf("rotating for a keyset that is not held gives %v", err)
		}
		for _, i := range []keys.PieceID{id, {Keyset: id.Keyset, Piece: 2}} {
			if err := ring.Import(t.Context(), i, secret); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := ring.Rotate(t.Context(), id.Keyset); err != nil {
				t.Fatal(err)
			}
			check(t, ring)
			check(t, reopen())
		}
		if err := ring.Destroy(t.Context(), id.Keyset); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("not held", func(t *testing.T) {
		ring, _ := open(t)
		for _, other := range []keys.PieceID{id, {Keyset: id.Keyset, Piece: 2}, {Keyset: enclave.Digest{4}, Piece: 1}} {
			if _, err := ring.Piece(t.Context(), other); !errors.Is(err, keys.ErrNoPiece) {
				t.Errorf("a piece that was never imported gives %v", err)
			}
			if _, err := ring.PRF(t.Context(), other, nil); !errors.Is(err, keys.ErrNoPiece) {
				t.Errorf("the PRF of a piece that was never imported gives %v", err)
			}
		}
	})
	t.Run("destroy", func(t *testing.T) {
		ring, reopen := open(t)
		kept := keys.PieceID{Keyset: enclave.Digest{5}, Piece: 1}
		for _, i := range []keys.PieceID{id, {Keyset: id.Keyset, Piece: 2}, kept} {
			if err := ring.Import(t.Context(), i, secret); err != nil {
				t.Fatal(err)
			}
		}
		if err := ring.Destroy(t.Context(), id.Keyset); err != nil {
			t.Fatal(err)
		}
		for _, r := range []keys.Keyring{ring, reopen()} {
			if _, err := r.Piece(context.WithoutCancel(t.Context()), id); !errors.Is(err, keys.ErrNoPiece) {
				t.Errorf("a destroyed piece gives %v", err)
			}
			if _, err := r.PRF(t.Context(), id, nil); !errors.Is(err, keys.ErrNoPiece) {
				t.Errorf("the PRF of a destroyed piece gives %v", err)
			}
			if err := r.Destroy(t.Context(), id.Keyset); err != nil {
				t.Errorf("destroying again: %v", err)
			}
			if _, err := r.Piece(t.Context(), kept); err != nil {
				t.Errorf("another keyset's piece went too: %v", err)
			}
		}
	})
}
