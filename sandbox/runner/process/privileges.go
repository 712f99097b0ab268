package process

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner"
)

// openFiles bounds descriptors: a query over rows maps several hundred panels.
const openFiles = 4096

// rlimits are what holds where no cgroup does. RLIMIT_AS is left alone: it counts address space, of which Go reserves
// much and inputs map more than memory has. RLIMIT_DATA counts private writable memory only; Go takes that in steps of
// 64 MiB, hence the slack above the limit that the cgroup keeps exactly.
func (s *spec) rlimits() error {
	const slack = 256
	limits := []struct {
		what  int
		value uint64
	}{
		{unix.RLIMIT_NOFILE, openFiles},
		{unix.RLIMIT_CORE, 0}, // a dump would write the worker's memory to disk
		{unix.RLIMIT_FSIZE, uint64(s.TmpMiB) << 20},
		{unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_CPU, s.CPU},
		{unix.RLIMIT_DATA, uint64(s.MemoryMiB+slack) << 20},
	}
	if s.Threads > 0 {
		limits = append(limits, struct {
			what  int
			value uint64
		}{unix.RLIMIT_NPROC, s.Threads})
	}
	for _, l := range limits {
		var now unix.Rlimit
		if err := unix.Getrlimit(l.what, &now); err != nil {
			return err
		}
		v := min(l.value, now.Max) // an ordinary user can only go down
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: v, Max: v}); err != nil {
			return fmt.Errorf("limit %d: %w", l.what, err)
		}
	}
	return nil
}

// becomeNobody changes this thread's user. The package syscall's functions would change all threads and wait for them.
func becomeNobody() error {
	var none [1]uint32
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, uintptr(unsafe.Pointer(&none)), 0); e != 0 {
		return fmt.Errorf("giving up groups: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, runner.Nobody, runner.Nobody, runner.Nobody); e != 0 {
		return fmt.Errorf("changing group: %w", e)
	}
	if err := keepCapabilities(); err != nil { // dropCapabilities needs one
		return err
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, runner.Nobody, runner.Nobody, runner.Nobody); e != 0 {
		return fmt.Errorf("changing user: %w", e)
	}
	return nil
}

// keepCapabilities has the permitted set survive the change of user.
func keepCapabilities() error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities: %w", err)
	}
	return nil
}

// dropCapabilities gives all of them up for good: those held, those that a program could bring (bounding set), and
// those that user ID 0 would bring (securebits). It then looks whether they are gone.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	if err := unix.Capget(&header, &held[0]); err != nil {
		return err
	}
	held[0].Effective, held[1].Effective = held[0].Permitted, held[1].Permitted // cleared by a change of user
	if err := unix.Capset(&header, &held[0]); err != nil {
		return err
	}
	var bounding error
	for c := uintptr(0); c <= 63; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // past the last one that the kernel knows
			break
		}
		bounding = errors.Join(bounding, err)
	}
	const noRoot, noFixup, noKeep, noAmbient = 0x3, 0xc, 0x20, 0xc0 // SECBIT_* with their locks, linux/securebits.h
	if bounding == nil {
		bounding = unix.Prctl(unix.PR_SET_SECUREBITS, noRoot|noFixup|noKeep|noAmbient, 0, 0, 0)
	}
	if held[0].Permitted|held[1].Permitted == 0 {
		bounding = nil // an ordinary user cannot do this, and with no_new_privs no program can bring capabilities
	}
	var zero [2]unix.CapUserData
	if err := errors.Join(bounding, unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), unix.Capset(&header, &zero[0])); err != nil {
		return err
	}
	if err := unix.Capget(&header, &held[0]); err != nil {
		return err
	}
	if held != zero {
		return errors.New("some are still held")
	}
	return nil
}
