// Package archive writes and reads the tar files of backups: files and folders with paths relative to where they belong,
// without owners and times. Links, devices and paths that lead elsewhere are refused.
package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/durable"
)

// Writer writes one archive, which is there once Commit has succeeded.
type Writer struct {
	f    *durable.File
	sum  interface{ Sum([]byte) []byte }
	out  *tar.Writer
	path string
}

// Create begins an archive.
func Create(path string) (*Writer, error) {
	f, err := durable.Create(path, 0o600)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	return &Writer{f: f, sum: sum, out: tar.NewWriter(io.MultiWriter(f, sum)), path: path}, nil
}

// Abort drops what is not committed.
func (w *Writer) Abort() error { return w.f.Abort() }

// Commit ends the archive and tells its size and digest.
func (w *Writer) Commit() (size int64, d enclave.Digest, err error) {
	if err := w.out.Close(); err != nil {
		return 0, d, err
	}
	info, err := w.f.Stat()
	if err != nil {
		return 0, d, err
	}
	return info.Size(), enclave.Digest(w.sum.Sum(nil)), w.f.Commit()
}

// Add adds a file or an empty folder under a name.
func (w *Writer) Add(path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	head := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		head.Typeflag, head.Name = tar.TypeDir, name+"/"
		return w.out.WriteHeader(head)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file nor a folder", path)
	}
	head.Typeflag, head.Size = tar.TypeReg, info.Size()
	if err := w.out.WriteHeader(head); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w.out, f)
	return err
}

// AddTree adds what is in a folder, under a prefix; skip, which may be nil, leaves out by paths relative to the folder.
func (w *Writer) AddTree(ctx context.Context, root, prefix string, skip func(rel string) bool) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		if rel = filepath.ToSlash(rel); skip != nil && skip(rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return errors.Join(w.Add(path, prefix+rel), ctx.Err())
	})
}

// Check compares an archive with its digest.
func Check(path string, want enclave.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := enclave.Digest(sum.Sum(nil)); got != want {
		return fmt.Errorf("%s is damaged: its digest is %s, the backup's list says %s", filepath.Base(path), got.Short(), want.Short())
	}
	return nil
}

// Extract unpacks an archive: place says where each name goes, or refuses it.
func Extract(ctx context.Context, path string, place func(name string) (string, error)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for in := tar.NewReader(f); ; {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		to, err := place(strings.TrimSuffix(head.Name, "/"))
		if err != nil {
			return err
		}
		if err := extract(in, head, to); err != nil {
			return err
		}
	}
}

// Under is where a name goes in a folder. One that leads out of it is refused.
func Under(root, name string) (string, error) {
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", fmt.Errorf("%s leads out of the part", name)
	}
	return filepath.Join(root, filepath.FromSlash(name)), nil
}

func extract(in io.Reader, head *tar.Header, to string) error {
	mode := fs.FileMode(head.Mode).Perm()
	switch head.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(to, mode|0o700)
	case tar.TypeReg:
		f, err := durable.Create(to, mode)
		if err != nil {
			return err
		}
		defer f.Abort()
		if _, err := io.Copy(f, in); err != nil {
			return err
		}
		return f.Commit()
	}
	return fmt.Errorf("%s is neither a file nor a folder", head.Name)
}
