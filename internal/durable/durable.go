// Package durable writes files that are whole after a power cut or are not there at all.
//
// WriteFile: open(tmp, O_EXCL) write fsync(tmp) close rename(tmp, name) fsync(dir). A reader sees the old content or
// the new content. A leftover temporary file (".tmp-*") is removed by Sweep at the next start.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const tempPrefix = ".tmp-"

// WriteFile replaces name with data, durably.
func WriteFile(name string, data []byte, perm fs.FileMode) error {
	f, err := Create(name, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", name, err), f.Abort())
	}
	return f.Commit()
}

// File is a file being written under a temporary name. Commit or Abort ends it.
type File struct {
	*os.File
	name string
	done bool
}

// Create starts writing name; nothing is visible until Commit. The folder must exist: see MkdirAll.
func Create(name string, perm fs.FileMode) (*File, error) {
	if strings.HasPrefix(filepath.Base(name), tempPrefix) {
		return nil, fmt.Errorf("creating %s: names that begin with %q are for temporary files", name, tempPrefix)
	}
	// The temporary name does not repeat the final one, so a name of the longest length that the file system takes is fine.
	f, err := os.CreateTemp(filepath.Dir(name), tempPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", name, err)
	}
	if err := f.Chmod(perm); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, fmt.Errorf("creating %s: %w", name, err)
	}
	return &File{File: f, name: name}, nil
}

// Commit makes the content durable under its name.
func (f *File) Commit() error { return f.CommitAs(f.name) }

// CommitAs is Commit under a name known only once the content is (a content-addressed store's), on the same file
// system. An error from the last step, syncing the folders, leaves the file visible but perhaps not durable: commit the
// same content again before relying on it.
func (f *File) CommitAs(name string) error {
	if f.done {
		return fmt.Errorf("committing %s: %w", f.name, fs.ErrClosed)
	}
	if strings.HasPrefix(filepath.Base(name), tempPrefix) {
		return errors.Join(fmt.Errorf("committing %s: names that begin with %q are for temporary files", name, tempPrefix), f.Abort())
	}
	f.done = true
	if err := f.Sync(); err != nil {
		f.Close()
		os.Remove(f.Name())
		return fmt.Errorf("syncing %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("closing %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("committing %s: %w", name, err)
	}
	// The new name first: a crash between the two leaves a second, temporary name for Sweep, not a lost file.
	to, from := filepath.Dir(name), filepath.Dir(f.Name())
	if err := SyncDir(to); err != nil || to == from {
		return err
	}
	return SyncDir(from)
}

// Abort removes the temporary file. After Commit it does nothing, so it can be deferred.
func (f *File) Abort() error {
	if f.done {
		return nil
	}
	f.done = true
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// SyncDir makes a rename or removal in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing folder %s: %w", dir, err)
	}
	return nil
}

// MkdirAll makes dir and its missing parents, each durably: a file is no safer than the folder that names it. On
// success every folder that was missing is in its synced parent; one that existed is left as it is.
func MkdirAll(dir string, perm fs.FileMode) error {
	dir = filepath.Clean(dir)
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("making folder %s: it is a file", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) { // someone else may have been quicker
		return fmt.Errorf("making folder: %w", err)
	}
	return SyncDir(parent)
}

// Sweep removes temporary files that a crash left directly in dir. Call it before anything writes there: it cannot tell
// a leftover from a file being written.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweeping %s: %w", dir, err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) || e.IsDir() { // Create makes no folders
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweeping %s: %w", dir, err)
		}
	}
	return nil
}
