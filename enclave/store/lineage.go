package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"yingzhou.dev/lab/enclave"
)

// magics are how the blobs of the two forms begin (docs/FORMATS.md, "Sealed blobs" and "Share blobs").
const (
	sealedMagic = "YZBLOB01"
	shareMagic  = "YZSHARE1"
)

// MaxHead is how many bytes of a blob LineageOf needs at most.
const MaxHead = 12 + 4096

// LineageOf reads from the head of a blob, of either form, which keyset lineage it belongs to. It is what the blob says of
// itself: whoever opens it compares that with the manifest.
func LineageOf(head []byte) (d enclave.Digest, err error) {
	if len(head) < 12 || string(head[:8]) != sealedMagic && string(head[:8]) != shareMagic {
		return d, fmt.Errorf("%w: it does not begin as a sealed blob", enclave.ErrBlob)
	}
	n, body := binary.LittleEndian.Uint32(head[8:]), head[12:]
	if uint64(n) > uint64(len(body)) {
		return d, fmt.Errorf("%w: its header is cut short", enclave.ErrBlob)
	}
	var header struct {
		Keyset enclave.Digest `json:"keyset"`
	}
	if err := json.Unmarshal(body[:n], &header); err != nil || header.Keyset.IsZero() {
		return d, fmt.Errorf("%w: its header names no keyset", enclave.ErrBlob)
	}
	return header.Keyset, nil
}
