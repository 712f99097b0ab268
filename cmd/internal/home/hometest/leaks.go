package hometest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/vault"
)

// Secrets reads what custodians have in their Vaults of one dealing: a part of every piece, the epoch's key of noise, and
// the credentials with which they log in. Tests look for it where it must not be.
func Secrets(t testing.TB, custodians map[string]vault.Config, keyset enclave.Keyset, dealing enclave.Digest) map[string][]byte {
	t.Helper()
	params, err := he.Compile(keyset.Params)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, cfg := range custodians {
		c, err := vault.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ring := transit.New(c)
		for i := range keyset.Pieces {
			id := keys.PieceID{Keyset: dealing, Piece: i}
			data, err := ring.Piece(t.Context(), id)
			if errors.Is(err, keys.ErrNoPiece) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			held, err := keys.ParsePiece(data)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := he.ParseKeyPiece(params, held.Key); err != nil {
				t.Fatal(err)
			}
			out[name+" lineage secret"] = held.Lineage[:30]
			out[name+" piece"] = data[len(data)/2:][:30]
			epoch, err := ring.PRF(t.Context(), id, append([]byte("yingzhou epoch key v1\x00"), byte(keyset.Epoch), 0, 0, 0, 0, 0, 0, 0))
			if err != nil {
				t.Fatal(err)
			}
			out[name+" epoch key"] = epoch[:30]
		}
		secret, err := os.ReadFile(cfg.SecretIDFile)
		if err != nil {
			t.Fatal(err)
		}
		out[name+" secret-id"] = bytes.TrimSpace(secret)
	}
	if len(out) != 4*len(custodians) {
		t.Fatalf("%d secrets of %d custodians to look for", len(out), len(custodians))
	}
	return out
}

// NotIn insists that no secret is in any of the texts, as it is or in the ways in which bytes are written.
func NotIn(t testing.TB, secrets, texts map[string][]byte) {
	t.Helper()
	for where, text := range texts {
		if len(text) == 0 {
			t.Errorf("%s is empty: nothing is found in it", where)
		}
		for what, secret := range secrets {
			for _, form := range [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(base64.StdEncoding.EncodeToString(secret)),
				[]byte(base64.StdEncoding.EncodeToString(secret[1:])), []byte(base64.StdEncoding.EncodeToString(secret[2:]))} {
				if bytes.Contains(text, form[:len(form)-4]) {
					t.Errorf("%s is in %s", what, where)
				}
			}
		}
	}
}
