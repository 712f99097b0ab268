package process

import (
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/sandbox/runner"
)

// level is one way to start the init stage. Which of them the kernel and this user's rights allow is found by trying.
type level struct {
	User    bool `json:"user"`     // in a user namespace, in which the worker is nobody
	Spaces  bool `json:"spaces"`   // in the other namespaces
	HostUID int  `json:"host_uid"` // what the worker is outside
	HostGID int  `json:"host_gid"` //
	Switch  bool `json:"switch"`   // the init stage starts as root and becomes nobody by itself

	Shared []string `json:"shared"` // namespaces that are left out all the same; set by tests only
}

// levels lists what to try, best first.
func levels() []level {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid != 0 {
		return []level{{User: true, Spaces: true, HostUID: uid, HostGID: gid}, {HostUID: uid, HostGID: gid}}
	}
	return []level{
		{User: true, Spaces: true, HostUID: runner.Nobody, HostGID: runner.Nobody},
		{Spaces: true, Switch: true},             // user namespaces are forbidden
		{User: true, Spaces: true, HostGID: gid}, // root of a rootless container, which has no other user
		{Switch: true},
	}
}

// mounts reports whether the worker gets a file system of its own.
func (l level) mounts() bool { return l.Spaces && l.own("mount") }

func (l level) own(namespace string) bool { return !slices.Contains(l.Shared, namespace) }

func (l level) namespaces() []string {
	var names []string
	if l.Spaces {
		names = []string{"cgroup", "ipc", "mount", "network", "pid", "uts"}
	}
	if l.User {
		names = append(names, "user")
	}
	return slices.DeleteFunc(names, func(n string) bool { return !l.own(n) })
}

// attributes say how to start the init stage. It is nobody from the beginning in a user namespace and has two
// capabilities there until it gives them up: to mount, and to give up.
func (l level) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if l.Spaces {
		a.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS
		for name, kind := range map[string]uintptr{"cgroup": unix.CLONE_NEWCGROUP, "ipc": unix.CLONE_NEWIPC, "network": unix.CLONE_NEWNET, "pid": unix.CLONE_NEWPID} {
			if l.own(name) {
				a.Cloneflags |= kind
			}
		}
	}
	if l.User {
		root := os.Geteuid() == 0
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: runner.Nobody, HostID: l.HostUID, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: runner.Nobody, HostID: l.HostGID, Size: 1}}
		// Root has supplementary groups to give up. Others may not (user_namespaces(7)), and lose nothing by it.
		a.GidMappingsEnableSetgroups = root
		a.Credential = &syscall.Credential{Uid: runner.Nobody, Gid: runner.Nobody, NoSetGroups: !root}
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
	}
	return a
}
