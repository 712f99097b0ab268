// Package image makes the worker's container image: FROM scratch, in memory, from the static binary alone. The same
// binary gives the same bytes anywhere and at any time, so the digest of its configuration, which contains the digest
// of its layer, can be approved beforehand and built again by anyone.
//
// Three things make it so: the layer is not compressed, so that no version of gzip shows; every time is the Unix epoch;
// and the order, owners and modes of its three entries are fixed here (OCI Image Specification v1.1). An engine's own
// build and import do none of this.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/runner"
)

// Entrypoint is the worker's path in its image.
const Entrypoint = "/worker"

// Image is a worker's image.
type Image struct {
	Digest enclave.Digest // of the configuration; Docker uses it as the image's ID
	Layer  string         // digest of the one layer, "sha256:…", as engines list it (DiffID)
	Arch   string         // GOARCH
	image  v1.Image
}

// New makes the image of a static Linux program.
func New(worker []byte) (*Image, error) {
	arch, err := runner.CheckProgram(bytes.NewReader(worker))
	if err != nil {
		return nil, fmt.Errorf("making image: %w", err)
	}
	layer, err := rootfs(worker)
	if err != nil {
		return nil, fmt.Errorf("making image: %w", err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.AppendLayers(img, static.NewLayer(layer, types.OCIUncompressedLayer))
	if err != nil {
		return nil, fmt.Errorf("making image: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("making image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	user := strconv.Itoa(runner.Nobody)
	config.Config = v1.Config{Entrypoint: []string{Entrypoint}, User: user + ":" + user, WorkingDir: runner.InputFolder}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("making image: %w", err)
	}
	hash, err := img.ConfigName()
	if err != nil {
		return nil, fmt.Errorf("making image: %w", err)
	}
	digest, err := enclave.ParseDigest(hash.String())
	if err != nil {
		return nil, fmt.Errorf("making image: %w", err)
	}
	return &Image{Digest: digest, Layer: config.RootFS.DiffIDs[0].String(), Arch: arch, image: img}, nil
}

// Names are the digests by which a program is known: of its bytes, which are what a process runs, and of its image.
func Names(path string) (program, img enclave.Digest, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return program, img, err
	}
	i, err := New(data)
	if err != nil {
		return program, img, fmt.Errorf("%s: %w", path, err)
	}
	return canon.Sum(data), i.Digest, nil
}

// WriteTo writes the image as an archive that an engine can load, under the tag ref.
func (i *Image) WriteTo(w io.Writer, ref string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("writing image: %w", err)
	}
	if err := tarball.Write(tag, i.image, w); err != nil {
		return fmt.Errorf("writing image: %w", err)
	}
	return nil
}

// Read takes an archive apart that WriteTo or an engine wrote, and builds its image again from the program in it: what
// Digest then says is what this archive would be approved as. An archive that is not exactly such an image, with another
// file, another setting or an altered layer, is ErrInvalid.
func Read(path string) (*Image, error) {
	archive, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		return nil, fmt.Errorf("reading image %q: %w", path, err)
	}
	fault := func(format string, args ...any) (*Image, error) {
		return nil, fmt.Errorf("reading image %q: %w: %s", path, runner.ErrInvalid, fmt.Sprintf(format, args...))
	}
	layers, err := archive.Layers()
	if err != nil || len(layers) != 1 {
		return fault("it has %d layers, a worker's image has one (%v)", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		return fault("%v", err)
	}
	defer content.Close()
	layer, err := io.ReadAll(io.LimitReader(content, runner.MaxProgram+1<<16))
	if err != nil {
		return fault("%v", err)
	}
	worker, err := program(layer)
	if err != nil {
		return fault("%v", err)
	}
	img, err := New(worker)
	if err != nil {
		return nil, fmt.Errorf("reading image %q: %w", path, err)
	}
	again, err := rootfs(worker)
	if err != nil {
		return nil, fmt.Errorf("reading image %q: %w", path, err)
	}
	name, err := archive.ConfigName()
	switch {
	case err != nil:
		return fault("%v", err)
	case !bytes.Equal(layer, again):
		return fault("its layer holds more than the worker, or holds it otherwise")
	case name.String() != img.Digest.String():
		return fault("its config is %s, the config of its worker's image is %s", name, img.Digest)
	}
	return img, nil
}

// program finds the worker in a layer.
func program(layer []byte) ([]byte, error) {
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("no worker in its layer: %w", err)
		}
		if "/"+h.Name == Entrypoint {
			return io.ReadAll(r)
		}
	}
}

// rootfs is the layer: the binary and the folders on which the engine mounts. runc gives a tmpfs the mode of the folder
// that it covers, hence /tmp's.
func rootfs(worker []byte) ([]byte, error) {
	epoch := time.Unix(0, 0).UTC()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "in/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "worker", Typeflag: tar.TypeReg, Mode: 0o555, Size: int64(len(worker))},
	} {
		h.ModTime, h.Format = epoch, tar.FormatUSTAR
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
	}
	if _, err := w.Write(worker); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
