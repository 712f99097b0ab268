package process

import (
	"maps"
	"strings"

	"yingzhou.dev/lab/sandbox/runner"
)

// Lines names the layers of the sandbox. Not among them is the namespace of host names: without it the init stage would
// rename the machine.
func Lines() []string {
	return []string{"namespace-user", "user-unprivileged", "namespace-mount", "namespace-network", "namespace-pid", "namespace-ipc", "namespace-cgroup",
		"root-readonly", "input-readonly", "tmp-noexec", "files-closed", "oom-first", "rlimits", "capabilities-none", "no-new-privileges", "landlock", "seccomp",
		"cgroup-memory", "cgroup-pids", "cgroup-cpu"}
}

// Weaken leaves out every layer for which keep is false. What stays is a mount namespace, so that what a probe mounts
// does not show.
func (r *Runner) Weaken(keep func(name string) bool) {
	r.without, r.level = nil, level{Spaces: true, User: keep("namespace-user")}
	if keep("user-unprivileged") {
		r.level.HostUID, r.level.HostGID, r.level.Switch = runner.Nobody, runner.Nobody, !r.level.User
	}
	r.groups.split = maps.Clone(r.groups.split)
	for _, line := range Lines() {
		if keep(line) {
			continue
		}
		r.without = append(r.without, line)
		if name, ok := strings.CutPrefix(line, "namespace-"); ok {
			r.level.Shared = append(r.level.Shared, name)
		}
		if name, ok := strings.CutPrefix(line, "cgroup-"); ok {
			delete(r.groups.split, name)
			r.groups.unified = ""
		}
	}
}
