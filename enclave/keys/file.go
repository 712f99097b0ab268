package keys

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/durable"
)

// File keeps secrets in a folder, each wrapped with AES-256-GCM under a wrapping key in the same folder. It is the
// embedded default, for development: whoever reads the folder has the secrets. It is safe for one process.
type File struct {
	dir  string
	wrap cipher.AEAD
}

// OpenFile opens or creates a file keyring.
func OpenFile(dir string) (*File, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	if err := durable.Sweep(dir); err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	path := filepath.Join(dir, "wrapping.key")
	kek, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		kek = make([]byte, 32)
		if _, err := rand.Read(kek); err != nil {
			return nil, fmt.Errorf("opening keyring: %w", err)
		}
		err = durable.WriteFile(path, kek, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	block, err := aes.NewCipher(kek)
	if err != nil || len(kek) != 32 {
		return nil, fmt.Errorf("opening keyring: %s is not a wrapping key: %w", path, ErrDamaged)
	}
	wrap, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	return &File{dir: dir, wrap: wrap}, nil
}

// Put wraps a secret under a name; the name is authenticated with it. Putting the same again does nothing.
func (f *File) Put(name string, secret []byte) error {
	if old, err := f.Get(name); err == nil {
		defer clear(old)
		if bytes.Equal(old, secret) {
			return nil
		}
		return fmt.Errorf("storing %q: %w", name, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(f.path(name), f.wrap.Seal(nil, nil, secret, []byte(name)), 0o600)
}

// Get unwraps a secret. A missing one is fs.ErrNotExist.
func (f *File) Get(name string) ([]byte, error) {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", name, err)
	}
	plain, err := f.wrap.Open(nil, nil, data, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", name, ErrDamaged)
	}
	return plain, nil
}

func (f *File) path(name string) string {
	return filepath.Join(f.dir, hex.EncodeToString([]byte(name))+".wrapped")
}

func pieceName(id PieceID) string {
	return fmt.Sprintf("%s/%d", hex.EncodeToString(id.Keyset[:16]), id.Piece)
}

// Import implements Keyring.
func (f *File) Import(_ context.Context, id PieceID, secret PieceSecret) error {
	plain := secret.Encode()
	defer clear(plain)
	return f.Put(pieceName(id), plain)
}

func (f *File) secret(id PieceID) (PieceSecret, error) {
	plain, err := f.Get(pieceName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return PieceSecret{}, fmt.Errorf("piece %d of keyset %s: %w", id.Piece, id.Keyset.Short(), ErrNoPiece)
	}
	if err != nil {
		return PieceSecret{}, err
	}
	defer clear(plain)
	return ParsePieceSecret(plain)
}

// Piece implements Keyring.
func (f *File) Piece(_ context.Context, id PieceID) ([]byte, error) {
	s, err := f.secret(id)
	return s.Piece, err
}

// PRF implements Keyring.
func (f *File) PRF(_ context.Context, id PieceID, message []byte) (out [32]byte, err error) {
	s, err := f.secret(id)
	if err != nil {
		return out, err
	}
	defer clear(s.Piece)
	mac := hmac.New(sha256.New, s.PRF[:])
	mac.Write(message)
	return [32]byte(mac.Sum(nil)), nil
}

// Destroy implements Keyring. Files are overwritten before they are removed, which helps on some media only: a
// production keyring destroys the wrapping key instead.
func (f *File) Destroy(_ context.Context, keyset enclave.Digest) error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return fmt.Errorf("destroying keyset %s: %w", keyset.Short(), err)
	}
	prefix := hex.EncodeToString([]byte(hex.EncodeToString(keyset[:16]) + "/"))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		path := filepath.Join(f.dir, e.Name())
		if info, err := e.Info(); err == nil {
			if err := os.WriteFile(path, make([]byte, info.Size()), 0o600); err != nil {
				return fmt.Errorf("destroying keyset %s: %w", keyset.Short(), err)
			}
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("destroying keyset %s: %w", keyset.Short(), err)
		}
	}
	return durable.SyncDir(f.dir)
}
