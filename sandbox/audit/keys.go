package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave"
)

// algCosignature is the key type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature, "Format").
const algCosignature = 4

// KeyPair is an Ed25519 key in the text forms of C2SP signed-note.
type KeyPair struct {
	Secret string // PRIVATE+KEY+name+hash+key
	Public string // name+hash+key
}

// LogValue keeps the secret out of logs.
func (k KeyPair) LogValue() slog.Value { return slog.StringValue(k.Public) }

// String keeps the secret out of messages.
func (k KeyPair) String() string { return k.Public }

// Format keeps the secret out of %#v as well.
func (k KeyPair) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.Public) }

// GenerateKeys makes a log's key, named by its origin (a schema-less URL such as "lab.example/log"), and a witness's key,
// named origin plus "/witness". It serves a lab whose bodies run on one machine; otherwise each body calls its own of
// GenerateLogKey and GenerateWitnessKey, and only public keys travel.
func GenerateKeys(origin string) (log, witness KeyPair, err error) {
	if log, err = GenerateLogKey(origin); err != nil {
		return log, witness, err
	}
	witness, err = GenerateWitnessKey(origin + "/witness")
	return log, witness, err
}

// GenerateLogKey makes a key that signs checkpoints.
func GenerateLogKey(origin string) (KeyPair, error) {
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return KeyPair{}, fmt.Errorf("generating key of log %q: %w", origin, err)
	}
	if _, err := note.NewSigner(skey); err != nil {
		return KeyPair{}, fmt.Errorf("generating key of log %q: a key's name is not empty and has no space or +: %w", origin, err)
	}
	return KeyPair{Secret: skey, Public: vkey}, nil
}

// GenerateWitnessKey makes a key that cosigns checkpoints. Its type is cosignature/v1 in both text forms, so that it
// cannot be loaded as a log's key by mistake.
func GenerateWitnessKey(name string) (KeyPair, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return KeyPair{}, fmt.Errorf("generating key of witness %q: %w", name, err)
	}
	id := fmt.Sprintf("%s+%08x+", name, keyHash(name, algCosignature, pub))
	pair := KeyPair{
		Secret: "PRIVATE+KEY+" + id + encodeKey(algCosignature, priv.Seed()),
		Public: id + encodeKey(algCosignature, pub),
	}
	if _, err := NewWitnessSigner(pair.Secret); err != nil {
		return KeyPair{}, fmt.Errorf("generating key of witness %q: a key's name is not empty and has no space or +: %w", name, err)
	}
	return pair, nil
}

func encodeKey(alg byte, key []byte) string {
	return base64.StdEncoding.EncodeToString(append([]byte{alg}, key...))
}

// keyHash is the key ID of C2SP signed-note.
func keyHash(name string, alg byte, pub []byte) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write([]byte{alg})
	h.Write(pub)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// NewLogSigner reads a log's secret key.
func NewLogSigner(skey string) (note.Signer, note.Verifier, error) {
	s, v, err := fnote.NewEd25519SignerVerifier(skey)
	if err != nil {
		return nil, nil, errors.New("reading log key: not an Ed25519 secret key of C2SP signed-note") // never the key's text
	}
	return s, v, nil
}

// NewWitnessSigner reads a witness's secret key, which must be of type cosignature/v1.
func NewWitnessSigner(skey string) (*fnote.Signer, error) {
	parts := strings.SplitN(skey, "+", 5)
	errKey := errors.New("reading witness key: not a cosignature/v1 secret key of C2SP tlog-cosignature")
	if len(parts) != 5 {
		return nil, errKey
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize || raw[0] != algCosignature {
		return nil, errKey
	}
	s, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil || fmt.Sprintf("%08x", s.KeyHash()) != parts[3] {
		return nil, errKey
	}
	return s, nil
}

// ParseKeys reads the public keys of a log and its witness into what verifies proofs.
func ParseKeys(logKey, witnessKey string) (enclave.LogKeys, error) {
	log, err := note.NewVerifier(logKey)
	if err != nil {
		return enclave.LogKeys{}, fmt.Errorf("reading log key %q: %w", logKey, err)
	}
	parts := strings.SplitN(witnessKey, "+", 3)
	if len(parts) != 3 {
		return enclave.LogKeys{}, fmt.Errorf("reading witness key %q: want name+hash+key", witnessKey)
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != algCosignature {
		return enclave.LogKeys{}, fmt.Errorf("reading witness key %q: not a cosignature/v1 key of C2SP tlog-cosignature", witnessKey)
	}
	witness, err := fnote.NewVerifierForCosignatureV1(witnessKey)
	if err != nil {
		return enclave.LogKeys{}, fmt.Errorf("reading witness key %q: %w", witnessKey, err)
	}
	if fmt.Sprintf("%08x", witness.KeyHash()) != parts[1] {
		return enclave.LogKeys{}, fmt.Errorf("reading witness key %q: hash does not match the key", witnessKey)
	}
	if witness.Name() == log.Name() || witness.KeyHash() == log.KeyHash() {
		return enclave.LogKeys{}, fmt.Errorf("log and witness share the key name %q or hash: a log cannot witness itself", log.Name())
	}
	return enclave.LogKeys{Origin: log.Name(), Log: log, Witness: witness}, nil
}
