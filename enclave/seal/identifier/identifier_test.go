package identifier_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave/seal/identifier"
)

func TestNormalize(t *testing.T) {
	const id = "11010519491231002X"
	for in, want := range map[string]string{
		id: id, "11010519491231002x": id, " 110105 19491231 002X\t": id, "１１０１０５１９４９１２３１００２Ｘ": id, "１１０１０５　１９４９１２３１　００２ｘ": id,
	} {
		if got, err := identifier.Normalize(identifier.ResidentID, in); err != nil || got != want {
			t.Errorf("%q gives %q, %v", in, got, err)
		}
	}
	for in, text := range map[string]string{
		"": "empty", "  ": "empty", "110105194912310021": "check digit", "11010519491331002X": "date", "1101051949123100": "17 digits",
		"11010519491231O02X": "17 digits", strings.Repeat("1", 65): "longer", "11010519491231002X\x00": "printable", "a\u202eb": "printable", "\xff": "printable",
	} {
		if _, err := identifier.Normalize(identifier.ResidentID, in); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q gives %v, want %s", in, err, text)
		}
	}
	if got, err := identifier.Normalize(identifier.Text, "ｍ-01 甲"); err != nil || got != "M-01甲" {
		t.Errorf("text gives %q, %v", got, err)
	}
	if _, err := identifier.Normalize("phone", "1"); err == nil {
		t.Error("an unknown kind is accepted")
	}
}

// What is normal stays as it is, however it is written.
func TestNormalizeTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		once, err := identifier.Normalize(identifier.Text, rapid.String().Draw(t, "s"))
		if err != nil {
			return
		}
		if twice, err := identifier.Normalize(identifier.Text, once); err != nil || twice != once {
			t.Fatalf("%q becomes %q, %v", once, twice, err)
		}
	})
}

// Known answers: HMAC-SHA256 under HKDF, computed with Python's hmac module.
func TestPseudonyms(t *testing.T) {
	key := make([]byte, identifier.KeyBytes)
	for i := range key {
		key[i] = byte(i)
	}
	p, err := identifier.NewPseudonyms(key, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Of("11010519491231002X"); got != 0x74d4697a63ae0997 {
		t.Errorf("pseudonym %#x, want %#x", got, uint64(0x74d4697a63ae0997))
	}
	q, err := identifier.NewPseudonyms(key, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if q.Of("11010519491231002X") == p.Of("11010519491231002X") {
		t.Error("two scenarios share pseudonyms")
	}
	if _, err := identifier.NewPseudonyms(key[1:], [32]byte{1}); err == nil {
		t.Error("a short key is accepted")
	}
}

func FuzzNormalize(f *testing.F) {
	f.Add("11010519491231002x")
	f.Add("１１０１０５　ｘ")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := identifier.Normalize(identifier.ResidentID, s)
		if err != nil {
			return
		}
		if again, err := identifier.Normalize(identifier.ResidentID, got); err != nil || again != got {
			t.Fatalf("%q becomes %q, %v", got, again, err)
		}
	})
}
