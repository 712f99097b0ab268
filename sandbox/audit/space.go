package audit

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// leastFree is what one round takes: a bundle of entries, a tile of each level and the checkpoints, in blocks.
const leastFree = 64 << 10

// room says that the disk is full where it is: the storage's errors have it in words only.
func (l *Log) room(err error) error {
	var fs unix.Statfs_t
	if errors.Is(err, unix.ENOSPC) || unix.Statfs(l.dir, &fs) != nil || int64(fs.Bavail)*fs.Bsize >= leastFree {
		return err
	}
	return fmt.Errorf("%w: %w", unix.ENOSPC, err)
}
