package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// SeenBy reads the last tree of the log that a custodian whose state is in a folder has followed. Without state it has
// seen nothing.
func SeenBy(dir string) (enclave.Checkpoint, error) {
	data, err := os.ReadFile(filepath.Join(dir, seenName))
	if errors.Is(err, fs.ErrNotExist) {
		return enclave.Checkpoint{}, nil
	}
	var seen seenFile
	if err == nil {
		err = canon.Unmarshal(data, &seen)
	}
	if err != nil {
		return enclave.Checkpoint{}, fmt.Errorf("reading custodian %q: %w", dir, err)
	}
	return enclave.Checkpoint{Size: seen.Size, Root: seen.Root}, nil
}
