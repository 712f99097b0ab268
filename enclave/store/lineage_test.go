package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
)

func head(magic, header string) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(header))), header...)
}

func TestLineageOf(t *testing.T) {
	want := canon.Sum([]byte("keyset"))
	named := fmt.Sprintf(`{"column":"x","keyset":%q}`, want)
	for _, magic := range []string{"YZBLOB01", "YZSHARE1"} {
		if got, err := store.LineageOf(append(head(magic, named), "the rest"...)); err != nil || got != want {
			t.Errorf("%s: %s, %v", magic, got, err)
		}
		for what, bad := range map[string][]byte{
			"no keyset": head(magic, `{"column":"x"}`), "no JSON": head(magic, "keyset"), "a bad digest": head(magic, `{"keyset":"sha256:12"}`),
			"cut short": head(magic, named)[:40], "a length beyond the end": head(magic, named+strings.Repeat(" ", 9))[:len(named)+12], "nothing": nil, "the magic alone": []byte(magic),
		} {
			if got, err := store.LineageOf(bad); !errors.Is(err, enclave.ErrBlob) {
				t.Errorf("%s: %s gives %s, %v", magic, what, got, err)
			}
		}
	}
	if _, err := store.LineageOf(head("YZBLOB02", named)); !errors.Is(err, enclave.ErrBlob) {
		t.Errorf("another magic: %v", err)
	}
}
