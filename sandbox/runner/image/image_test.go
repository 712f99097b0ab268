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
	"os/exec"
	"path/filepath"
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

// TestRead takes an image back from its archive, and refuses one in which a byte was changed.
func TestRead(t *testing.T) {
	worker, err := os.ReadFile(runnertest.Hostile(t))
	if err != nil {
		t.Fatal(err)
	}
	img, err := New(worker)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := img.WriteTo(&archive, "worker:test"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	write := func(data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(archive.Bytes())
	if got, err := Read(path); err != nil || got.Digest != img.Digest || got.Layer != img.Layer {
		t.Errorf("read %+v, %v", got, err)
	}
	for name, from := range map[string]string{"the config": `"linux"`, "the program": "spam and eggs", "the user": `"65532:65532"`} {
		changed := bytes.Clone(archive.Bytes())
		at := bytes.Index(changed, []byte(from))
		if at < 0 {
			t.Fatalf("%s: %q is not in the archive", name, from)
		}
		changed[at+1] ^= 1
		write(changed)
		if _, err := Read(path); err == nil {
			t.Errorf("%s was changed and nobody noticed", name)
		}
	}
	write([]byte("no archive"))
	if _, err := Read(path); err == nil {
		t.Error("read what is no archive")
	}
}

// TestAnotherPath builds the real worker from a copy of the source elsewhere, as make build does: what is approved can be
// built again by anyone.
func TestAnotherPath(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the worker twice")
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "elsewhere", "copy")
	for _, dir := range []string{"cmd/worker", "enclave", "internal", "operators"} {
		if err := os.CopyFS(filepath.Join(copied, dir), os.DirFS(filepath.Join(root, dir))); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(root, f))
		if err := errors.Join(err, os.WriteFile(filepath.Join(copied, f), data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var digests []string
	for _, dir := range []string{root, copied} {
		out := filepath.Join(t.TempDir(), "worker")
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", out, "./cmd/worker")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building in %s: %v\n%s", dir, err, text)
		}
		worker, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		img, err := New(worker)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, img.Digest.String())
		t.Logf("%d bytes, %s", len(worker), img.Digest)
		if len(worker) > 12<<20 {
			t.Errorf("the worker has %d bytes, and is meant to stay under 12 MB", len(worker))
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("the same source gives %v", digests)
	}
}

// BenchmarkImage makes the image of the real worker.
func BenchmarkImage(b *testing.B) {
	worker, err := os.ReadFile(runnertest.Build(b, "yingzhou.dev/lab/cmd/worker"))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(worker)))
	b.ReportAllocs()
	for b.Loop() {
		img, err := New(worker)
		if err == nil {
			err = img.WriteTo(io.Discard, "worker:test")
		}
		if err != nil {
			b.Fatal(err)
		}
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
