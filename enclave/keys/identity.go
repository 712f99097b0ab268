package keys

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
)

// Identity is the private half of a party: an Ed25519 signing key and an HPKE receiving key (X-Wing: ML-KEM-768 with
// X25519). The public halves stand in the roster.
type Identity struct {
	name string
	sign ed25519.PrivateKey
	open hpke.PrivateKey
}

// HPKE suite (RFC 9180): KEM MLKEM768-X25519, HKDF-SHA256, AES-256-GCM. One suite everywhere.
func kem() hpke.KEM   { return hpke.MLKEM768X25519() }
func kdf() hpke.KDF   { return hpke.HKDFSHA256() }
func aead() hpke.AEAD { return hpke.AES256GCM() }

// NewIdentity draws fresh keys.
func NewIdentity(name string) (*Identity, error) {
	_, sign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making identity %q: %w", name, err)
	}
	open, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making identity %q: %w", name, err)
	}
	return &Identity{name: name, sign: sign, open: open}, nil
}

// Name is the party's name in the roster.
func (id *Identity) Name() string { return id.name }

// Verify is the public signing key.
func (id *Identity) Verify() ed25519.PublicKey { return id.sign.Public().(ed25519.PublicKey) }

// HPKE is the public receiving key.
func (id *Identity) HPKE() []byte { return id.open.PublicKey().Bytes() }

// Sign makes the identity's signature over an artefact's bytes.
func (id *Identity) Sign(kind string, body []byte) (canon.Signature, error) {
	return canon.Sign(kind, body, id.name, id.sign), nil
}

// Open decrypts what SealTo encrypted to this identity with the same info.
func (id *Identity) Open(info, sealed []byte) ([]byte, error) {
	plain, err := hpke.Open(id.open, kdf(), aead(), info, sealed)
	if err != nil {
		return nil, fmt.Errorf("opening a message to %q: %w", id.name, err)
	}
	return plain, nil
}

// NewReceiver draws a receiving key: its private bytes, for a keyring, and the public ones, for the roster.
func NewReceiver() (private, public []byte, err error) {
	key, err := kem().GenerateKey()
	if err != nil {
		return nil, nil, fmt.Errorf("making a receiving key: %w", err)
	}
	private, err = key.Bytes()
	return private, key.PublicKey().Bytes(), err
}

// ReceiverPublic is the public half of a receiving key.
func ReceiverPublic(private []byte) ([]byte, error) {
	key, err := kem().NewPrivateKey(private)
	if err != nil {
		return nil, errors.New("not a usable receiving key") // the cause could quote it
	}
	return key.PublicKey().Bytes(), nil
}

// OpenWith decrypts what SealTo encrypted to a receiving key with the same info.
func OpenWith(private, info, sealed []byte) ([]byte, error) {
	key, err := kem().NewPrivateKey(private)
	if err != nil {
		return nil, errors.New("opening a message: not a usable receiving key")
	}
	plain, err := hpke.Open(key, kdf(), aead(), info, sealed)
	if err != nil {
		return nil, fmt.Errorf("opening a message: %w", err)
	}
	return plain, nil
}

// SealTo encrypts to a party's public receiving key.
func SealTo(public, info, plain []byte) ([]byte, error) {
	pk, err := kem().NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("sealing a message: %w", err)
	}
	sealed, err := hpke.Seal(pk, kdf(), aead(), info, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing a message: %w", err)
	}
	return sealed, nil
}

func (id *Identity) LogValue() slog.Value { return slog.StringValue("[identity " + id.name + "]") }
func (id *Identity) String() string       { return "[identity " + id.name + "]" }

type identityFile struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Sign []byte `json:"sign"` // Ed25519 seed
	HPKE []byte `json:"hpke"`
}

const identityKind = "yingzhou.identity.v1"

// Save writes the identity, readable by its owner only.
func (id *Identity) Save(path string) error {
	open, err := id.open.Bytes()
	if err != nil {
		return fmt.Errorf("saving identity %q: %w", id.name, err)
	}
	body, err := canon.Marshal(identityFile{Kind: identityKind, Name: id.name, Sign: id.sign.Seed(), HPKE: open})
	if err != nil {
		return fmt.Errorf("saving identity %q: %w", id.name, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("saving identity %q: %s: %w", id.name, path, ErrExists)
	}
	return durable.WriteFile(path, body, 0o600)
}

// LoadIdentity reads an identity file. Its content never appears in an error.
func LoadIdentity(path string) (*Identity, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	var f identityFile
	if err := canon.Unmarshal(data, &f); err != nil || f.Kind != identityKind || len(f.Sign) != ed25519.SeedSize {
		return nil, fmt.Errorf("loading identity: %s is not an identity file", path)
	}
	open, err := kem().NewPrivateKey(f.HPKE)
	if err != nil {
		return nil, fmt.Errorf("loading identity: %s has no usable receiving key", path)
	}
	return &Identity{name: f.Name, sign: ed25519.NewKeyFromSeed(f.Sign), open: open}, nil
}
