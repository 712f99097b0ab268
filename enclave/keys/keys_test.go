package keys_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/keystest"
)

func TestFileKeyring(t *testing.T) {
	keystest.Run(t, func(t *testing.T) (keys.Keyring, func() keys.Keyring) {
		dir := t.TempDir()
		open := func() keys.Keyring {
			ring, err := keys.OpenFile(dir)
			if err != nil {
				t.Fatal(err)
			}
			return ring
		}
		return open(), open
	})
}

func TestFileKeyringNoticesDamage(t *testing.T) {
	dir := t.TempDir()
	ring, err := keys.OpenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	id := keys.PieceID{Keyset: enclave.Digest{1}, Piece: 0}
	secret := keys.PieceSecret{Piece: []byte("clear text of the piece")}
	if err := ring.Import(t.Context(), id, secret); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wrapped"))
	if err != nil || len(files) != 1 {
		t.Fatalf("want one wrapped secret, have %v, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, secret.Piece) {
		t.Error("the piece lies in clear")
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Piece(t.Context(), id); !errors.Is(err, keys.ErrDamaged) {
		t.Errorf("a flipped bit gives %v", err)
	}
}

func TestIdentity(t *testing.T) {
	id, err := keys.NewIdentity("li.wei")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "li.wei.key")
	if err := id.Save(path); err != nil {
		t.Fatal(err)
	}
	if err := id.Save(path); !errors.Is(err, keys.ErrExists) {
		t.Errorf("saving over an identity gives %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file has mode %v, %v", info.Mode(), err)
	}
	again, err := keys.LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := keys.SealWith(again, "kind", struct {
		A int `json:"a"`
	}{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := signed.Verify("li.wei", id.Verify()); err != nil {
		t.Error(err)
	}
	sealed, err := keys.SealTo(id.HPKE(), []byte("info"), []byte("table"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := again.Open([]byte("info"), sealed); err != nil || string(plain) != "table" {
		t.Errorf("opened %q, %v", plain, err)
	}
	if _, err := again.Open([]byte("other"), sealed); err == nil {
		t.Error("a message opened under another info")
	}
	other, err := keys.NewIdentity("li.wei")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open([]byte("info"), sealed); err == nil {
		t.Error("a message opened with another key")
	}
	if err := os.WriteFile(path, []byte(`{"sign":"secret"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.LoadIdentity(path); err == nil || bytes.Contains([]byte(err.Error()), []byte("secret")) {
		t.Errorf("a broken identity file gives %v", err)
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	id, err := keys.NewIdentity("a")
	if err != nil {
		t.Fatal(err)
	}
	s := keys.PieceSecret{PRF: [32]byte{65, 66, 67}, Piece: []byte("PIECE")}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", s, s, s, s), fmt.Sprintf("%v %+v", id, id)} {
		if bytes.Contains([]byte(text), []byte("PIECE")) || bytes.Contains([]byte(text), []byte("65 66")) {
			t.Errorf("secret prints as %q", text)
		}
	}
	again, err := keys.ParsePieceSecret(s.Encode())
	if err != nil || again.Commitment() != s.Commitment() {
		t.Errorf("piece secret does not round-trip: %v", err)
	}
	again.PRF[31]++
	if again.Commitment() == s.Commitment() {
		t.Error("the commitment ignores the PRF key")
	}
	if _, err := keys.ParsePieceSecret(make([]byte, 32)); err == nil {
		t.Error("a secret without a piece was parsed")
	}
}

// A piece shares the memory that it was read from, and erasing it leaves nothing there.
func TestPiece(t *testing.T) {
	lineage, key := bytes.Repeat([]byte{7}, keys.LineageBytes), []byte("he key piece")
	data := keys.Piece{Lineage: lineage, Key: key}.Encode()
	p, err := keys.ParsePiece(data)
	if err != nil || !bytes.Equal(p.Lineage, lineage) || !bytes.Equal(p.Key, key) {
		t.Fatalf("read back: %x %q, %v", p.Lineage, p.Key, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", p, p, p); strings.Contains(text, "he key") || strings.Contains(text, "7 7") {
		t.Errorf("printed as %s", text)
	}
	p.Erase()
	if !bytes.Equal(data, make([]byte, len(data))) {
		t.Errorf("erased, but %x is left", data)
	}
	if _, err := keys.ParsePiece(data[:keys.LineageBytes]); err == nil {
		t.Error("a piece without a key is read")
	}
}
