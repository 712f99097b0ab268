package docker

import (
	"os"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-units"
)

// line is one line of hardening and how to do without it.
type line struct {
	name string
	off  func(*container.Config, *container.HostConfig)
}

func withoutOpt(h *container.HostConfig, prefix string) {
	h.SecurityOpt = slices.DeleteFunc(slices.Clone(h.SecurityOpt), func(o string) bool { return strings.HasPrefix(o, prefix) })
}

func withoutTmp(h *container.HostConfig, from, to string) {
	h.Tmpfs = map[string]string{"/tmp": strings.Replace(h.Tmpfs["/tmp"], from, to, 1)}
}

func raised(name string, to int64) line {
	return line{"ulimit-" + name, func(_ *container.Config, h *container.HostConfig) {
		h.Ulimits = slices.Clone(h.Ulimits)
		for i, u := range h.Ulimits {
			if u.Name == name {
				h.Ulimits[i] = &units.Ulimit{Name: name, Soft: to, Hard: to}
			}
		}
	}}
}

// dangerous are the capabilities with which a probe can do something; root of a virtual machine may lack some of the others.
var dangerous = []string{"AUDIT_CONTROL", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "IPC_LOCK", "KILL", "MKNOD", "NET_ADMIN", "NET_RAW",
	"SETGID", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_TIME"}

// lines are all of spec's. Off is as open as Docker can be made in that respect without being privileged.
func lines() []line {
	type c = container.Config
	type h = container.HostConfig
	return []line{
		{"user", func(c *c, h *h) { c.User = "0:0" }},
		{"hostname", func(c *c, h *h) { c.Hostname = "" }},
		{"network", func(c *c, h *h) { c.NetworkDisabled, h.NetworkMode = false, "host" }},
		{"masks", func(c *c, h *h) { h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{} }},
		{"root-readonly", func(c *c, h *h) { h.ReadonlyRootfs = false }},
		{"capabilities", func(c *c, h *h) { h.CapDrop, h.CapAdd = nil, dangerous }},
		{"no-new-privileges", func(c *c, h *h) { withoutOpt(h, "no-new-privileges") }},
		{"seccomp", func(c *c, h *h) {
			withoutOpt(h, "seccomp=")
			h.SecurityOpt = append(h.SecurityOpt, "seccomp=unconfined")
		}},
		{"ipc", func(c *c, h *h) { h.IpcMode = "shareable" }},
		{"cgroup-namespace", func(c *c, h *h) { h.CgroupnsMode = "host" }},
		{"oom-first", func(c *c, h *h) { h.OomScoreAdj = 0 }},
		{"no-init", func(c *c, h *h) { h.Init = nil }},
		{"no-restart", func(c *c, h *h) { h.RestartPolicy = container.RestartPolicy{} }},
		{"no-log", func(c *c, h *h) { h.LogConfig = container.LogConfig{} }},
		{"memory", func(c *c, h *h) { h.Memory, h.MemorySwap = 0, 0 }},
		{"pids", func(c *c, h *h) { h.PidsLimit = nil }},
		{"cpus", func(c *c, h *h) { h.NanoCPUs = 0 }},
		raised("nofile", 16_384), raised("core", -1), raised("memlock", 8<<20), raised("msgqueue", 819_200), raised("cpu", -1),
		{"tmp-noexec", func(c *c, h *h) { withoutTmp(h, "noexec", "exec") }},
		{"tmp-nosuid", func(c *c, h *h) { withoutTmp(h, "nosuid", "suid") }},
		{"tmp-nodev", func(c *c, h *h) { withoutTmp(h, "nodev", "dev") }},
		{"tmp-size", func(c *c, h *h) { withoutTmp(h, "size=4m", "size=1g") }},
		{"tmp-inodes", func(c *c, h *h) { withoutTmp(h, "nr_inodes=1024,", "") }},
		{"input-readonly", func(c *c, h *h) { h.Mounts = slices.Clone(h.Mounts); h.Mounts[0].ReadOnly = false }},
	}
}

// Lines names the lines of hardening.
func Lines() (names []string) {
	for _, l := range lines() {
		names = append(names, l.name)
	}
	return names
}

// Weaken leaves out every line for which keep is false, and what Docker itself does unless asked not to if base is false.
func (r *Runner) Weaken(keep func(name string) bool, base bool) {
	r.alter = func(c *container.Config, h *container.HostConfig) {
		for _, l := range lines() {
			if !keep(l.name) {
				l.off(c, h)
			}
		}
		if !base {
			// What --privileged does, but for the capabilities that this machine's root may lack.
			h.PidMode, h.IpcMode, h.DeviceCgroupRules = "host", "host", []string{"a *:* rwm"}
			for _, d := range []string{"kmsg", "mem", "kvm", "fuse", "loop-control", "loop0", "btrfs-control", "tty0", "console", "net/tun", "vsock"} {
				if _, err := os.Stat("/dev/" + d); err == nil {
					h.Devices = append(h.Devices, container.DeviceMapping{PathOnHost: "/dev/" + d, PathInContainer: "/dev/" + d, CgroupPermissions: "rwm"})
				}
			}
		}
	}
}
