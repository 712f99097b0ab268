package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// doors are ways to something beside the kernel: services of the host, other containers, what a parent forgot.
func doors(inherited error) []probe {
	list := []probe{
		{"inherited-files", func() error { return inherited }},
		{"shared-memory", func() error {
			id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
			if err != nil {
				return err
			}
			_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
			return err
		}},
		{"semaphores", func() error {
			id, _, errno := unix.RawSyscall(unix.SYS_SEMGET, 0, 1, 0o600)
			if errno != 0 {
				return errno
			}
			return raw(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID)
		}},
		{"message-queue", func() error {
			id, _, errno := unix.RawSyscall(unix.SYS_MSGGET, 0, 0o600, 0)
			if errno != 0 {
				return errno
			}
			return raw(unix.SYS_MSGCTL, id, unix.IPC_RMID, 0)
		}},
		{"posix-queue", func() error {
			name := []byte("hostile-probe\x00")
			fd, _, errno := unix.RawSyscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
			if errno != 0 {
				return errno
			}
			return errors.Join(unix.Close(int(fd)), raw(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(&name[0])), 0, 0))
		}},
		{"dev-shm", func() error { return create("/dev/shm/hostile-probe") }},
		{"environment", environment},
		{"learn-host-name", func() error {
			name, err := os.Hostname()
			return flag(name != "worker", err)
		}},
		{"other-environment", func() error {
			if os.Getpid() == 1 {
				return errors.New("own process is 1")
			}
			return read("/proc/1/environ")
		}},
		{"other-root", func() error {
			if os.Getpid() == 1 {
				return errors.New("own process is 1")
			}
			return open("/proc/1/root/etc", unix.O_RDONLY)
		}},
		{"learn-cgroups", func() error {
			data, err := os.ReadFile("/proc/self/cgroup")
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(data)) {
				if p := strings.SplitN(strings.TrimSpace(line), ":", 3); len(p) == 3 && p[2] != "/" {
					return nil
				}
			}
			return errors.New("own root only")
		}},
		{"learn-mounts", func() error { return readLine("/proc/self/mountinfo", "/") }},
		{"learn-hardware", func() error { return read("/proc/cpuinfo") }},
		{"learn-load", func() error { return read("/proc/loadavg") }},
		{"learn-boot", func() error { return read("/proc/sys/kernel/random/boot_id") }},
		{"many-files", manyFiles},
	}
	for name, pattern := range map[string]string{"docker-socket": "/run/docker.sock", "containerd-socket": "/run/containerd", "system-bus": "/run/dbus", "run": "/run/*"} {
		list = append(list, probe{name, func() error {
			if found, _ := filepath.Glob(pattern); len(found) > 0 {
				return nil
			}
			return unix.ENOENT
		}})
	}
	return list
}

// environment looks for a variable that neither the runner nor Docker itself sets for every container.
func environment() error {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains([]string{"HOME", "TMPDIR", "GOMAXPROCS", "GOMEMLIMIT", "PATH", "HOSTNAME"}, name) {
			return nil
		}
	}
	return errors.New("no more")
}

// inheritedFiles is nil if descriptors are open that this program did not open. Its own, the runtime's too, are closed on
// execution, and one that came through an execution cannot be.
func inheritedFiles() error {
	for fd := 3; fd < 1024; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			return nil
		}
	}
	return errors.New("none")
}

// manyFiles opens more than a process may.
func manyFiles() error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range 5000 {
		fd, err := unix.Open("data", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return nil
}

// last are what cannot be undone.
func last() []probe {
	return []probe{
		{"remount-input", func() error { return unix.Mount("", "/in", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
		{"unmount-input", func() error { return unix.Unmount("/in", unix.MNT_DETACH) }},
		{"unmount-masks", func() error { return unix.Unmount("/proc/keys", unix.MNT_DETACH) }},
		{"chroot", func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			return unix.Chroot("/tmp")
		}},
	}
}
