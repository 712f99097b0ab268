package transit

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// Vectors of RFC 5649, section 6.
func TestKeyWrapWithPadding(t *testing.T) {
	kek, err := hex.DecodeString("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ key, want string }{
		{"c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"},
		{"466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"},
	} {
		key, err := hex.DecodeString(v.key)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(v.want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := kwp(kek, key); err != nil || !bytes.Equal(got, want) {
			t.Errorf("wrapping %s gives %x, %v, want %s", v.key, got, err, v.want)
		}
	}
	if _, err := kwp(kek, nil); err == nil {
		t.Error("an empty key is wrapped")
	}
}
