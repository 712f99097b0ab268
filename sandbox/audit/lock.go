package audit

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// acquire makes this process the only user of a folder until the file is closed. Tessera's own locks last for one
// operation only and, being POSIX record locks, do not hold within one process; flock(2) belongs to the open file.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: close it there first", ErrInUse)
	}
	return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
}
