// Package seccomp holds the one list of system calls that a worker may make, in the two forms in which it is applied: a
// BPF program for a process and a JSON profile for Docker.
//
// The list is what a static Go program needs that reads files, maps memory, runs goroutines and writes to its standard
// streams. Everything else fails with EPERM: no socket of any family (network namespaces do not cover AF_VSOCK, which
// reaches the hypervisor, and Docker's own profile lets it through), no io_uring, no second process, no other program,
// no memory that is executable, no mount, ptrace, bpf, perf, keyring or userfaultfd.
//
// The filter is written here and not by github.com/elastic/go-seccomp-bpf v1.6.0, whose program goes on to compare the
// next call's number when a condition has failed, but with an argument in the accumulator: a caller who chooses the
// argument chooses what is compared.
package seccomp

import "golang.org/x/sys/unix"

// rule allows a system call, if its arguments are as every check says.
type rule struct {
	name   string
	number uint32
	checks []check
}

// check holds when argument arg, its bits outside mask ignored, equals value.
type check struct {
	arg         int
	mask, value uint64
}

const all = ^uint64(0)

// threadOnly are the flags of clone(2) that tell a new thread from a new process or namespace.
const threadOnly = unix.CLONE_THREAD | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// rules are the calls of a worker with this process ID.
func rules(pid int) []rule {
	list := []rule{
		{"read", unix.SYS_READ, nil}, {"readv", unix.SYS_READV, nil}, {"pread64", unix.SYS_PREAD64, nil},
		{"write", unix.SYS_WRITE, nil}, {"writev", unix.SYS_WRITEV, nil}, {"pwrite64", unix.SYS_PWRITE64, nil},
		{"openat", unix.SYS_OPENAT, nil}, {"close", unix.SYS_CLOSE, nil}, {"close_range", unix.SYS_CLOSE_RANGE, nil},
		{"lseek", unix.SYS_LSEEK, nil}, {"fstat", unix.SYS_FSTAT, nil}, {"statx", unix.SYS_STATX, nil},
		{"faccessat", unix.SYS_FACCESSAT, nil}, {"faccessat2", unix.SYS_FACCESSAT2, nil},
		{"getdents64", unix.SYS_GETDENTS64, nil}, {"readlinkat", unix.SYS_READLINKAT, nil}, {"getcwd", unix.SYS_GETCWD, nil},
		{"fcntl", unix.SYS_FCNTL, nil}, {"dup3", unix.SYS_DUP3, nil}, {"fadvise64", unix.SYS_FADVISE64, nil},
		// Files in /tmp; nothing else can be written.
		{"ftruncate", unix.SYS_FTRUNCATE, nil}, {"mkdirat", unix.SYS_MKDIRAT, nil}, {"unlinkat", unix.SYS_UNLINKAT, nil},
		{"renameat", unix.SYS_RENAMEAT, nil}, {"renameat2", unix.SYS_RENAMEAT2, nil}, {"fsync", unix.SYS_FSYNC, nil},

		// Code that was not in the program from the start never becomes executable.
		{"mmap", unix.SYS_MMAP, []check{{2, unix.PROT_EXEC, 0}}}, {"mprotect", unix.SYS_MPROTECT, []check{{2, unix.PROT_EXEC, 0}}},
		{"munmap", unix.SYS_MUNMAP, nil}, {"madvise", unix.SYS_MADVISE, nil}, {"brk", unix.SYS_BRK, nil},

		// The same flags serve threads and processes; a worker has use for threads only.
		{"clone", unix.SYS_CLONE, []check{{0, threadOnly, unix.CLONE_THREAD}}},
		{"futex", unix.SYS_FUTEX, nil}, {"set_robust_list", unix.SYS_SET_ROBUST_LIST, nil},
		{"set_tid_address", unix.SYS_SET_TID_ADDRESS, nil}, {"rseq", unix.SYS_RSEQ, nil},
		{"sched_yield", unix.SYS_SCHED_YIELD, nil}, {"sched_getaffinity", unix.SYS_SCHED_GETAFFINITY, nil},
		{"exit", unix.SYS_EXIT, nil}, {"exit_group", unix.SYS_EXIT_GROUP, nil},
		{"getpid", unix.SYS_GETPID, nil}, {"gettid", unix.SYS_GETTID, nil}, {"getppid", unix.SYS_GETPPID, nil},
		{"getuid", unix.SYS_GETUID, nil}, {"geteuid", unix.SYS_GETEUID, nil},
		{"getgid", unix.SYS_GETGID, nil}, {"getegid", unix.SYS_GETEGID, nil},
		// The Go runtime preempts its own threads by signals.
		{"tgkill", unix.SYS_TGKILL, []check{{0, all, uint64(pid)}}},
		// It reads and raises its own limit on open files.
		{"prlimit64", unix.SYS_PRLIMIT64, []check{{0, all, 0}}},

		{"rt_sigaction", unix.SYS_RT_SIGACTION, nil}, {"rt_sigprocmask", unix.SYS_RT_SIGPROCMASK, nil},
		{"rt_sigreturn", unix.SYS_RT_SIGRETURN, nil}, {"sigaltstack", unix.SYS_SIGALTSTACK, nil},
		{"restart_syscall", unix.SYS_RESTART_SYSCALL, nil},
		{"nanosleep", unix.SYS_NANOSLEEP, nil}, {"clock_nanosleep", unix.SYS_CLOCK_NANOSLEEP, nil},
		{"clock_gettime", unix.SYS_CLOCK_GETTIME, nil}, {"gettimeofday", unix.SYS_GETTIMEOFDAY, nil},
		{"epoll_create1", unix.SYS_EPOLL_CREATE1, nil}, {"epoll_ctl", unix.SYS_EPOLL_CTL, nil},
		{"epoll_pwait", unix.SYS_EPOLL_PWAIT, nil}, {"eventfd2", unix.SYS_EVENTFD2, nil}, {"pipe2", unix.SYS_PIPE2, nil},
		{"getrandom", unix.SYS_GETRANDOM, nil}, {"uname", unix.SYS_UNAME, nil},
	}
	return append(list, machineRules()...)
}

// linkRules are what a worker may call that was given sockets to connect to: it makes no other kind of socket, and
// listens to nobody. Of what can be reached with one of these, its file system holds only those that it was given; names
// outside of file systems are its network namespace's own.
func linkRules() []rule {
	return []rule{
		{"socket", unix.SYS_SOCKET, []check{{0, all, unix.AF_UNIX}, {1, 0xf, unix.SOCK_STREAM}, {2, all, 0}}},
		{"connect", unix.SYS_CONNECT, nil}, {"getsockname", unix.SYS_GETSOCKNAME, nil}, {"getpeername", unix.SYS_GETPEERNAME, nil},
		{"setsockopt", unix.SYS_SETSOCKOPT, nil}, {"getsockopt", unix.SYS_GETSOCKOPT, nil}, {"shutdown", unix.SYS_SHUTDOWN, nil},
	}
}

// groupRules are what a member of a group may call besides. SOCK_NONBLOCK and SOCK_CLOEXEC are bits of the type.
func groupRules() []rule {
	return []rule{
		{"socket", unix.SYS_SOCKET, []check{{0, all, unix.AF_INET}, {1, 0xf, unix.SOCK_STREAM}, {2, all, 0}}},
		{"connect", unix.SYS_CONNECT, nil}, {"bind", unix.SYS_BIND, nil}, {"listen", unix.SYS_LISTEN, nil}, {"accept4", unix.SYS_ACCEPT4, nil},
		{"getsockname", unix.SYS_GETSOCKNAME, nil}, {"getpeername", unix.SYS_GETPEERNAME, nil},
		{"setsockopt", unix.SYS_SETSOCKOPT, nil}, {"getsockopt", unix.SYS_GETSOCKOPT, nil}, {"shutdown", unix.SYS_SHUTDOWN, nil},
	}
}
