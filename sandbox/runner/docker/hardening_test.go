package docker

import (
	"testing"

	"github.com/docker/docker/api/types/system"
)

// TestJudge claims nothing that an engine or a runtime does not do.
func TestJudge(t *testing.T) {
	full := system.Info{DefaultRuntime: "runc", MemoryLimit: true, PidsLimit: true, CPUCfsQuota: true, SecurityOptions: []string{"name=seccomp,profile=default"}}
	without := func(change func(*system.Info)) system.Info {
		i := full
		change(&i)
		return i
	}
	for _, row := range []struct {
		name        string
		info        system.Info
		runtime     string
		development bool
		has, lacks  string
	}{
		{"runc", full, "", false, "seccomp", "apparmor"},
		{"gVisor", full, "runsc", false, "kernel-gvisor", "seccomp"},
		{"unknown runtime", full, "mine", true, "cgroup-memory", "seccomp"},
		{"no memory limit", without(func(i *system.Info) { i.MemoryLimit = false }), "", true, "cgroup-pids", "cgroup-memory"},
		{"no pids limit", without(func(i *system.Info) { i.PidsLimit = false }), "", true, "seccomp", "cgroup-pids"},
		{"no filter", without(func(i *system.Info) { i.SecurityOptions = []string{"name=apparmor"} }), "", true, "apparmor", "seccomp"},
		{"rootless", without(func(i *system.Info) { i.SecurityOptions = append(i.SecurityOptions, "name=rootless") }), "", false, "namespace-user", "selinux"},
	} {
		got := judge(row.info, row.runtime)
		if got.Development != row.development || !got.Has(row.has) || got.Has(row.lacks) {
			t.Errorf("%s: %s", row.name, got)
		}
	}
}
