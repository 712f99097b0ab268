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
	"slices"
	"strings"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// File keeps secrets in a folder, each wrapped with AES-256-GCM under a wrapping key in the same folder. It is the
// embedded default, for development: whoever reads the folder, or an old copy of it, has the secrets. It is safe for one
// process.
type File struct {
	dir string

	mu   sync.RWMutex
	wrap []cipher.AEAD // the newest first; more than one only while Rotate is under way, or was cut off
}

// OpenFile opens or creates a file keyring.
func OpenFile(dir string) (*File, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	if err := durable.Sweep(dir); err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	f := &File{dir: dir}
	keks, err := os.ReadFile(f.wrappingKey())
	if errors.Is(err, fs.ErrNotExist) {
		if keks, err = newKey(); err == nil {
			err = durable.WriteFile(f.wrappingKey(), keks, 0o600)
		}
	}
	defer clear(keks)
	if err == nil {
		err = f.use(keks)
	}
	if err != nil {
		return nil, fmt.Errorf("opening keyring: %w", err)
	}
	return f, nil
}

func (f *File) wrappingKey() string { return filepath.Join(f.dir, "wrapping.key") }

func newKey() ([]byte, error) {
	key := make([]byte, 32)
	_, err := rand.Read(key)
	return key, err
}

// use takes over the wrapping keys of the file: one, or two while a rotation is under way.
func (f *File) use(keks []byte) error {
	if len(keks) != 32 && len(keks) != 64 {
		return fmt.Errorf("%s is not a wrapping key: %w", f.wrappingKey(), ErrDamaged)
	}
	f.wrap = nil
	for kek := range slices.Chunk(keks, 32) {
		block, err := aes.NewCipher(kek)
		if err != nil {
			return err
		}
		box, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return err
		}
		f.wrap = append(f.wrap, box)
	}
	return nil
}

// Rotate implements Keyring. There is one wrapping key for everything in the folder, so all of it is wrapped again. The
// old key stays beside the new one until that is done: cut off anywhere, everything can still be read, and rotating
// again ends it.
func (f *File) Rotate(_ context.Context, keyset enclave.Digest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.rotate(keyset); err != nil {
		return fmt.Errorf("rotating the wrapping key of keyset %s: %w", keyset.Short(), err)
	}
	return nil
}

func (f *File) rotate(keyset enclave.Digest) error {
	held, err := f.stored(prefixOf(keyset))
	if err != nil {
		return err
	}
	if len(held) == 0 {
		return ErrNoPiece
	}
	keks, err := os.ReadFile(f.wrappingKey())
	if err != nil {
		return err
	}
	defer clear(keks)
	if len(keks) == 32 {
		fresh, err := newKey()
		if err != nil {
			return err
		}
		keks = append(fresh, keks...)
		if err := durable.WriteFile(f.wrappingKey(), keks, 0o600); err != nil {
			return err
		}
		failpoint.Hit(failpoint.WrapAdded)
	}
	if err := f.use(keks); err != nil {
		return err
	}
	all, err := f.stored("")
	if err != nil {
		return err
	}
	for _, name := range all {
		plain, err := f.get(name)
		if err != nil {
			return err
		}
		err = durable.WriteFile(f.path(name), f.wrap[0].Seal(nil, nil, plain, []byte(name)), 0o600)
		clear(plain)
		if err != nil {
			return err
		}
		failpoint.Hit(failpoint.WrapUsed)
	}
	if err := durable.WriteFile(f.wrappingKey(), keks[:32], 0o600); err != nil {
		return err
	}
	failpoint.Hit(failpoint.WrapDropped)
	return f.use(keks[:32])
}

// stored lists the names of secrets that begin with a prefix.
func (f *File) stored(prefix string) (out []string, err error) {
	entries, err := os.ReadDir(f.dir)
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".wrapped")
		name, bad := hex.DecodeString(stem)
		if ok && bad == nil && strings.HasPrefix(string(name), prefix) {
			out = append(out, string(name))
		}
	}
	return out, err
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
	f.mu.RLock()
	defer f.mu.RUnlock()
	return durable.WriteFile(f.path(name), f.wrap[0].Seal(nil, nil, secret, []byte(name)), 0o600)
}

// Get unwraps a secret. A missing one is fs.ErrNotExist.
func (f *File) Get(name string) ([]byte, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.get(name)
}

func (f *File) get(name string) ([]byte, error) {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", name, err)
	}
	for _, box := range f.wrap {
		if plain, err := box.Open(nil, nil, data, []byte(name)); err == nil {
			return plain, nil
		}
	}
	return nil, fmt.Errorf("reading secret %q: %w", name, ErrDamaged)
}

// Forget removes a secret that Put stored, as Destroy does. One that is not there is no error.
func (f *File) Forget(name string) error {
	path := f.path(name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return durable.SyncDir(f.dir)
	}
	if err == nil {
		err = os.WriteFile(path, make([]byte, info.Size()), 0o600)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("removing secret %q: %w", name, err)
	}
	return durable.SyncDir(f.dir)
}

func (f *File) path(name string) string {
	return filepath.Join(f.dir, hex.EncodeToString([]byte(name))+".wrapped")
}

func prefixOf(keyset enclave.Digest) string { return hex.EncodeToString(keyset[:16]) + "/" }

func pieceName(id PieceID) string { return prefixOf(id.Keyset) + fmt.Sprint(id.Piece) }

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
	held, err := f.stored(prefixOf(keyset))
	for _, name := range held {
		if err == nil {
			err = f.Forget(name)
		}
	}
	if err != nil {
		return fmt.Errorf("destroying keyset %s: %w", keyset.Short(), err)
	}
	return nil
}
