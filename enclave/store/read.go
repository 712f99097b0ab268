package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"yingzhou.dev/lab/enclave"
)

// Size is a blob's size in bytes.
func (s *Store) Size(d enclave.Digest) (int64, error) {
	if s.keys != nil {
		return s.sizeAtRest(d)
	}
	info, err := os.Stat(s.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("blob %s: %w", d, enclave.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	return info.Size(), nil
}

// Import takes a blob over from a file outside the store, such as a volume that an agency sent, if its bytes are the
// wanted ones. Otherwise it is enclave.ErrBlob and nothing is stored.
func (s *Store) Import(ctx context.Context, path string, want enclave.Digest) error {
	if want.IsZero() { // Put would take anything
		return fmt.Errorf("importing %q: %w: no digest was given", path, enclave.ErrBlob)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("importing blob %s: %w", want, err)
	}
	defer f.Close()
	if _, _, err := s.Put(ctx, f, want); err != nil {
		return fmt.Errorf("importing %q: %w", path, err)
	}
	return nil
}

// Map maps a blob. It is not compared with its digest; Verify does that.
func (s *Store) Map(d enclave.Digest) (*Mapping, error) {
	if s.keys != nil {
		return nil, fmt.Errorf("mapping blob %s: %w", d, errAtRest)
	}
	return MapFile(s.Path(d))
}

func (s *Store) sizeAtRest(d enclave.Digest) (int64, error) {
	f, err := s.open(d)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := &restReader{f: f}
	if _, err := r.begin(); err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	return r.size, nil
}

// MapDerived maps a derived file. One that was not derived is enclave.ErrNotFound.
func (s *Store) MapDerived(d enclave.Digest, kind string) (*Mapping, error) {
	return MapFile(s.DerivedPath(d, kind))
}

// errByteOrder keeps a big-endian host from reading wrong numbers.
var errByteOrder = errors.New("sealed files are little-endian and mapped as they are, which this host is not")

// Uint64s views the file as the little-endian words it was written as; a map is page-aligned, so nothing is copied. The
// words are valid until Close. A file that is not whole words is enclave.ErrBlob.
func (m *Mapping) Uint64s() ([]uint64, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errByteOrder
	}
	if len(m.data)%8 != 0 {
		return nil, fmt.Errorf("%w: %d bytes are not whole 64-bit words", enclave.ErrBlob, len(m.data))
	}
	if len(m.data) == 0 {
		return nil, nil
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(&m.data[0])), len(m.data)/8), nil
}
