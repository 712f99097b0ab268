package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/durable"
)

// Source hands out blobs from elsewhere. Nothing that it yields is believed.
type Source interface {
	// ReadBlob yields a blob's bytes from an offset to its end. A blob that it lacks is enclave.ErrNotFound.
	ReadBlob(ctx context.Context, d enclave.Digest, offset int64) (io.ReadCloser, error)
}

// ReadBlob implements Source.
func (s *Store) ReadBlob(ctx context.Context, d enclave.Digest, offset int64) (io.ReadCloser, error) {
	f, err := s.open(d)
	if err != nil {
		return nil, err
	}
	if s.keys != nil {
		r, err := s.openAtRest(ctx, f, offset)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reading blob %s: %w", d, err), f.Close())
		}
		return r, nil
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("reading blob %s: %w", d, err), f.Close())
	}
	return f, nil
}

// Pull takes a blob of size bytes over from a source. What arrived before a source failed, or this process ended, is kept
// aside and continued from; a source that fails is asked again for as long as each time brings some bytes. The blob
// appears only whole: other bytes than its name promises, or more or fewer than size, are enclave.ErrBlob, and nothing of
// them is kept.
func (s *Store) Pull(ctx context.Context, from Source, d enclave.Digest, size int64) error {
	if s.Has(d) {
		return nil
	}
	part := filepath.Join(s.dir, "partial", filepath.Base(filepath.Dir(s.Path(d)))+filepath.Base(s.Path(d)))
	defer s.locks.lock(part)()
	if s.Has(d) { // another caller was quicker
		return nil
	}
	if s.keys != nil { // nothing is kept aside that is not encrypted
		return s.take(ctx, from, d, size)
	}
	if err := s.pull(ctx, from, d, size, part); err != nil {
		return fmt.Errorf("pulling blob %s: %w", d, err)
	}
	return nil
}

// take is Pull in one go.
func (s *Store) take(ctx context.Context, from Source, d enclave.Digest, size int64) error {
	r, err := from.ReadBlob(ctx, d, 0)
	if err != nil {
		return fmt.Errorf("pulling blob %s: %w", d, err)
	}
	defer r.Close()
	if _, _, err := s.Put(ctx, io.LimitReader(r, size+1), d); err != nil {
		return fmt.Errorf("pulling blob %s: %w", d, err)
	}
	return nil
}

func (s *Store) pull(ctx context.Context, from Source, d enclave.Digest, size int64, part string) error {
	if err := durable.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another process is pulling it: %w", err)
	}
	p := &partial{f: f, h: sha256.New(), size: size}
	if err := p.resume(); err != nil {
		return err
	}
	for p.have < size {
		before := p.have
		err := p.read(ctx, from, d)
		if errors.Is(err, enclave.ErrBlob) {
			return errors.Join(err, os.Remove(part))
		}
		if err != nil && (p.have == before || ctx.Err() != nil) {
			return errors.Join(err, f.Sync())
		}
	}
	if got := enclave.Digest(p.h.Sum(nil)); got != d {
		return errors.Join(fmt.Errorf("%w: the %d bytes received hash to %s", enclave.ErrBlob, size, got), os.Remove(part))
	}
	return s.settle(f, part, d)
}

// settle makes a whole partial file durable under its name: content, then name, then the folders.
func (s *Store) settle(f *os.File, part string, d enclave.Digest) error {
	path := s.Path(d)
	defer s.locks.lock(path)()
	if err := errors.Join(f.Chmod(0o444), f.Sync(), durable.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return errors.Join(syncShard(filepath.Dir(path)), durable.SyncDir(filepath.Dir(part)))
}

// partial is the beginning of a blob.
type partial struct {
	f          *os.File
	h          hash.Hash
	have, size int64
}

// resume hashes what an earlier attempt left. More than the blob can have is dropped.
func (p *partial) resume() error {
	n, err := io.Copy(p.h, p.f)
	if err == nil && n > p.size {
		p.h.Reset()
		n = 0
		err = p.f.Truncate(0)
	}
	if err == nil {
		_, err = p.f.Seek(n, io.SeekStart)
	}
	p.have = n
	return err
}

// read appends what the source yields. A source that ends early is an error like any other that may pass.
func (p *partial) read(ctx context.Context, from Source, d enclave.Digest) error {
	r, err := from.ReadBlob(ctx, d, p.have)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(io.MultiWriter(p.f, p.h), io.LimitReader(interruptible(ctx, r), p.size-p.have+1))
	p.have += n
	switch {
	case p.have > p.size:
		return fmt.Errorf("%w: it has more than %d bytes", enclave.ErrBlob, p.size)
	case err != nil:
		return err
	case p.have < p.size && n == 0:
		return fmt.Errorf("%w: it ends after %d of %d bytes", enclave.ErrBlob, p.have, p.size)
	case p.have < p.size:
		return io.ErrUnexpectedEOF
	}
	return nil
}
