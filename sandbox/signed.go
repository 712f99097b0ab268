package sandbox

import (
	"bytes"
	"fmt"
	"slices"

	"yingzhou.dev/lab/enclave"
)

// MergeSigned decides which of two envelopes of one artefact is kept. The offered one replaces the stored one if it has
// all its signatures and more, and is dropped if it brings none. Where each has a signature that the other lacks, it is
// ErrConflict: put an envelope with both. Signatures are compared as bytes, not verified; whoever puts an artefact has
// verified it.
func MergeSigned(stored, offered enclave.Signed) (kept enclave.Signed, replaced bool, err error) {
	if stored.Kind != offered.Kind || !bytes.Equal(stored.Body, offered.Body) {
		return stored, false, fmt.Errorf("%s %s: %w: the envelopes are of two artefacts", offered.Kind, offered.Digest(), ErrInvalid)
	}
	switch {
	case covers(stored, offered):
		return stored, false, nil
	case covers(offered, stored):
		return offered, true, nil
	}
	return stored, false, fmt.Errorf("%s %s: %w: it has other signatures; put an envelope with both sets", offered.Kind, offered.Digest(), ErrConflict)
}

// covers reports whether a has every signature of b.
func covers(a, b enclave.Signed) bool {
	for _, s := range b.Sigs {
		if !slices.ContainsFunc(a.Sigs, func(o signature) bool { return o.By == s.By && bytes.Equal(o.Sig, s.Sig) }) {
			return false
		}
	}
	return true
}
