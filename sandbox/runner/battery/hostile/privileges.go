package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func privileges() []probe {
	list := []probe{
		{"capabilities", capabilities}, {"bounding-set", func() error {
			n, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_ADMIN, 0, 0, 0)
			return flag(n == 1, err)
		}},
		{"user-root", func() error { return flag(os.Getuid() == 0, nil) }},
		{"user-not-nobody", func() error { return flag(os.Getuid() != 65532 || os.Getgid() != 65532, nil) }},
		{"setuid", func() error { return raw(unix.SYS_SETRESUID, 0, 0, 0) }},
		{"setgid", func() error { return raw(unix.SYS_SETRESGID, 0, 0, 0) }},
		{"setgroups", func() error { g := uint32(0); return raw(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&g)), 0) }},
		{"new-privileges", func() error {
			n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
			return flag(n == 0, err)
		}},
		{"raise-files", func() error {
			return unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}, nil)
		}},
		{"core-dump", func() error { return unlimited(unix.RLIMIT_CORE, 0) }},
		{"lock-memory", func() error {
			b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return err
			}
			defer unix.Munmap(b)
			return errors.Join(unix.Mlock(b), unix.Munlock(b))
		}},
		{"cpu-time", func() error { return unlimited(unix.RLIMIT_CPU, 1<<40) }},
		{"nice", func() error {
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -5); err != nil {
				return err
			}
			return unix.Setpriority(unix.PRIO_PROCESS, 0, 0)
		}},
		{"realtime", func() error {
			one, none := int32(1), int32(0)
			if err := raw(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&one))); err != nil {
				return err
			}
			return raw(unix.SYS_SCHED_SETSCHEDULER, 0, 0, uintptr(unsafe.Pointer(&none)))
		}},
		{"oom-protect", func() error {
			f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err = f.WriteString("-100"); err == nil {
				_, err = f.WriteAt([]byte("500"), 0)
			}
			return err
		}},
		{"oom-order", func() error {
			data, err := os.ReadFile("/proc/self/oom_score_adj")
			return flag(strings.TrimSpace(string(data)) < "5" || len(data) < 4, err)
		}},
		{"signal-others", signalOthers},
		{"personality", func() error { return reach(unix.SYS_PERSONALITY, 0xffffffff) }},
		{"fork", func() error { return child(0, unix.SYS_GETPID) }},
		{"clone3", func() error {
			args := [8]uint64{4: uint64(unix.SIGCHLD)}
			pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
			if errno != 0 {
				return errno
			}
			if pid == 0 {
				for {
					unix.RawSyscall(unix.SYS_EXIT_GROUP, answered, 0, 0)
				}
			}
			return await(int(pid))
		}},
		{"session", func() error { return child(0, unix.SYS_SETSID) }},
	}
	for name, kind := range map[string]uintptr{"namespace-user": unix.CLONE_NEWUSER, "namespace-network": unix.CLONE_NEWNET, "namespace-mount": unix.CLONE_NEWNS,
		"namespace-uts": unix.CLONE_NEWUTS, "namespace-ipc": unix.CLONE_NEWIPC, "namespace-pid": unix.CLONE_NEWPID, "namespace-cgroup": unix.CLONE_NEWCGROUP} {
		list = append(list, probe{name, func() error { return child(kind, unix.SYS_GETPID) }})
	}
	return append(list,
		probe{"unshare-user-in-child", func() error { return child(0, unix.SYS_UNSHARE, unix.CLONE_NEWUSER) }},
		probe{"join-namespace", func() error {
			fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return errors.Join(err, reach(unix.SYS_SETNS, ^uintptr(0), 0))
			}
			defer unix.Close(fd)
			return unix.Setns(fd, unix.CLONE_NEWNET)
		}},
		probe{"host-name", func() error {
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return err
			}
			return unix.Sethostname([]byte(unix.ByteSliceToString(u.Nodename[:])))
		}},
	)
}

func raw(nr, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(nr, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

var errNot = errors.New("no")

func flag(worked bool, err error) error {
	if err == nil && !worked {
		return errNot
	}
	return err
}

func capabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	return flag(caps != [2]unix.CapUserData{}, nil)
}

// unlimited reports whether a limit is above what it may be.
func unlimited(what int, allowed uint64) error {
	var l unix.Rlimit
	if err := unix.Prlimit(0, what, nil, &l); err != nil {
		return err
	}
	if l.Max > allowed {
		return nil
	}
	return fmt.Errorf("limited")
}

// signalOthers asks whether any other process would take a signal, and sends none.
func signalOthers() error {
	return first(func() error { return unix.Kill(-1, 0) },
		func() error {
			if os.Getpid() == 1 {
				return errors.New("alone")
			}
			return unix.Kill(1, 0)
		})
}
