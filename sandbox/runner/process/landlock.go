package process

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner"
)

// The rights that Landlock controls, by the version of its interface that brought them (landlock(7)).
const (
	fsReads  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	fsWrites = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	net    = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	scopes = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
)

// restrictPaths puts this thread, and so the worker, into a Landlock domain: it may read its inputs, write in /tmp if it
// has one, and execute nothing by a path. It returns the version of the interface in force. Where there are no mount
// namespaces this is what keeps a worker from the host's files.
//
// The calls are made here, not by github.com/landlock-lsm/go-landlock: before version 8 of the interface that changes
// all threads of the process by way of /proc, which is gone by now.
func restrictPaths(mounted bool) (abi int, err error) {
	v, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, errno
	}
	abi = int(v)
	attr := unix.LandlockRulesetAttr{Handled_access_fs: 1<<13 - 1}
	for _, since := range []struct {
		abi int
		add func()
	}{
		{2, func() { attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER }},
		{3, func() { attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE }},
		{4, func() { attr.Handled_access_net = net }},
		{5, func() { attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV }},
		{6, func() { attr.Scoped = scopes }},
	} {
		if abi >= since.abi {
			since.add()
		}
	}
	// Kernels take a longer structure than they know as long as what they do not know is zero.
	fd, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return abi, fmt.Errorf("making rules: %w", errno)
	}
	defer unix.Close(int(fd))
	if err := allowPaths(int(fd), attr.Handled_access_fs, mounted); err != nil {
		return abi, err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return abi, fmt.Errorf("applying rules: %w", errno)
	}
	return abi, nil
}

func allowPaths(rules int, handled uint64, mounted bool) error {
	// The program is usually a memory file, to which Landlock does not apply and for which it takes no rule.
	err := allowPath(rules, fdProgram, handled&(unix.LANDLOCK_ACCESS_FS_EXECUTE|unix.LANDLOCK_ACCESS_FS_READ_FILE))
	if err != nil && !errors.Is(err, unix.EBADFD) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if !mounted {
		return allowPath(rules, fdInput, handled&fsReads)
	}
	for path, rights := range map[string]uint64{runner.InputFolder: fsReads, "/tmp": fsReads | fsWrites} {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening %q: %w", path, err)
		}
		err = allowPath(rules, fd, handled&rights)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	return nil
}

func allowPath(rules, fd int, rights uint64) error {
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("adding a rule: %w", errno)
	}
	return nil
}
