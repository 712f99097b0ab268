package canon

import (
	"crypto/ed25519"
	"fmt"
	"testing"
)

// A signature that was found valid makes no other one valid: not of another key, kind, body or signature.
func TestVerifiedIsExact(t *testing.T) {
	v := signatures{most: 8}
	key, other := testKey(1), testKey(2)
	kind, body := "kind.v1", []byte(`{"a":1}`)
	sig := ed25519.Sign(key, Message(kind, body))
	for i := range 3 { // first computed, then remembered
		if !v.verify(public(key), kind, body, sig) {
			t.Fatalf("call %d: a valid signature is refused", i)
		}
		flipped := append([]byte{}, sig...)
		flipped[3] ^= 1
		for name, ok := range map[string]bool{
			"key":       v.verify(public(other), kind, body, sig),
			"kind":      v.verify(public(key), "kind.v2", body, sig),
			"moved":     v.verify(public(key), "kind.v1\n{", body[1:], sig),
			"body":      v.verify(public(key), kind, []byte(`{"a":2}`), sig),
			"signature": v.verify(public(key), kind, body, flipped),
			"short":     v.verify(public(key), kind, body, sig[:63]),
			"long":      v.verify(public(key), kind, body, append(sig[:64:64], 0)),
		} {
			if ok {
				t.Errorf("call %d: valid with another %s", i, name)
			}
		}
	}
	if len(v.young) != 1 {
		t.Errorf("%d signatures are remembered, want the valid one", len(v.young))
	}
}

func TestVerifiedForgets(t *testing.T) {
	v := signatures{most: 4}
	key := testKey(1)
	signature := func(i int) (body, sig []byte) {
		body = fmt.Append(nil, i)
		return body, ed25519.Sign(key, Message("k", body))
	}
	has := func(i int) bool {
		body, sig := signature(i)
		return v.has(signatureKey(public(key), "k", body, sig))
	}
	const most = 40
	for i := range most {
		for _, j := range []int{0, i} { // the first is in use all the time
			if body, sig := signature(j); !v.verify(public(key), "k", body, sig) {
				t.Fatalf("signature %d is refused", j)
			}
		}
		if n := len(v.young) + len(v.old); n > 2*v.most {
			t.Fatalf("%d signatures are remembered, want at most %d", n, 2*v.most)
		}
	}
	if !has(0) || !has(most-1) {
		t.Error("a signature in use was forgotten")
	}
	if has(most / 2) {
		t.Error("a signature that nobody asks for is remembered for ever")
	}
}

func BenchmarkVerify(b *testing.B) {
	key := testKey(1)
	s, err := Seal("kind.v1", make([]byte, 1500), "alice", key)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Verify("alice", public(key)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !ed25519.Verify(public(key), Message(s.Kind, s.Body), s.Sigs[0].Sig) {
				b.Fatal("refused")
			}
		}
	})
}
