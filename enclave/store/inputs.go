package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
)

// Input is one file that a job reads.
type Input struct {
	Digest enclave.Digest
	Kind   string // kind of derived file; empty = the blob itself
	Name   string // file name in the job's folder
}

// StageAll gives a job all of its inputs in dir, an existing folder, or none. A name that is taken is fs.ErrExist, a
// file that the store lacks enclave.ErrNotFound. A link shares its file with the store, so a job gets the folder bound
// read-only.
func (s *Store) StageAll(ctx context.Context, dir string, inputs []Input) (err error) {
	var placed []string
	defer func() {
		if err == nil {
			return
		}
		for _, p := range placed {
			if undo := os.Remove(p); undo != nil && !errors.Is(undo, fs.ErrNotExist) {
				err = errors.Join(err, undo)
			}
		}
	}()
	for _, in := range inputs {
		if !plainName(in.Name) {
			return fmt.Errorf("staging: %q is not a plain file name", in.Name)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("staging %q: %w", in.Name, err)
		}
		path := s.Path(in.Digest)
		if in.Kind != "" {
			path = s.DerivedPath(in.Digest, in.Kind)
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("staging %q: blob %s, kind %q: %w", in.Name, in.Digest, in.Kind, enclave.ErrNotFound)
		}
		target := filepath.Join(dir, in.Name)
		if err := linkOrCopy(path, target); err != nil {
			return fmt.Errorf("staging %q: %w", in.Name, err)
		}
		placed = append(placed, target)
	}
	return nil
}

// plainName reports whether name is that of a file in a folder and leads nowhere else.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && name == filepath.Base(name)
}

// Stage gives a job one input: dir gets a link called name to path, or a copy where links cannot reach. Staging the same
// again is no error, but a name taken by another file is fs.ErrExist.
func Stage(path, dir, name string) error {
	if !plainName(name) {
		return fmt.Errorf("staging: %q is not a plain file name", name)
	}
	target := filepath.Join(dir, name)
	err := linkOrCopy(path, target)
	if errors.Is(err, fs.ErrExist) {
		same, cmp := sameFile(path, target)
		if same {
			return nil
		}
		err = errors.Join(err, cmp)
	}
	if err != nil {
		return fmt.Errorf("staging %q: %w", name, err)
	}
	return nil
}

// linkOrCopy links or copies a file to a free name, whole or not at all.
func linkOrCopy(path, target string) error {
	err := os.Link(path, target)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) { // no link can be made
		return copyTo(path, target)
	}
	return err
}

func copyTo(path, target string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(target))
	}
	return nil
}

// sameFile reports whether two names are of one file or, as between a file and its copy, of the same bytes. Nothing but
// regular files are the same: a link in a job's folder could lead anywhere.
func sameFile(a, b string) (bool, error) {
	ai, err1 := os.Lstat(a)
	bi, err2 := os.Lstat(b)
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	if !ai.Mode().IsRegular() || !bi.Mode().IsRegular() || ai.Size() != bi.Size() {
		return false, nil
	}
	return os.SameFile(ai, bi) || sameBytes(a, b), nil
}

// sameBytes compares two files; one that cannot be read to its end is not the same as any.
func sameBytes(a, b string) bool {
	af, err := os.Open(a)
	if err != nil {
		return false
	}
	defer af.Close()
	bf, err := os.Open(b)
	if err != nil {
		return false
	}
	defer bf.Close()
	ar, br := bufio.NewReaderSize(af, 1<<16), bufio.NewReaderSize(bf, 1<<16)
	for {
		x, err1 := ar.ReadByte()
		y, err2 := br.ReadByte()
		if err1 != nil || err2 != nil {
			return err1 == io.EOF && err2 == io.EOF
		}
		if x != y {
			return false
		}
	}
}
