package process_test

import (
	"os"
	"testing"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/battery/batterytest"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
	"yingzhou.dev/lab/sandbox/runner/process"
)

// TestBattery attacks the best level. Layers can be taken off it one by one only where nothing is denied to begin with.
func TestBattery(t *testing.T) {
	b := batterytest.Backend{
		Name: "process",
		Open: func(t *testing.T, keep func(string) bool, base bool) runner.Runner {
			r := open(t)
			if os.Geteuid() == 0 {
				r.Weaken(keep)
			}
			return r
		},
		Alone: map[string][]string{"seccomp": {"processes", "threads"}, "cgroup-pids": {"processes", "threads"}, "rlimits": {"processes", "threads"},
			"cgroup-memory": {"memory"}, "cgroup-cpu": {"processors"}},
		With: map[string]string{"seccomp": "no-new-privileges", "root-readonly": "namespace-mount", "input-readonly": "namespace-mount", "tmp-noexec": "namespace-mount"},
	}
	if os.Geteuid() == 0 {
		b.Lines = process.Lines()
	}
	batterytest.Run(t, runnertest.Build(t, "yingzhou.dev/lab/sandbox/runner/battery/hostile"), b)
}
