package process

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/sandbox/runner"
)

func TestFindHierarchy(t *testing.T) {
	for _, row := range []struct {
		name, mounts, self string
		want               hierarchy
	}{
		{"version 2", "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "0::/user.slice/lab.service\n",
			hierarchy{unified: "/sys/fs/cgroup/user.slice/lab.service", split: map[string]string{}}},
		{"version 1", "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
			"4:memory:/lab\n3:cpu,cpuacct:/\n1:name=systemd:/lab\n",
			hierarchy{split: map[string]string{"memory": "/sys/fs/cgroup/memory/lab", "cpu": "/sys/fs/cgroup/cpu,cpuacct"}}},
		{"in a container", "31 30 0:27 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n", "4:pids:/docker/abc/lab\n",
			hierarchy{split: map[string]string{"pids": "/sys/fs/cgroup/pids/lab"}}},
		{"none", "24 1 8:1 / / rw - ext4 /dev/root rw\n", "", hierarchy{split: map[string]string{}}},
		{"damaged", "nonsense\n\n1 2 - 3\n", "nonsense\n", hierarchy{split: map[string]string{}}},
	} {
		dir := t.TempDir()
		mounts, self := filepath.Join(dir, "mountinfo"), filepath.Join(dir, "cgroup")
		if err := errors.Join(os.WriteFile(mounts, []byte(row.mounts), 0o600), os.WriteFile(self, []byte(row.self), 0o600)); err != nil {
			t.Fatal(err)
		}
		got, err := findHierarchy(mounts, self)
		if diff := cmp.Diff(row.want, got, cmp.AllowUnexported(hierarchy{})); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", row.name, err, diff)
		}
	}
}

// TestUnified makes a group in a folder that looks like version 2 of the interface: the kernel makes the files of a new
// group, here they are there before.
func TestUnified(t *testing.T) {
	root := t.TempDir()
	h := hierarchy{unified: filepath.Join(root, "leaf")}
	g := h.newCgroup("t", runner.Limits{CPUs: 1.5, MemoryMiB: 64, Pids: 20})
	if len(g.applied) != 0 || len(g.dirs) != 0 {
		t.Fatalf("claims %v where nothing can be made", g.applied)
	}
	dir := filepath.Join(root, groupName("t"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max", "cgroup.procs", "memory.events"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g = h.newCgroup("t", runner.Limits{CPUs: 1.5, MemoryMiB: 64, Pids: 20})
	if diff := cmp.Diff([]string{"cgroup-memory", "cgroup-pids", "cgroup-cpu"}, g.applied); diff != "" {
		t.Errorf("applied (-want +got):\n%s", diff)
	}
	if err := g.add(4711); err != nil || !g.counts() || g.outOfMemory() {
		t.Errorf("%v, counts %t, out of memory %t", err, g.counts(), g.outOfMemory())
	}
	for f, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "150000 100000", "pids.max": "20", "cgroup.procs": "4711"} {
		if got, _ := os.ReadFile(filepath.Join(dir, f)); string(got) != want {
			t.Errorf("%s is %q, want %q", f, got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte("oom 1\noom_kill 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !g.outOfMemory() {
		t.Error("did not see the kill")
	}
}
