package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A log's folder has three lock files, all of flock(2), which belongs to the open file and goes with its process.
// Tessera's own locks last for one operation only and, being POSIX record locks, do not hold within one process.
//
//	lock         held for as long as the log is open: alone, or together with others that are Shared too
//	lock.round   held, by a shared log, for one round: whoever has it is the only one that integrates, signs and asks the
//	             witness
//	lock.next    the doorway: whoever waits for the round holds it. A process that has just ended a round and wants another
//	             has to come in behind the one that waits, so that none is starved
const (
	lockFile  = "lock"
	roundFile = "lock.round"
	nextFile  = "lock.next"
)

// acquire makes this process the only user of a folder until the file is closed or, where shared, one of several that
// share it.
func acquire(path string, shared bool) (*os.File, error) {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: close it there first", ErrInUse)
	}
	return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
}

// turn waits until this log may write to its folder and returns what ends its turn. A log that nobody shares always may.
func (l *Log) turn(ctx context.Context) (end func(), err error) {
	if !l.shared {
		return func() {}, nil
	}
	next, err := await(ctx, filepath.Join(l.dir, nextFile))
	if err != nil {
		return nil, err
	}
	defer next.Close()
	round, err := await(ctx, filepath.Join(l.dir, roundFile))
	if err != nil {
		return nil, err
	}
	return func() { round.Close() }, nil // the lock goes with the file, whatever closing it says
}

// await locks a file for its caller alone, until it is closed. The thread that waits in flock(2) cannot be called off: if
// ctx ends first, it gives the lock back when it gets it.
func await(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				locked <- err
				return
			}
		}
	}()
	select {
	case err = <-locked:
	case <-ctx.Done():
		go func() {
			<-locked
			f.Close()
		}()
		return nil, fmt.Errorf("waiting for another process's turn at %s: %w", path, ctx.Err())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
}
