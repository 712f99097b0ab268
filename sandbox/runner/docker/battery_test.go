package docker_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/battery"
	"yingzhou.dev/lab/sandbox/runner/battery/batterytest"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/internal/dockertest"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
)

func TestBattery(t *testing.T) {
	attack(t, docker.Config{}, batterytest.Backend{Name: "docker/runc", Lines: docker.Lines(),
		Alone:  map[string][]string{"seccomp": {"processes", "threads"}, "pids": {"processes", "threads"}, "memory": {"memory"}, "cpus": {"processors"}},
		With:   map[string]string{"seccomp": "no-new-privileges"},
		Needed: map[string]string{"no-new-privileges": "runc then loads the filter while it still has to change users, which the filter forbids"}})
}

// TestBatteryGVisor attacks the other runtime, under a daemon of the test's own that knows it. Starting it is slow, so
// lines that it ignores or that bear on nothing there are not taken off one by one.
func TestBatteryGVisor(t *testing.T) {
	if testing.Short() {
		t.Skip("the battery takes too long with -short")
	}
	if !batterytest.Full() {
		t.Parallel() // on a daemon of its own
	}
	attack(t, gVisor(t), batterytest.Backend{Name: "docker/runsc", Brief: true, Held: []string{"processes", "threads"},
		Lines: []string{"user", "hostname", "network", "root-readonly", "capabilities", "ipc", "memory", "cpus", "ulimit-nofile", "tmp-size", "input-readonly"},
		Alone: map[string][]string{"memory": {"memory"}, "cpus": {"processors"}}})
}

// gVisor is a daemon that has gVisor's runtime.
func gVisor(t testing.TB) docker.Config {
	if _, err := os.Stat(dockertest.GVisor); err != nil {
		dockertest.Skip(t, "GVISOR IS NOT TESTED: %v", err)
	}
	return docker.Config{Host: dockertest.Start(t).Host, Runtime: "runsc"}
}

func attack(t *testing.T, cfg docker.Config, b batterytest.Backend) {
	n := 0
	b.Open = func(t *testing.T, keep func(string) bool, base bool) runner.Runner {
		n++
		cfg.Instance = fmt.Sprintf("battery-%d-%d", os.Getpid(), n)
		r := open(t, cfg)
		r.Weaken(keep, base)
		return r
	}
	batterytest.Run(t, runnertest.Build(t, "yingzhou.dev/lab/sandbox/runner/battery/hostile"), b)
}

// TestLinkBattery runs the attacker as a compute node is run: what it may do more than a worker is make a Unix socket.
func TestLinkBattery(t *testing.T) {
	if testing.Short() {
		t.Skip("the battery takes too long with -short")
	}
	r := open(t, docker.Config{Instance: fmt.Sprintf("links-%d", os.Getpid())})
	hostile := runnertest.Build(t, "yingzhou.dev/lab/sandbox/runner/battery/hostile")
	none := func(battery.Probe) bool { return false }
	worked := func(links string) map[string]bool {
		report, err := battery.Run(t.Context(), battery.Config{Runner: r, Hostile: hostile, ID: "links", Alone: none, LinkDir: links})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range report.Escapes() {
			if e.Probe.Name != "socket-unix" {
				t.Errorf("%s got out", e.Probe.Name)
			}
		}
		return report.Worked()
	}
	want := worked("")
	want["socket-unix"] = true
	if diff := cmp.Diff(want, worked(runnertest.Links(t, "next", "prev"))); diff != "" {
		t.Errorf("a node can do (-want +got):\n%s", diff)
	}
}
