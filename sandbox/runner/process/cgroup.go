package process

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner"
)

// cgroupPrefix begins the names of the groups made here; this process's ID and the task's follow.
const cgroupPrefix = "yingzhou-"

// hierarchy is where groups can be made: for version 1 of the interface a folder for each controller, for version 2 one
// folder for all of them.
type hierarchy struct {
	unified string            // version 2
	split   map[string]string // version 1: controller to folder
}

var controllers = []string{"cpu", "memory", "pids"}

// findHierarchy reads this process's own groups, under which it puts the workers', from procfs files.
func findHierarchy(mountinfo, self string) (hierarchy, error) {
	h := hierarchy{split: map[string]string{}}
	own, err := ownGroups(self)
	if err != nil {
		return h, err
	}
	f, err := os.Open(mountinfo)
	if err != nil {
		return h, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// "36 35 0:31 ROOT POINT options… - TYPE source SUPEROPTIONS" (proc_pid_mountinfo(5))
		left, right, ok := strings.Cut(lines.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		place := func(group string) string {
			if rel, err := filepath.Rel(l[3], group); err == nil && !strings.HasPrefix(rel, "..") {
				return filepath.Join(l[4], rel)
			}
			return l[4] // the mount shows only part of the tree, and that is ours
		}
		switch r[0] {
		case "cgroup2":
			if group, ok := own[""]; ok {
				h.unified = place(group)
			}
		case "cgroup":
			for _, c := range controllers {
				if group, ok := own[c]; ok && slices.Contains(strings.Split(r[2], ","), c) {
					h.split[c] = place(group)
				}
			}
		}
	}
	return h, nil
}

// ownGroups reads lines "ID:CONTROLLERS:PATH"; version 2 has no controllers there.
func ownGroups(self string) (map[string]string, error) {
	data, err := os.ReadFile(self)
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if p := strings.SplitN(strings.TrimSpace(line), ":", 3); len(p) == 3 {
			for _, c := range strings.Split(p[1], ",") {
				own[c] = p[2]
			}
		}
	}
	return own, nil
}

// cgroup is the group of one task, in one folder or several. Its methods may be called on nil.
type cgroup struct {
	dirs    []string
	applied []string
}

func groupName(id string) string { return cgroupPrefix + strconv.Itoa(os.Getpid()) + "-" + id }

// newCgroup makes a group with a task's limits, as far as this user may.
func (h hierarchy) newCgroup(id string, l runner.Limits) *cgroup {
	g := &cgroup{}
	name := groupName(id)
	const period = 100_000 // µs; the kernel's own default
	quota := max(1000, int64(l.CPUs*period))
	bytes := strconv.FormatInt(l.MemoryMiB<<20, 10)
	pids := strconv.FormatInt(l.Pids, 10)

	for _, c := range controllers {
		parent, ok := h.split[c]
		if !ok {
			continue
		}
		switch dir := filepath.Join(parent, name); c {
		case "cpu":
			g.try(dir, c, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10))
		case "memory":
			g.try(dir, c, "memory.limit_in_bytes", bytes)
			_ = write(dir, "memory.memsw.limit_in_bytes", bytes) // memory and swap together, so no swap; absent without swap accounting
		case "pids":
			g.try(dir, c, "pids.max", pids)
		}
	}
	if h.unified == "" || len(g.dirs) > 0 {
		return g
	}
	// A group that has processes cannot give controllers to its children, other than the root's: a service that is
	// delegated a tree sits in a leaf of it, and the workers' groups belong beside that leaf.
	for _, parent := range []string{h.unified, filepath.Dir(h.unified)} {
		_ = write(parent, "cgroup.subtree_control", "+cpu +memory +pids")
		dir := filepath.Join(parent, name)
		g.try(dir, "memory", "memory.max", bytes)
		if len(g.dirs) == 0 {
			continue
		}
		_ = write(dir, "memory.swap.max", "0")
		_ = write(dir, "memory.oom.group", "1")
		g.try(dir, "pids", "pids.max", pids)
		g.try(dir, "cpu", "cpu.max", fmt.Sprintf("%d %d", quota, period))
		break
	}
	return g
}

// try makes dir if need be and sets a limit in it; if that fails it is as if it had not been tried.
func (g *cgroup) try(dir, controller, file, value string) {
	made := os.Mkdir(dir, 0o755)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return
	}
	if write(dir, file, value) != nil {
		if made == nil {
			_ = os.Remove(dir)
		}
		return
	}
	if !slices.Contains(g.dirs, dir) {
		g.dirs = append(g.dirs, dir)
	}
	g.applied = append(g.applied, "cgroup-"+controller)
}

// write sets a control file, which is never created.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// add puts a process into the group.
func (g *cgroup) add(pid int) error {
	if g == nil {
		return nil
	}
	for _, dir := range g.dirs {
		if err := write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("entering control group: %w", err)
		}
	}
	return nil
}

// counts reports whether the group bounds processes and threads.
func (g *cgroup) counts() bool { return g != nil && slices.Contains(g.applied, "cgroup-pids") }

// outOfMemory reports whether the kernel killed in this group for want of memory.
func (g *cgroup) outOfMemory() bool {
	if g == nil {
		return false
	}
	for _, dir := range g.dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			data, _ := os.ReadFile(filepath.Join(dir, file))
			for line := range strings.Lines(string(data)) {
				if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
					return true
				}
			}
		}
	}
	return false
}

// remove kills what is left in the group and removes it. A process that was killed leaves its group a little later, so
// this tries for a second.
func (g *cgroup) remove() error {
	if g == nil {
		return nil
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var err error
	for range 200 {
		err = nil
		for _, dir := range g.dirs {
			gone := os.Remove(dir)
			if gone != nil && !errors.Is(gone, fs.ErrNotExist) {
				err = errors.Join(err, gone)
				killAll(dir)
			}
		}
		if err == nil {
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("removing control group: %w", err)
}

func killAll(dir string) {
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// sweep removes the empty groups of processes that are no more: their workers died with them.
func (h hierarchy) sweep() {
	var old []string
	for _, parent := range append([]string{h.unified, filepath.Dir(h.unified)}, h.split["cpu"], h.split["memory"], h.split["pids"]) {
		found, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
		old = append(old, found...)
	}
	for _, dir := range old {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && filepath.IsAbs(dir) && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.Remove(dir)
		}
	}
}
