package transit

import (
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
)

// wrapForImport encrypts a key for transit's import: an AES key of one use under RSA-OAEP with SHA-256, then the key
// under that by AES-KWP.
func wrapForImport(public string, key []byte) ([]byte, error) {
	block, _ := pem.Decode([]byte(public))
	if block == nil {
		return nil, errors.New("vault's wrapping key is not PEM")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("vault's wrapping key: %w", err)
	}
	pub, ok := parsed.(*rsa.PublicKey)
	if !ok || pub.Size() < 512 {
		return nil, errors.New("vault's wrapping key is not RSA with 4096 bits")
	}
	once := make([]byte, 32)
	defer clear(once)
	if _, err := rand.Read(once); err != nil {
		return nil, err
	}
	out, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, once, nil)
	if err != nil {
		return nil, fmt.Errorf("wrapping a key for import: %w", err)
	}
	wrapped, err := kwp(once, key)
	return append(out, wrapped...), err
}

// kwp is AES key wrap with padding, RFC 5649, section 4.1.
func kwp(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	if len(key) == 0 {
		return nil, errors.New("wrapping an empty key")
	}
	n := (len(key) + 7) / 8
	out := make([]byte, 8*(n+1)) // A ‖ R[1] … R[n]
	binary.BigEndian.PutUint32(out, 0xA65959A6)
	binary.BigEndian.PutUint32(out[4:], uint32(len(key)))
	copy(out[8:], key)
	if n == 1 {
		block.Encrypt(out, out)
		return out, nil
	}
	var b [16]byte
	for t := uint64(1); t <= uint64(6*n); t++ {
		r := out[8*((t-1)%uint64(n)+1):][:8]
		copy(b[:8], out)
		copy(b[8:], r)
		block.Encrypt(b[:], b[:])
		binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(b[:8])^t)
		copy(r, b[8:])
	}
	return out, nil
}
