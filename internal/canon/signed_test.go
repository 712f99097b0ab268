package canon

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// The SHA-256 of "abc" is the example of FIPS 180-4 (csrc.nist.gov, SHA256.pdf).
func TestDigestKnownAnswer(t *testing.T) {
	const want = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	d := Sum([]byte("abc"))
	if d.String() != want || d.Short() != "ba7816bf8f01" || d.IsZero() {
		t.Errorf("Sum(abc) = %s, short %s, zero %v", d, d.Short(), d.IsZero())
	}
	if back, err := ParseDigest(want); err != nil || back != d {
		t.Errorf("ParseDigest(%s) = %s, %v", want, back, err)
	}
}

func TestParseDigestRefuses(t *testing.T) {
	good := Sum(nil).String()
	for _, s := range []string{"", "sha256:", good[7:], strings.ToUpper(good), "SHA256" + good[6:], good + "0", good[:70], good + "\n",
		"sha512:" + good[7:], "sha256:" + strings.Repeat("g", 64), "sha256:" + strings.ToUpper(good[7:]), " " + good} {
		if d, err := ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q) = %s", s, d)
		}
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(Sum(nil).String())
	f.Add("sha256:" + strings.Repeat("K", 64)) // lower-cases to a plain k
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDigest(s); err == nil && d.String() != s {
			t.Fatalf("%q parsed as %s", s, d)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2026-01-31T08:00:00Z", "2026-01-31T08:00:00.1Z", "2026-02-30T08:00:00Z", "0000-01-01T00:00:00Z", "2016-12-31T23:59:60Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v Time
		if v.UnmarshalText([]byte(s)) != nil {
			return
		}
		if b, err := v.MarshalText(); err != nil || string(b) != s {
			t.Fatalf("%q parsed and came back as %q, %v", s, b, err)
		}
	})
}

func TestAt(t *testing.T) {
	shanghai := time.FixedZone("CST", 8*3600)
	a := At(time.Date(2026, 1, 31, 16, 0, 0, 999, shanghai))
	b := Time{time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)}
	if a != b { // comparable with ==, as artefacts are
		t.Errorf("At = %v, want %v", a, b)
	}
	if text, err := a.MarshalText(); err != nil || string(text) != "2026-01-31T08:00:00Z" {
		t.Errorf("text %q, %v", text, err)
	}
}

// RFC 8032, section 7.1, test 2: the primitive under Sign is the one we say it is.
func TestEd25519KnownAnswer(t *testing.T) {
	seed, _ := hex.DecodeString("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
	want := "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
	if got := hex.EncodeToString(ed25519.Sign(ed25519.NewKeyFromSeed(seed), []byte{0x72})); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// The bytes under a signature are part of the format: changing them orphans every signature ever made.
func TestMessage(t *testing.T) {
	if got := string(Message("yingzhou.plan.v1", []byte(`{"a":1}`))); got != "yingzhou signature\nyingzhou.plan.v1\n{\"a\":1}" {
		t.Errorf("Message = %q", got)
	}
}

func TestSealOpenVerify(t *testing.T) {
	key, other := testKey(1), testKey(2)
	v := sample{Name: "n", List: []string{}, At: At(time.Unix(0, 0))}
	s, err := Seal("kind.v1", v, "alice", key)
	if err != nil {
		t.Fatal(err)
	}
	if s.Digest() != DigestOf(v) {
		t.Error("the artefact's name is not its body's digest")
	}
	if err := s.Verify("alice", public(key)); err != nil {
		t.Error(err)
	}
	var back sample
	if err := s.Open("kind.v1", &back); err != nil || back.Name != "n" {
		t.Errorf("Open: %v, %+v", err, back)
	}
	if err := s.Open("kind.v2", &back); err == nil {
		t.Error("opened as another kind")
	}
	name := s.Digest()
	s.Sigs = append(s.Sigs, Sign(s.Kind, s.Body, "bob", other))
	if s.Digest() != name || s.Verify("alice", public(key)) != nil || s.Verify("bob", public(other)) != nil {
		t.Error("a second signature renamed the artefact or hid a signature")
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := testKey(1), testKey(2)
	good, err := Seal("kind.v1", sample{List: []string{}}, "alice", key)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*Signed)) Signed {
		s := Signed{Kind: good.Kind, Body: bytes.Clone(good.Body), Sigs: []Signature{{By: "alice", Sig: bytes.Clone(good.Sigs[0].Sig)}}}
		f(&s)
		return s
	}
	tests := []struct {
		name string
		s    Signed
		by   string
		pub  ed25519.PublicKey
	}{
		{"other name", good, "bob", public(key)},
		{"other key", good, "alice", public(other)},
		{"no key", good, "alice", nil},
		{"short key", good, "alice", public(key)[:31]},
		{"no signature", change(func(s *Signed) { s.Sigs = nil }), "alice", public(key)},
		{"empty signature", change(func(s *Signed) { s.Sigs[0].Sig = nil }), "alice", public(key)},
		{"truncated", change(func(s *Signed) { s.Sigs[0].Sig = s.Sigs[0].Sig[:63] }), "alice", public(key)},
		{"extended", change(func(s *Signed) { s.Sigs[0].Sig = append(s.Sigs[0].Sig, 0) }), "alice", public(key)},
		{"signature bit", change(func(s *Signed) { s.Sigs[0].Sig[5] ^= 1 }), "alice", public(key)},
		{"body bit", change(func(s *Signed) { s.Body[5] ^= 1 }), "alice", public(key)},
		{"other kind", change(func(s *Signed) { s.Kind = "kind.v2" }), "alice", public(key)},
		{"relabelled signature", change(func(s *Signed) { s.Sigs[0].By = "bob" }), "alice", public(key)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.s.Verify(tt.by, tt.pub); !errors.Is(err, ErrSignature) {
				t.Errorf("Verify: %v, want ErrSignature", err)
			}
		})
	}
}

// Where a kind ends and a body begins must not be the signer's or the forger's choice.
func TestKindIsOneLine(t *testing.T) {
	key := testKey(1)
	for _, kind := range []string{"", "a\nb"} {
		if _, err := Seal(kind, struct{}{}, "alice", key); err == nil {
			t.Errorf("sealed kind %q", kind)
		}
		body := []byte("{}")
		s := Signed{Kind: kind, Body: body, Sigs: []Signature{Sign(kind, body, "alice", key)}}
		if err := s.Verify("alice", public(key)); !errors.Is(err, ErrSignature) {
			t.Errorf("verified kind %q: %v", kind, err)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	if _, err := Seal("kind.v1", sample{}, "alice", testKey(1)); err == nil {
		t.Error("sealed a value without canonical form")
	}
}

// A Signed travels as JSON itself; its canonical form must survive.
func TestSignedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := testKey(rapid.Byte().Draw(t, "seed"))
		s, err := Seal("kind.v1", sample{Name: rapid.String().Draw(t, "name"), List: []string{}}, rapid.String().Draw(t, "by"), key)
		if err != nil {
			t.Fatal(err)
		}
		var back Signed
		if err := Unmarshal(MustMarshal(s), &back); err != nil {
			t.Fatal(err)
		}
		if err := back.Verify(s.Sigs[0].By, public(key)); err != nil || back.Digest() != s.Digest() {
			t.Fatal(err)
		}
	})
}
