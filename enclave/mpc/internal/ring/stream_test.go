package ring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FIPS 197, appendix A.1: the round keys, of which the appendix lists words 4 to 43.
func TestExpand(t *testing.T) {
	schedule := expand([16]byte(unhex(t, "2b7e151628aed2a6abf7158809cf4f3c")))
	for _, c := range []struct {
		round int
		want  string
	}{
		{0, "2b7e151628aed2a6abf7158809cf4f3c"},
		{1, "a0fafe1788542cb123a339392a6c7605"},
		{2, "f2c295f27a96b9435935807a7359f67f"},
		{3, "3d80477d4716fe3e1e237e446d7a883b"},
		{4, "ef44a541a8525b7fb671253bdb0bad00"},
		{5, "d4d1c6f87c839d87caf2b8bc11f915bc"},
		{6, "6d88a37a110b3efddbf98641ca0093fd"},
		{7, "4e54f70e5f5fc9f384a64fb24ea6dc4f"},
		{8, "ead27321b58dbad2312bf5607f8d292f"},
		{9, "ac7766f319fadc2128d12941575c006e"},
		{10, "d014f9a8c9ee2589e13f0cc8b6630ca6"},
	} {
		var got []byte
		for _, w := range schedule[c.round] {
			got = binary.LittleEndian.AppendUint32(got, w)
		}
		if want := unhex(t, c.want); !bytes.Equal(got, want) {
			t.Errorf("round key %d is %x, want %x", c.round, got, want)
		}
	}
}

// NIST SP 800-38A, appendix F.5.1: the outputs of the cipher, whose counter blocks do not begin at zero.
func TestKeystreamVector(t *testing.T) {
	key := newKey(t, unhex(t, "2b7e151628aed2a6abf7158809cf4f3c"))
	counter := unhex(t, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
	want := unhex(t, "ec8cdf7398607cb0f2d21675ea9ea1e4"+"362b7c3c6773516318a077d7fc5073ae"+"6a2cc3787889374fbeb4c81b17ba6c44"+"e89c399ff0f198c6d40a31db156cabfe")
	for name, f := range map[string]func([]uint64, *Key, [8]byte, uint64){"in use": keystream, "twin": keystreamGo} {
		var words [batch]uint64
		f(words[:], key, [8]byte(counter), binary.BigEndian.Uint64(counter[8:]))
		if got := Bytes(words[:len(want)/8]); !bytes.Equal(got, want) {
			t.Errorf("key stream %s is %x, want %x", name, got, want)
		}
	}
}

// A stream drawn in pieces of any length is that of crypto/cipher, whatever routine makes it.
func TestStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key")
		nonce := [8]byte(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "nonce"))
		pieces := rapid.SliceOf(rapid.IntRange(0, 3*batch+3)).Draw(t, "pieces")
		s := newKey(t, raw).Stream(nonce)
		var got []uint64
		for _, n := range pieces {
			piece := make([]uint64, n+1)
			piece[n] = 42
			s.Fill(piece[:n])
			if piece[n] != 42 {
				t.Fatalf("a word beyond %d was written", n)
			}
			got = append(got, piece[:n]...)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 8*len(got))
		cipher.NewCTR(block, append(nonce[:], make([]byte, 8)...)).XORKeyStream(want, want)
		if !bytes.Equal(Bytes(got), want) {
			t.Fatalf("in pieces of %v differs", pieces)
		}
	})
}

// The routine in use and its twin agree from any block on, over carries between the bytes of the counter.
func TestKeystream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := newKey(t, rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key"))
		nonce := [8]byte(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "nonce"))
		edge := rapid.SampledFrom([]uint64{16, 1 << 8, 1 << 16, 1 << 32, 1 << 56, 1 << 63}).Draw(t, "edge")
		block := edge - rapid.Uint64Range(0, 16).Draw(t, "before")
		words := make([]uint64, batch*rapid.IntRange(1, 5).Draw(t, "batches"))
		twin := make([]uint64, len(words))
		keystream(words, key, nonce, block)
		keystreamGo(twin, key, nonce, block)
		if !slices.Equal(words, twin) {
			t.Fatalf("from block %d differs", block)
		}
	})
}

func TestNewKeyRefuses(t *testing.T) {
	for _, n := range []int{0, 15, 17, 24, 32} {
		if _, err := NewKey(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}
