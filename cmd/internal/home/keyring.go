package home

import (
	"yingzhou.dev/lab/enclave/keys"
)

// keyring opens a custodian's custody of key pieces.
func (h *Home) keyring(name string) (keys.Keyring, error) {
	return keys.OpenFile(h.path("custodians", name, "keyring"))
}
