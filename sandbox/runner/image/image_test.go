package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
)

// TestReproducible takes the archive apart with nothing but the standard library: it is the same each time, and its
// digests are those of the bytes in it.
func TestReproducible(t *testing.T) {
	worker, err := os.ReadFile(runnertest.Hostile(t))
	if err != nil {
		t.Fatal(err)
	}
	var archives [2]bytes.Buffer
	var img *Image
	for i := range archives {
		if img, err = New(bytes.Clone(worker)); err != nil {
			t.Fatal(err)
		}
		if err := img.WriteTo(&archives[i], "worker:test"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("the same worker gave two archives")
	}
	files := untar(t, archives[0].Bytes())
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("manifest %s: %v", files["manifest.json"], err)
	}
	config, layer := files[manifest[0].Config], files[manifest[0].Layers[0]]
	if sha256.Sum256(config) != img.Digest {
		t.Errorf("config's digest is not %s", img.Digest)
	}
	if sum := sha256.Sum256(layer); "sha256:"+hex.EncodeToString(sum[:]) != img.Layer {
		t.Errorf("layer's digest is not %s", img.Layer)
	}
	inside := untar(t, layer)
	if !bytes.Equal(inside["worker"], worker) {
		t.Error("the layer holds another worker")
	}
	names := map[string]bool{}
	for name := range inside {
		names[name] = true
	}
	if diff := cmp.Diff(map[string]bool{"in/": true, "tmp/": true, "worker": true}, names); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
	if changed, err := New(append(worker, 0)); err != nil || changed.Digest == img.Digest {
		t.Errorf("another worker has the same digest, or %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, worker := range []string{"", "#!/bin/sh\n", "\x7fELF"} {
		if _, err := New([]byte(worker)); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%q: %v", worker, err)
		}
	}
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
