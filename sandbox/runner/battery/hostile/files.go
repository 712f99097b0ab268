package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner/battery/internal/answer"
)

func files() []probe {
	list := []probe{
		{"write-root", func() error { return create("/hostile-probe") }},
		{"write-etc", func() error { return create("/etc/hostile-probe") }},
		{"write-var", func() error { return create("/var/hostile-probe") }},
		{"write-input", func() error { return create("hostile-probe") }},
		{"change-input", func() error { return open("data", unix.O_RDWR) }},
		{"truncate-input", func() error {
			info, err := os.Stat("data")
			if err != nil {
				return err
			}
			return os.Truncate("data", info.Size())
		}},
		{"rename-input", func() error { return errors.Join(os.Rename("data", "data-"), os.Rename("data-", "data")) }},
		{"chmod-input", func() error { return os.Chmod("data", 0o444) }},
		{"touch-input", func() error { return unix.Utimes("data", []unix.Timeval{{Sec: 1}, {Sec: 1}}) }},
		{"xattr-input", func() error {
			return errors.Join(unix.Setxattr("data", "user.hostile", []byte("x"), 0), unix.Removexattr("data", "user.hostile"))
		}},
		{"hardlink-input", func() error { return undo(os.Link("data", "data-"), "data-") }},
		{"hardlink-out", func() error { return undo(os.Link("data", "/tmp/data-"), "/tmp/data-") }},
		{"symlink-tmp", func() error { return undo(os.Symlink("/etc/shadow", "/tmp/link"), "/tmp/link") }},
		{"replace-worker", replaceWorker},
		{"setuid-file", func() error {
			if err := os.WriteFile("/tmp/s", nil, 0o755); err != nil {
				return err
			}
			return undo(unix.Chmod("/tmp/s", 0o4755), "/tmp/s")
		}},
		{"mknod-block", func() error {
			return undo(unix.Mknod("/tmp/block", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))), "/tmp/block")
		}},
		{"mknod-null", func() error { // one that may be opened, if devices can be at all
			if err := unix.Mknod("/tmp/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
				return err
			}
			return undo(open("/tmp/null", unix.O_RDONLY), "/tmp/null")
		}},
		{"fill-tmp", fillTmp}, {"inodes-tmp", inodes},
		{"execute-tmp", func() error { return executeAt("/tmp/run") }},
		{"execute-shm", func() error { return executeAt("/dev/shm/run") }},
		{"execute-input", func() error { return execute("tool") }},
		{"execute-self", func() error { return execute("/proc/self/exe") }},
		{"execute-memory", executeMemory},
		{"parent-folders", func() error { return open("../../../../../../etc/shadow", unix.O_RDONLY) }},
	}
	for name, path := range map[string]string{"read-passwd": "/etc/passwd", "read-shadow": "/etc/shadow", "read-root": "/root", "read-usr": "/usr",
		"read-var": "/var/lib", "read-boot": "/boot", "read-etc-ssl": "/etc/ssl"} {
		list = append(list, probe{name, func() error { return read(path) }})
	}
	return append(list, devices()...)
}

// devices opens what leads to the machine, and reads none of it.
func devices() []probe {
	disk := func() error {
		found, _ := filepath.Glob("/dev/[vsx]d[a-z]")
		found = append(found, "/dev/vda", "/dev/loop0")
		return first(func() error { return open(found[0], unix.O_RDONLY) }, func() error { return open("/dev/loop0", unix.O_RDONLY) })
	}
	list := []probe{{"device-disk", disk}}
	for _, d := range []struct {
		name, path string
		flags      int
	}{{"device-mem", "/dev/mem", unix.O_RDONLY}, {"device-kmsg", "/dev/kmsg", unix.O_RDONLY}, {"device-kvm", "/dev/kvm", unix.O_RDWR},
		{"device-fuse", "/dev/fuse", unix.O_RDWR}, {"device-loop", "/dev/loop-control", unix.O_RDONLY}, {"device-btrfs", "/dev/btrfs-control", unix.O_RDONLY},
		{"device-tty", "/dev/tty0", unix.O_RDONLY}, {"device-console", "/dev/console", unix.O_WRONLY}} {
		list = append(list, probe{d.name, func() error { return open(d.path, d.flags) }})
	}
	return list
}

func undo(err error, path string) error { return errors.Join(err, ignoreMissing(os.Remove(path))) }

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(path))
}

// replaceWorker moves the program away and back.
func replaceWorker() error {
	const worker = "/worker"
	if err := os.Rename(worker, worker+"-"); err != nil {
		return err
	}
	return os.Rename(worker+"-", worker)
}

// fillTmp succeeds if 24 MiB fit.
func fillTmp() error {
	f, err := os.Create("/tmp/big")
	if err != nil {
		return err
	}
	defer os.Remove("/tmp/big")
	defer f.Close()
	block := make([]byte, 1<<20)
	for range 24 {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// inodes succeeds if fifteen hundred files fit.
func inodes() (err error) {
	if err := os.Mkdir("/tmp/many", 0o700); err != nil {
		return err
	}
	n := 0
	name := func(i int) string { return fmt.Sprint("/tmp/many/", i) }
	for ; n < 1500 && err == nil; n++ {
		var fd int
		if fd, err = unix.Open(name(n), unix.O_CREAT|unix.O_WRONLY, 0o600); err == nil {
			unix.Close(fd)
		}
	}
	for i := range n {
		os.Remove(name(i))
	}
	os.Remove("/tmp/many")
	return err
}

func execute(path string) error {
	pid, err := syscall.ForkExec(path, []string{path, "answer"}, &syscall.ProcAttr{Env: []string{"GOMAXPROCS=1"}})
	if err != nil {
		return err
	}
	return await(pid)
}

func executeAt(path string) error {
	if err := os.WriteFile(path, answer.Program(), 0o755); err != nil {
		return err
	}
	return undo(execute(path), path)
}

func executeMemory() error {
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, answer.Program()); err != nil {
		return err
	}
	return execute(fmt.Sprintf("/proc/self/fd/%d", fd))
}
