package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// simulate runs a filter as the kernel would (networking/filter.rst), for the instructions that assemble uses.
func simulate(t interface{ Fatalf(string, ...any) }, p []unix.SockFilter, arch, number uint32, args [6]uint64) uint32 {
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[offNumber:], number)
	binary.LittleEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[offArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(p); pc++ {
		switch in := p[pc]; in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			yes := acc == in.K || in.Code&0xf0 == unix.BPF_JGE && acc > in.K
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d has code %#x", pc, in.Code)
		}
	}
	t.Fatalf("the program has no answer")
	return 0
}

const (
	pid     = 4711
	program = 5
)

func TestFilter(t *testing.T) {
	p := Filter(pid, program, false)
	const thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	for _, row := range []struct {
		name   string
		number uint32
		args   [6]uint64
		ok     bool
	}{
		{"read", unix.SYS_READ, [6]uint64{^uint64(0), 1, 2, 3}, true},
		{"madvise for huge pages", unix.SYS_MADVISE, [6]uint64{0, 4096, unix.MADV_HUGEPAGE}, true},
		{"socket", unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, false},
		{"a thread", unix.SYS_CLONE, [6]uint64{thread}, true},
		{"a process", unix.SYS_CLONE, [6]uint64{uint64(unix.SIGCHLD)}, false},
		{"a process that shares memory", unix.SYS_CLONE, [6]uint64{unix.CLONE_VM | unix.CLONE_VFORK}, false},
		{"a thread in a namespace", unix.SYS_CLONE, [6]uint64{thread | unix.CLONE_NEWUSER}, false},
		{"clone3, whose flags cannot be seen", unix.SYS_CLONE3, [6]uint64{}, false},
		{"memory", unix.SYS_MMAP, [6]uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE}, true},
		{"executable memory", unix.SYS_MMAP, [6]uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC, unix.MAP_PRIVATE}, false},
		{"making memory executable", unix.SYS_MPROTECT, [6]uint64{0, 4096, unix.PROT_EXEC}, false},
		{"own signal", unix.SYS_TGKILL, [6]uint64{pid, 1, 23}, true},
		{"another's signal", unix.SYS_TGKILL, [6]uint64{pid + 1, 1, 23}, false},
		{"another's signal, by the upper half", unix.SYS_TGKILL, [6]uint64{1<<32 | pid, 1, 23}, false},
		{"own limits", unix.SYS_PRLIMIT64, [6]uint64{0, unix.RLIMIT_NOFILE}, true},
		{"another's limits", unix.SYS_PRLIMIT64, [6]uint64{1, unix.RLIMIT_NOFILE}, false},
		{"becoming the worker", unix.SYS_EXECVEAT, [6]uint64{program, 0, 0, 0, unix.AT_EMPTY_PATH}, true},
		{"executing another file", unix.SYS_EXECVEAT, [6]uint64{program + 1, 0, 0, 0, unix.AT_EMPTY_PATH}, false},
		{"executing a path", unix.SYS_EXECVEAT, [6]uint64{program, 0, 0, 0, 0}, false},
		{"execve", unix.SYS_EXECVE, [6]uint64{}, false},
		{"io_uring", unix.SYS_IO_URING_SETUP, [6]uint64{}, false},
		{"the x32 interface", foreignCalls + unix.SYS_READ, [6]uint64{}, false},
	} {
		if got := simulate(t, p, auditArch, row.number, row.args); (got == allow) != row.ok {
			t.Errorf("%s: %#x", row.name, got)
		}
	}
	if got := simulate(t, p, auditArch+1, unix.SYS_READ, [6]uint64{}); got == allow {
		t.Error("a call of another architecture passed")
	}
}

// A task that was given sockets may make stream sockets of that family and connect them, and no others.
func TestLinksFilter(t *testing.T) {
	p := Filter(pid, program, true)
	for _, row := range []struct {
		name   string
		number uint32
		args   [6]uint64
		ok     bool
	}{
		{"unix stream", unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK}, true},
		{"unix datagram", unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX, unix.SOCK_DGRAM}, false},
		{"unix stream of another protocol", unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM, 1}, false},
		{"tcp", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_STREAM}, false},
		{"vsock", unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, false},
		{"another family by the upper half", unix.SYS_SOCKET, [6]uint64{1<<32 | unix.AF_UNIX, unix.SOCK_STREAM}, false},
		{"connect", unix.SYS_CONNECT, [6]uint64{3}, true},
		{"bind", unix.SYS_BIND, [6]uint64{3}, false},
		{"listen", unix.SYS_LISTEN, [6]uint64{3}, false},
		{"accept", unix.SYS_ACCEPT4, [6]uint64{3}, false},
		{"pair", unix.SYS_SOCKETPAIR, [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM}, false},
		{"passing files", unix.SYS_SENDMSG, [6]uint64{3}, false},
		{"taking files", unix.SYS_RECVMSG, [6]uint64{3}, false},
		{"becoming the worker", unix.SYS_EXECVEAT, [6]uint64{program, 0, 0, 0, unix.AT_EMPTY_PATH}, true},
	} {
		if got := simulate(t, p, auditArch, row.number, row.args); (got == allow) != row.ok {
			t.Errorf("%s: %#x", row.name, got)
		}
	}
}

// TestMeaning compares the program with the rules read directly, for calls and arguments near what they mention.
func TestMeaning(t *testing.T) {
	list := rules(pid)
	p := assemble(list)
	if len(p) > 4096 {
		t.Fatalf("%d instructions; the kernel takes 4096", len(p))
	}
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Uint32Range(0, 600), rapid.Map(rapid.SampledFrom(list), func(r rule) uint32 { return r.number })).Draw(t, "number")
		var args [6]uint64
		for i := range args {
			// Arguments that equal numbers of calls would show a program that mistakes one for the other.
			args[i] = rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 600), rapid.Just(uint64(pid)), rapid.Just(uint64(unix.CLONE_THREAD))).Draw(t, "argument")
		}
		want := slices.ContainsFunc(list, func(r rule) bool {
			return r.number == number && !slices.ContainsFunc(r.checks, func(c check) bool { return args[c.arg]&c.mask != c.value })
		})
		if got := simulate(t, p, auditArch, number, args); (got == allow) != want {
			t.Fatalf("call %d with %x: %#x, want allowed %t", number, args, got, want)
		}
	})
}

func TestDocker(t *testing.T) {
	var p profile
	if err := json.Unmarshal([]byte(Docker()), &p); err != nil {
		t.Fatal(err)
	}
	if p.DefaultAction != "SCMP_ACT_ERRNO" {
		t.Errorf("default is %s", p.DefaultAction)
	}
	seen := map[string]bool{}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
			conditional := slices.Contains([]string{"clone", "mmap", "mprotect", "tgkill", "prlimit64"}, name)
			if s.Action != "SCMP_ACT_ALLOW" || (len(s.Args) > 0) != conditional {
				t.Errorf("%s: %s with %d conditions", name, s.Action, len(s.Args))
			}
		}
	}
	for _, name := range []string{"socket", "connect", "ptrace", "mount", "bpf", "io_uring_setup", "memfd_create", "fork", "vfork", "clone3", "unshare", "setns"} {
		if seen[name] {
			t.Errorf("%s is allowed", name)
		}
	}
}
