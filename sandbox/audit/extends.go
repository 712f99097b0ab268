package audit

import (
	"fmt"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
)

// Extends checks that the log in a folder, which nobody need have open, contains the tree of an earlier checkpoint, and
// returns the log's own last cosigned one. A log that is shorter, or has another history, is an ErrSplitView: it must not
// be put in the place of one that others have seen.
func Extends(dir string, keys enclave.LogKeys, seen enclave.Checkpoint) (enclave.Checkpoint, error) {
	text, err := os.ReadFile(filepath.Join(dir, cosignedFile))
	if err != nil {
		return enclave.Checkpoint{}, fmt.Errorf("reading log %q: %w", dir, err)
	}
	cp, err := keys.Open(string(text))
	if err != nil {
		return cp, fmt.Errorf("%w: %s: %w", ErrDamaged, cosignedFile, err)
	}
	if seen.Size > cp.Size {
		return cp, fmt.Errorf("%w: it has %d entries, %d have been seen", ErrSplitView, cp.Size, seen.Size)
	}
	if seen.Size == 0 {
		return cp, nil
	}
	proof, err := consistency(newTree(dir, cp.Size), cp, seen.Size)
	if err != nil {
		return cp, err
	}
	seen.Origin = cp.Origin
	if err := enclave.CheckConsistency(seen, cp, proof); err != nil {
		return cp, fmt.Errorf("%w: %w", ErrSplitView, err)
	}
	return cp, nil
}

// SeenBy reads what a witness whose state is a folder has seen last. A folder without state has seen nothing.
func SeenBy(dir string, keys enclave.LogKeys) (enclave.Checkpoint, error) {
	text, err := os.ReadFile(filepath.Join(dir, seenFile))
	if os.IsNotExist(err) {
		return enclave.Checkpoint{}, nil
	}
	if err != nil {
		return enclave.Checkpoint{}, fmt.Errorf("reading witness %q: %w", dir, err)
	}
	cp, _, err := openLogNote(keys.Log, text)
	return cp, err
}
