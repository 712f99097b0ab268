package docker_test

import (
	"fmt"
	"os"
	"testing"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/battery/batterytest"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/internal/dockertest"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
)

func TestBattery(t *testing.T) { attack(t, "docker/runc", docker.Config{}) }

// TestBatteryGVisor attacks the other runtime, under a daemon of the test's own that knows it.
func TestBatteryGVisor(t *testing.T) {
	if testing.Short() {
		t.Skip("the battery takes too long with -short")
	}
	attack(t, "docker/runsc", gVisor(t))
}

// gVisor is a daemon that has gVisor's runtime.
func gVisor(t testing.TB) docker.Config {
	if _, err := os.Stat(dockertest.GVisor); err != nil {
		dockertest.Skip(t, "GVISOR IS NOT TESTED: %v", err)
	}
	return docker.Config{Host: dockertest.Start(t).Host, Runtime: "runsc"}
}

func attack(t *testing.T, name string, cfg docker.Config) {
	n := 0
	batterytest.Run(t, runnertest.Build(t, "yingzhou.dev/lab/sandbox/runner/battery/hostile"), batterytest.Backend{
		Name: name, Lines: docker.Lines(),
		Open: func(t *testing.T, keep func(string) bool, base bool) runner.Runner {
			n++
			cfg.Instance = fmt.Sprintf("battery-%d-%d", os.Getpid(), n)
			r := open(t, cfg)
			r.Weaken(keep, base)
			return r
		},
		Alone:  map[string][]string{"seccomp": {"processes", "threads"}, "pids": {"processes", "threads"}, "memory": {"memory"}, "cpus": {"processors"}},
		With:   map[string]string{"seccomp": "no-new-privileges"},
		Needed: map[string]string{"no-new-privileges": "runc then loads the filter while it still has to change users, which the filter forbids"},
	})
}
