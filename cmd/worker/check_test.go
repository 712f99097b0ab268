package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
)

// TestCheckFiles changes inputs between staging and reading.
func TestCheckFiles(t *testing.T) {
	data := []byte("sealed bytes")
	digest := enclave.Digest(sha256.Sum256(data))
	blob := hex.EncodeToString(digest[:]) + ".blob"
	other := enclave.Digest{1}
	for _, row := range []struct {
		name  string
		files []enclave.TaskFile
		want  string // of the error
	}{
		{"as staged", []enclave.TaskFile{{Name: blob, Digest: digest}, {Name: "x.panel", Digest: digest}}, ""},
		{"a changed panel", []enclave.TaskFile{{Name: "x.panel", Digest: other}}, `input "x.panel": `},
		{"a blob under another's name", []enclave.TaskFile{{Name: hex.EncodeToString(other[:]) + ".blob", Digest: digest}}, "the task says its digest is"},
		{"a changed blob that the task agrees with", []enclave.TaskFile{{Name: blob, Digest: other}}, "the task says its digest is"},
		{"a missing file", []enclave.TaskFile{{Name: "y.panel", Digest: digest}}, "no such file"},
		{"a way out", []enclave.TaskFile{{Name: "../x.panel", Digest: digest}}, "not a plain file name"},
		{"nothing", nil, "lists no inputs"},
	} {
		dir := t.TempDir()
		for _, name := range []string{blob, "x.panel", hex.EncodeToString(other[:]) + ".blob"} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := checkFiles(dir, row.files)
		switch {
		case row.want == "" && err != nil, row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %v", row.name, err)
		case strings.Contains(row.name, "changed panel") && !errors.Is(err, enclave.ErrBlob):
			t.Errorf("%s: %v is no ErrBlob", row.name, err)
		}
	}
}
