package process

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner"
)

// base is where the new root is made before it becomes the root: the one folder that surely exists, since this program
// was executed through it.
const base = "/proc"

// openFolder opens a task's folder for fdInput or fdLinks. Root hands it over as a detached mount, because the worker's user may
// not be allowed through the folders above it; otherwise the init stage has the rights of this process and mounts it by
// its path, and the open file only proves that it is there.
func openFolder(l level, dir string) (f *os.File, tree bool, err error) {
	if l.mounts() && os.Geteuid() == 0 {
		fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err == nil {
			return os.NewFile(uintptr(fd), dir), true, nil
		}
		if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) { // before Linux 5.2, or filtered
			return nil, false, fmt.Errorf("opening folder %q: %w", dir, err)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false, fmt.Errorf("opening folder %q: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), false, nil
}

// mount makes the worker's whole file system: an empty root that cannot be written, the input folder and a small /tmp.
// There is no /proc, /sys or /dev, and no program: the worker itself is executed from an open file.
func (s *spec) mount() error {
	const inert = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	optional := func(layer string, flags uintptr) uintptr {
		if s.with(layer) {
			return flags
		}
		return 0
	}
	steps := []struct {
		what string
		do   func() error
	}{
		// Mounts made here must not show on the host.
		{"making mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mounting the root", func() error { return unix.Mount("tmpfs", base, "tmpfs", inert, "size=64k,nr_inodes=8,mode=755") }},
		{"making folders", func() error {
			err := errors.Join(unix.Mkdir(base+runner.InputFolder, 0o755), unix.Mkdir(base+"/tmp", 0o755))
			if s.Links != "" {
				err = errors.Join(err, unix.Mkdir(base+runner.LinkFolder, 0o755))
			}
			return err
		}},
		{"mounting the input", func() error { return bind(s.Input, s.InputTree, fdInput, runner.InputFolder) }},
		{"making the input read-only", func() error {
			return unix.Mount("", base+runner.InputFolder, "", unix.MS_BIND|unix.MS_REMOUNT|optional("input-readonly", unix.MS_RDONLY|inert), "")
		}},
		{"mounting the sockets", func() error {
			if s.Links == "" {
				return nil
			}
			if err := bind(s.Links, s.LinksTree, fdLinks, runner.LinkFolder); err != nil {
				return err
			}
			return unix.Mount("", base+runner.LinkFolder, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|inert, "")
		}},
		{"mounting /tmp", func() error {
			return unix.Mount("tmpfs", base+"/tmp", "tmpfs", optional("tmp-noexec", inert), fmt.Sprintf("size=%dm,nr_inodes=1024,mode=1777", s.TmpMiB))
		}},
		// The old root is stacked on the new one and taken off it (pivot_root(2), "pivot_root(".", ".")").
		{"entering the root", func() error { return unix.Chdir(base) }},
		{"changing the root", func() error { return unix.PivotRoot(".", ".") }},
		{"leaving the old root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"making the root read-only", func() error {
			return unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|optional("root-readonly", unix.MS_RDONLY)|inert, "")
		}},
		{"entering the input folder", func() error { return unix.Chdir(runner.InputFolder) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// bind mounts a task's folder, which came as a detached mount or is named by its path.
func bind(path string, tree bool, fd int, target string) error {
	if tree {
		return unix.MoveMount(fd, "", unix.AT_FDCWD, base+target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	return unix.Mount(path, base+target, "", unix.MS_BIND, "")
}
