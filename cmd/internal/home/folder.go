package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// leastFree is what opening a lab takes: the log, the database and its shared memory.
const leastFree = 1 << 20

// checkSpace says plainly that the disk is full, which the database would tell in numbers.
func (h *Home) checkSpace() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(h.Dir, &fs); err != nil {
		return fmt.Errorf("asking for free space: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < leastFree {
		return fmt.Errorf("%w: %d KiB are free at %s, %d are needed", unix.ENOSPC, free>>10, h.Dir, leastFree>>10)
	}
	return nil
}

// acquire takes the folder's lock. The kernel releases it when the process ends, however it ends.
func (h *Home) acquire(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(h.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening lab: %w", err)
	}
	deadline := time.NewTimer(max(h.opts.Wait, time.Millisecond))
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			h.lock = f
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return fmt.Errorf("opening lab: %w", err)
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			f.Close()
			return fmt.Errorf("%w: %s", ErrInUse, h.Dir)
		case <-ctx.Done():
			f.Close()
			return ctx.Err()
		}
	}
}
