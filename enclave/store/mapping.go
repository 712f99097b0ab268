package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
)

// Mapping is a file mapped read-only. Its bytes are valid until Close.
type Mapping struct{ data []byte }

// Bytes is the file's content.
func (m *Mapping) Bytes() []byte { return m.data }

// Close unmaps the file.
func (m *Mapping) Close() error {
	if m.data == nil {
		return nil
	}
	data := m.data
	m.data = nil
	return unix.Munmap(data)
}

// MapFile maps a whole file read-only. Truncating the file under a mapping would fault its reader; the store's files
// are read-only and replaced only by rename.
func MapFile(path string) (*Mapping, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("mapping %s: %w", path, enclave.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("mapping file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("mapping file: %w", err)
	}
	if info.Size() == 0 {
		return nil, fmt.Errorf("mapping %s: %w: the file is empty", path, enclave.ErrBlob)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", path, err)
	}
	return &Mapping{data: data}, nil
}
