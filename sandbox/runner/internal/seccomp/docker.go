package seccomp

import (
	"encoding/json"

	"golang.org/x/sys/unix"
)

// profile is Docker's form of a filter (docs.docker.com/engine/security/seccomp).
type profile struct {
	DefaultAction string    `json:"defaultAction"`
	Architectures []string  `json:"architectures"`
	Syscalls      []syscall `json:"syscalls"`
}

type syscall struct {
	Names  []string   `json:"names"`
	Action string     `json:"action"`
	Args   []argument `json:"args,omitempty"`
}

// argument holds when the argument masked by Value equals ValueTwo.
type argument struct {
	Index    int    `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// Docker is the profile for a container, where the worker is process 1. It also allows what runc calls under the filter
// before it becomes the worker: execve(2), with which the worker gains nothing, since its image holds nothing else that
// could be executed, and fstatfs(2), by which runc makes sure that /proc is /proc.
func Docker() string { return profileOf(rules(1)) }

// DockerGroup is the profile for a container that talks to others on a network of their own: it may also make and accept
// TCP connections over IPv4.
func DockerGroup() string { return profileOf(append(rules(1), groupRules()...)) }

// DockerLinks is the profile for a container that was given Unix sockets to connect to.
func DockerLinks() string { return profileOf(append(rules(1), linkRules()...)) }

func profileOf(list []rule) string {
	list = append(list, rule{"execve", unix.SYS_EXECVE, nil}, rule{"fstatfs", unix.SYS_FSTATFS, nil})
	p := profile{DefaultAction: "SCMP_ACT_ERRNO", Architectures: []string{dockerArch}}
	free := syscall{Action: "SCMP_ACT_ALLOW"}
	for _, r := range list {
		if len(r.checks) == 0 {
			free.Names = append(free.Names, r.name)
			continue
		}
		s := syscall{Names: []string{r.name}, Action: "SCMP_ACT_ALLOW"}
		for _, c := range r.checks {
			s.Args = append(s.Args, argument{Index: c.arg, Value: c.mask, ValueTwo: c.value, Op: "SCMP_CMP_MASKED_EQ"})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	p.Syscalls = append(p.Syscalls, free)
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and integers only
	}
	return string(text)
}
