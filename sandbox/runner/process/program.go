package process

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
)

// take copies a worker program to where nobody can change it, and returns the copy with its digest. What is hashed is
// what is kept, so it makes no difference when the file changes meanwhile.
func take(path, dir string) (*os.File, enclave.Digest, error) {
	var digest enclave.Digest
	in, err := os.Open(path)
	if err != nil {
		return nil, digest, err
	}
	defer in.Close()
	out, seal, err := newProgram(dir)
	if err != nil {
		return nil, digest, err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, hash), io.LimitReader(in, runner.MaxProgram+1))
	switch {
	case err != nil:
	case n > runner.MaxProgram:
		err = fmt.Errorf("%w: the file has more than %d bytes", runner.ErrInvalid, runner.MaxProgram)
	default:
		_, err = runner.CheckProgram(out)
	}
	if err != nil {
		return nil, digest, errors.Join(err, out.Close())
	}
	hash.Sum(digest[:0])
	kept, err := seal()
	return kept, digest, err
}

// newProgram returns an empty file without a name, and a function that makes it immutable and returns it. It is a
// sealed memory file (memfd_create(2)); where the kernel is told not to execute those (vm.memfd_noexec), it is a file in
// dir that is unlinked and open for reading only.
func newProgram(dir string) (*os.File, func() (*os.File, error), error) {
	fd, err := unix.MemfdCreate("worker", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, memory files could always be executed
		fd, err = unix.MemfdCreate("worker", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return newProgramFile(dir)
	}
	f := os.NewFile(uintptr(fd), "worker")
	return f, func() (*os.File, error) {
		const forever = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, forever); err != nil {
			return nil, errors.Join(fmt.Errorf("sealing the copy: %w", err), f.Close())
		}
		// A file that is open for writing is not executed (ETXTBSY), even if it can no longer be written.
		kept, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("keeping the copy: %w", err)
		}
		return kept, nil
	}, nil
}

func newProgramFile(dir string) (*os.File, func() (*os.File, error), error) {
	f, err := os.CreateTemp(dir, "worker-")
	if err != nil {
		return nil, nil, err
	}
	seal := func() (*os.File, error) {
		err := errors.Join(f.Chmod(0o555), f.Close())
		kept, open := os.Open(f.Name())
		err = errors.Join(err, open, os.Remove(f.Name()))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("keeping the copy: %w", err), kept.Close())
		}
		return kept, nil
	}
	return f, seal, nil
}
