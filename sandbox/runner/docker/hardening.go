package docker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/go-units"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/image"
	"yingzhou.dev/lab/sandbox/runner/internal/seccomp"
)

// openFiles bounds descriptors: a query over rows maps several hundred panels.
const openFiles = 4096

// tmpFiles bounds files in /tmp, whose names and inodes are kernel memory.
const tmpFiles = 1024

// gVisor reports whether a runtime is gVisor's, by the names under which its documentation registers it.
func gVisor(runtime string) bool { return runtime == "runsc" || runtime == "io.containerd.runsc.v1" }

// spec describes a task's container. Beside each line stands the attack that it stops.
func (r *Runner) spec(t runner.Task, id string) (*container.Config, *container.HostConfig) {
	l := t.Limits
	off, pids := false, l.Pids
	if gVisor(r.cfg.Runtime) {
		pids = max(pids, runner.MinGVisorPids)
	}
	c := &container.Config{
		Image:        id,
		Entrypoint:   []string{image.Entrypoint}, // an image whose config names another program
		Cmd:          t.Args,
		Env:          l.Env(),
		WorkingDir:   runner.InputFolder,
		Labels:       r.labels(t),
		AttachStdout: true,
		AttachStderr: true,

		User:            fmt.Sprintf("%d:%d", runner.Nobody, runner.Nobody), // an escape as root, which is root on the host
		Hostname:        "worker",                                           // learning the host's name
		NetworkDisabled: true,                                               // sending results anywhere but to us
	}
	h := &container.HostConfig{
		Runtime:        r.cfg.Runtime,
		NetworkMode:    "none",          // the same, by a network namespace that has lo only
		MaskedPaths:    maskedPaths(),   // learning about the machine, or what kernel files give away
		ReadonlyRootfs: true,            // replacing the worker; leaving something for the next one
		CapDrop:        []string{"ALL"}, // mounts, raw sockets, changing users
		SecurityOpt: []string{
			"no-new-privileges",           // gaining rights from a setuid file
			"seccomp=" + seccomp.Docker(), // kernel bugs behind calls that nobody needs; AF_VSOCK, which Docker's own list allows
		},
		IpcMode:       "none",                                                         // shared memory as a way to another container
		CgroupnsMode:  "private",                                                      // learning the host's layout
		OomScoreAdj:   500,                                                            // having the kernel kill the lab in the worker's place
		Init:          &off,                                                           // a second process that the worker could turn against itself
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled}, // running again unasked, with nobody reading
		LogConfig:     container.LogConfig{Type: "none"},                              // filling the disk: output leaves by the counted stream only
		Resources: container.Resources{
			Memory:     l.MemoryMiB << 20,   // taking the host's memory
			MemorySwap: l.MemoryMiB << 20,   // the sum of both, so no swap: having memory written to a disk
			PidsLimit:  &pids,               // fork bombs
			NanoCPUs:   int64(l.CPUs * 1e9), // taking the host's processors
			Ulimits: []*units.Ulimit{
				ulimit("nofile", openFiles),   // taking the host's file table
				ulimit("core", 0),             // writing memory to the host's disk by crashing
				ulimit("memlock", 0),          // taking memory that cannot be reclaimed
				ulimit("msgqueue", 0),         // kernel memory that no other limit counts
				ulimit("cpu", l.CPUSeconds()), // outliving a lab that crashed, so that nobody keeps the deadline
			},
		},
		// Executing a file that was dropped; filling a disk.
		Tmpfs: map[string]string{"/tmp": fmt.Sprintf("rw,noexec,nosuid,nodev,size=%dm,nr_inodes=%d,mode=1777", l.TmpMiB, tmpFiles)},
		Mounts: []mount.Mount{{
			Type: mount.TypeBind, Source: t.InputDir, Target: runner.InputFolder,
			ReadOnly:    true,                                                       // changing what others will compute on
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}, // mounts that show on the host
		}},
	}
	if t.Stdin != nil {
		c.OpenStdin, c.StdinOnce, c.AttachStdin = true, true, true
	}
	if t.LinkDir != "" {
		// Sockets of other families, and listening: the sockets that are mounted are all that there is to reach.
		for i, o := range h.SecurityOpt {
			if o == "seccomp="+seccomp.Docker() {
				h.SecurityOpt[i] = "seccomp=" + seccomp.DockerLinks()
			}
		}
		h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: t.LinkDir, Target: runner.LinkFolder,
			ReadOnly:    true, // leaving files or sockets of its own
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}})
	}
	return c, h
}

// maskedPaths are Docker's own (moby/oci/defaults.go) and all of /sys, for which a worker has no use.
func maskedPaths() []string {
	return []string{"/sys", "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"}
}

func ulimit(name string, n int64) *units.Ulimit { return &units.Ulimit{Name: name, Soft: n, Hard: n} }

// judge says what of the above this engine really applies: it ignores limits that its kernel lacks, and some runtimes
// ignore the filter. Without all limits and one kind of filter it is not fit for production.
func judge(info system.Info, runtime string) runner.Isolation {
	if runtime == "" {
		runtime = info.DefaultRuntime
	}
	i := runner.Isolation{Backend: "docker/" + runtime, Protections: []string{
		"capabilities-none", "deadline", "input-readonly", "namespace-cgroup", "namespace-ipc", "namespace-mount", "namespace-network",
		"namespace-pid", "namespace-uts", "no-new-privileges", "oom-first", "output-limit", "program-pinned", "rlimits", "root-readonly",
		"tmp-noexec", "user-unprivileged"}}
	add := func(protection string, applied bool) bool {
		if applied {
			i.Protections = append(i.Protections, protection)
		}
		return applied
	}
	option := func(name string) bool { // "name=seccomp,profile=default"
		return slices.ContainsFunc(info.SecurityOptions, func(o string) bool {
			first, _, _ := strings.Cut(o, ",")
			return first == "name="+name
		})
	}
	bounded := add("cgroup-memory", info.MemoryLimit)
	bounded = add("cgroup-pids", info.PidsLimit) && bounded
	bounded = add("cgroup-cpu", info.CPUCfsQuota) && bounded
	add("cgroup-swap", info.SwapLimit)
	add("namespace-user", option("userns") || option("rootless"))
	add("apparmor", option("apparmor"))
	add("selinux", option("selinux"))
	filtered := false
	switch {
	case runtime == "runc", runtime == "crun", runtime == "io.containerd.runc.v2":
		filtered = add("seccomp", option("seccomp"))
	case gVisor(runtime):
		// gVisor ignores the profile. It answers system calls itself and passes few on, by a filter of its own.
		filtered = add("kernel-gvisor", true)
	}
	i.Development = !bounded || !filtered
	slices.Sort(i.Protections)
	return i
}
