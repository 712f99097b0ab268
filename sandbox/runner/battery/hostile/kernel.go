package main

import (
	"errors"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

const nothing = ^uintptr(0) // no pointer, no descriptor, no process

func kernel() []probe {
	list := []probe{
		{"bpf", func() error { return reach(unix.SYS_BPF, 0, nothing, 0) }},
		{"perf", perf},
		{"userfaultfd", func() error {
			fd, _, errno := unix.RawSyscall(unix.SYS_USERFAULTFD, 1, 0, 0)
			if errno != 0 {
				return errno
			}
			return unix.Close(int(fd))
		}},
		{"keyctl", func() error { return reach(unix.SYS_KEYCTL, 0, nothing-2, 0) }},
		{"add-key", func() error { return reach(unix.SYS_ADD_KEY, nothing, nothing, 0, 0, 0) }},
		{"request-key", func() error { return reach(unix.SYS_REQUEST_KEY, nothing, nothing, 0, 0) }},
		{"ptrace", func() error { return reach(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 0x7ffffff0) }},
		{"ptrace-me", func() error { return child(0, unix.SYS_PTRACE, unix.PTRACE_TRACEME) }},
		{"process-memory", func() error { return reach(unix.SYS_PROCESS_VM_READV, 0x7ffffff0, 0, 0, 0, 0, 0) }},
		{"kcmp", func() error { return reach(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(os.Getpid()), 0, 0, 0) }},
		{"pidfd-open", func() error {
			fd, err := unix.PidfdOpen(os.Getpid(), 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}},
		{"pidfd-getfd", func() error { return reach(unix.SYS_PIDFD_GETFD, nothing, 0, 0) }},
		{"init-module", func() error { return reach(unix.SYS_INIT_MODULE, nothing, 0, nothing) }},
		{"finit-module", func() error { return reach(unix.SYS_FINIT_MODULE, nothing, nothing, 0) }},
		{"delete-module", func() error { return reach(unix.SYS_DELETE_MODULE, nothing, 0) }},
		{"kexec", func() error { return reach(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0xffff) }},
		{"reboot", func() error { return reach(unix.SYS_REBOOT, 1, 2, 3) }},
		{"syslog", func() error {
			n, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
			return flag(n > 0, err)
		}},
		{"set-clock", func() error { return reach(unix.SYS_CLOCK_SETTIME, 0, nothing) }},
		{"adjust-clock", func() error { var t unix.Timex; _, err := unix.Adjtimex(&t); return err }},
		{"swap", func() error { return reach(unix.SYS_SWAPON, nothing, 0) }},
		{"quota", func() error { return reach(unix.SYS_QUOTACTL, 0x80000100, nothing, 0, 0) }},
		{"accounting", func() error { return reach(unix.SYS_ACCT, nothing) }},
		{"fanotify", func() error {
			fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}},
		{"inotify", func() error {
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}},
		{"splice", func() error { return reach(unix.SYS_SPLICE, nothing, 0, nothing, 0, 0, 0) }},
		{"vmsplice", func() error { return reach(unix.SYS_VMSPLICE, nothing, 0, 0, 0) }},
		{"move-pages", func() error { return reach(unix.SYS_MOVE_PAGES, 0, 0, 0, 0, 0, 0) }},
		{"memory-policy", func() error { return reach(unix.SYS_MBIND, 0, 0, 0, 0, 0, 0) }},
		{"secret-memory", func() error { return closed(unix.SYS_MEMFD_SECRET, 0) }},
		{"memory-file", func() error { return closed(unix.SYS_MEMFD_CREATE, uintptr(unsafe.Pointer(&[]byte("x\x00")[0])), 0) }},
		{"executable-memory", func() error { return mapMemory(unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC) }},
		{"executable-later", func() error {
			b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return err
			}
			defer unix.Munmap(b)
			return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
		}},
		{"own-filter", func() error { return reach(unix.SYS_SECCOMP, 1, 0, nothing) }},
		{"own-landlock", func() error { return reach(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1) }},
		{"process-madvise", func() error { return reach(unix.SYS_PROCESS_MADVISE, nothing, 0, 0, 0, 0) }},
		{"file-handle", fileHandle},
		{"new-mount-api", func() error { return closed(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(&[]byte("tmpfs\x00")[0])), 0) }},
		{"open-tree", func() error {
			return closed(unix.SYS_OPEN_TREE, nothing-99, uintptr(unsafe.Pointer(&[]byte("/tmp\x00")[0])), unix.OPEN_TREE_CLONE)
		}},
		{"mount-tmpfs", func() error {
			if err := unix.Mount("none", "/tmp", "tmpfs", 0, ""); err != nil {
				return err
			}
			return unix.Unmount("/tmp", unix.MNT_DETACH)
		}},
		{"mount-proc", func() error {
			if err := unix.Mount("proc", "/tmp", "proc", 0, ""); err != nil {
				return err
			}
			return unix.Unmount("/tmp", unix.MNT_DETACH)
		}},
		{"mount-bind", func() error {
			if err := unix.Mount("/", "/tmp", "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Unmount("/tmp", unix.MNT_DETACH)
		}},
		{"pivot-root", func() error { return reach(unix.SYS_PIVOT_ROOT, nothing, nothing) }},
	}
	for name, path := range map[string]string{"write-core-pattern": "/proc/sys/kernel/core_pattern", "write-host-name": "/proc/sys/kernel/hostname",
		"write-forwarding": "/proc/sys/net/ipv4/ip_forward", "write-caches": "/proc/sys/vm/drop_caches", "write-sysrq": "/proc/sysrq-trigger",
		"write-uevent-helper": "/sys/kernel/uevent_helper", "write-module-path": "/proc/sys/kernel/modprobe"} {
		list = append(list, probe{name, func() error { return open(path, unix.O_WRONLY) }})
	}
	for name, path := range map[string]string{"read-kcore": "/proc/kcore", "read-keys": "/proc/keys", "read-timers": "/proc/timer_list",
		"read-sys": "/sys/kernel", "read-firmware": "/sys/firmware", "read-sys-block": "/sys/block", "read-kallsyms": "/proc/kallsyms", "read-interrupts": "/proc/interrupts"} {
		list = append(list, probe{name, func() error { return read(path) }})
	}
	return append(list, probe{"cgroup-raise", cgroupRaise}, probe{"cgroup-escape", cgroupEscape}, probe{"cgroup-release-agent", releaseAgent})
}

// closed makes a call that returns a descriptor, and closes it.
func closed(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	fd, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

func mapMemory(prot int) error {
	b, err := unix.Mmap(-1, 0, 4096, prot, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return unix.Munmap(b)
}

func perf() error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
	attr.Size = uint32(unsafe.Sizeof(attr))
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// fileHandle opens its input by the number of its inode, which ignores the folders above (the "Shocker" escape).
func fileHandle() error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "data", 0)
	if err != nil {
		return errors.Join(reach(unix.SYS_OPEN_BY_HANDLE_AT, nothing-99, nothing, 0), err)
	}
	dir, err := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func cgroupFiles(name string) []string {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	here, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	return append(found, here...)
}

func openAny(paths []string) error {
	err := error(unix.ENOENT)
	for _, p := range paths {
		if err = open(p, unix.O_WRONLY); err == nil {
			return nil
		}
	}
	return err
}

// cgroupRaise would give this group more memory.
func cgroupRaise() error {
	return openAny(append(cgroupFiles("memory.limit_in_bytes"), cgroupFiles("memory.max")...))
}

// cgroupEscape would move this process to another group.
func cgroupEscape() error { return openAny(cgroupFiles("cgroup.procs")) }

// releaseAgent would name a program for the host to run.
func releaseAgent() error { return openAny(cgroupFiles("release_agent")) }
