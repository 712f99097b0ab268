package battery

// Class groups probes by what they go after.
type Class string

// Classes in the order of docs/ISOLATION.md.
const (
	Network    Class = "network"
	Files      Class = "file system"
	Devices    Class = "devices"
	Privilege  Class = "privilege"
	Namespaces Class = "namespaces"
	Kernel     Class = "kernel surfaces"
	Resources  Class = "resources"
	Host       Class = "host interfaces"
	Doors      Class = "timing and side doors"
)

// Probe is one attack.
type Probe struct {
	Name  string
	Class Class
	Tries string // what it does, for people
	// Surface means that it only knocks at the kernel. Under gVisor, whose kernel is not the host's, an answer is no
	// escape.
	Surface bool
	// GVisor says why success under gVisor is not counted as an escape, where Surface is not the reason.
	GVisor string
	// Alone means that it needs a sandbox of its own, and is judged from outside.
	Alone bool
	// Rare says on which machines it could succeed, if not on every Linux: there nothing but the base may stop it.
	Rare string
	// Known says why success is not counted as an escape: what a worker learns that way is not claimed to be hidden.
	Known string
}

// Probes is the battery.
func Probes() []Probe {
	const needs = "a kernel with this protocol"
	return []Probe{
		{Name: "interfaces", Class: Network, Tries: "find a network interface beside loopback"},
		{Name: "routes", Class: Network, Tries: "find a route"},
		{Name: "connect-host", Class: Network, Tries: "connect to a listener on the host's loopback"},
		{Name: "connect-abstract", Class: Network, Tries: "connect to a unix socket on the host that has a name but no file"},
		{Name: "listen", Class: Network, Tries: "listen for TCP on loopback", Surface: true},
		{Name: "udp-loopback", Class: Network, Tries: "bind a UDP port on loopback", Surface: true},
		{Name: "interface-up", Class: Network, Tries: "configure an interface", Surface: true},
		{Name: "resolver", Class: Network, Tries: "learn the name servers of the host's network", Rare: "a host with /etc/resolv.conf"},
		{Name: "socket-inet", Class: Network, Tries: "make an IPv4 socket", Surface: true},
		{Name: "socket-inet6", Class: Network, Tries: "make an IPv6 socket", Surface: true},
		{Name: "socket-unix", Class: Network, Tries: "make a unix socket", Surface: true},
		{Name: "socketpair", Class: Network, Tries: "make a pair of unix sockets", Surface: true},
		{Name: "socket-raw", Class: Network, Tries: "make a raw IPv4 socket", Surface: true},
		{Name: "socket-ping", Class: Network, Tries: "make an ICMP socket", Surface: true, Rare: "a kernel whose net.ipv4.ping_group_range allows it"},
		{Name: "socket-packet", Class: Network, Tries: "make a packet socket", Surface: true, Rare: needs},
		{Name: "netlink-route", Class: Network, Tries: "speak to the kernel's routing", Surface: true},
		{Name: "netlink-netfilter", Class: Network, Tries: "speak to the kernel's packet filter", Surface: true, Rare: needs},
		{Name: "netlink-uevent", Class: Network, Tries: "listen to the kernel's device events", Surface: true},
		{Name: "netlink-audit", Class: Network, Tries: "speak to the kernel's auditing", Surface: true, Rare: needs},
		{Name: "socket-vsock", Class: Network, Tries: "make a socket to the hypervisor, which no network namespace covers", Rare: needs},
		{Name: "socket-alg", Class: Network, Tries: "make a socket to the kernel's cryptography", Surface: true, Rare: needs},
		{Name: "socket-xdp", Class: Network, Tries: "make an XDP socket", Surface: true, Rare: needs},
		{Name: "socket-can", Class: Network, Tries: "make a CAN bus socket", Surface: true, Rare: needs},
		{Name: "socket-bluetooth", Class: Network, Tries: "make a Bluetooth socket", Surface: true, Rare: needs},
		{Name: "socket-sctp", Class: Network, Tries: "make an SCTP socket", Surface: true, Rare: needs},
		{Name: "socket-mptcp", Class: Network, Tries: "make a multipath TCP socket", Surface: true, Rare: needs},
		{Name: "socket-tipc", Class: Network, Tries: "make a TIPC socket", Surface: true, Rare: needs},
		{Name: "io-uring", Class: Network, Tries: "set up io_uring, which makes sockets without calling socket(2)", Surface: true},
		{Name: "device-tun", Class: Network, Tries: "open the device that makes interfaces", Surface: true},
		{Name: "device-vsock", Class: Network, Tries: "open the device to the hypervisor", Rare: "a virtual machine with /dev/vsock"},

		{Name: "write-root", Class: Files, Tries: "create a file in the root folder"},
		{Name: "write-etc", Class: Files, Tries: "create a file in /etc"},
		{Name: "write-var", Class: Files, Tries: "create a file in /var"},
		{Name: "write-input", Class: Files, Tries: "create a file beside the inputs"},
		{Name: "change-input", Class: Files, Tries: "open an input for writing"},
		{Name: "truncate-input", Class: Files, Tries: "truncate an input"},
		{Name: "rename-input", Class: Files, Tries: "rename an input"},
		{Name: "chmod-input", Class: Files, Tries: "change an input's mode"},
		{Name: "touch-input", Class: Files, Tries: "change an input's times"},
		{Name: "xattr-input", Class: Files, Tries: "set an attribute on an input"},
		{Name: "hardlink-input", Class: Files, Tries: "link an input beside itself"},
		{Name: "hardlink-out", Class: Files, Tries: "link an input into /tmp", Rare: "a sandbox whose /tmp is on the inputs' file system"},
		{Name: "symlink-tmp", Class: Files, Tries: "leave a symbolic link for a careless reader", Surface: true},
		{Name: "replace-worker", Class: Files, Tries: "move the worker program away"},
		{Name: "setuid-file", Class: Files, Tries: "make a file setuid", Surface: true},
		{Name: "execute-tmp", Class: Files, Tries: "write a program to /tmp and execute it"},
		{Name: "execute-shm", Class: Files, Tries: "write a program to /dev/shm and execute it", Rare: "a sandbox whose /dev/shm is there and executable"},
		{Name: "execute-input", Class: Files, Tries: "execute a program that lies among the inputs", Surface: true},
		{Name: "execute-self", Class: Files, Tries: "execute itself again", Surface: true},
		{Name: "execute-memory", Class: Files, Tries: "execute a program from a memory file", Surface: true},
		{Name: "parent-folders", Class: Files, Tries: "climb out by ../.."},
		{Name: "read-passwd", Class: Files, Tries: "read the host's /etc/passwd"},
		{Name: "read-shadow", Class: Files, Tries: "open the host's /etc/shadow"},
		{Name: "read-root", Class: Files, Tries: "list the host's /root"},
		{Name: "read-usr", Class: Files, Tries: "list the host's /usr"},
		{Name: "read-var", Class: Files, Tries: "list the host's /var/lib"},
		{Name: "read-boot", Class: Files, Tries: "list the host's /boot", Rare: "a host with files in /boot"},
		{Name: "read-etc-ssl", Class: Files, Tries: "list the host's certificates", Rare: "a host with files in /etc/ssl"},

		{Name: "mknod-block", Class: Devices, Tries: "make a disk's device file", Surface: true},
		{Name: "mknod-null", Class: Devices, Tries: "make a device file and open it", Surface: true},
		{Name: "device-disk", Class: Devices, Tries: "open a disk of the host", Rare: "a host with disks"},
		{Name: "device-mem", Class: Devices, Tries: "open /dev/mem", Rare: "a kernel with /dev/mem"},
		{Name: "device-kmsg", Class: Devices, Tries: "open the kernel's messages"},
		{Name: "device-kvm", Class: Devices, Tries: "open KVM", Rare: "a host with KVM"},
		{Name: "device-fuse", Class: Devices, Tries: "open FUSE", Surface: true, Rare: "a kernel with FUSE"},
		{Name: "device-loop", Class: Devices, Tries: "open the control of loop devices", Rare: "a kernel with loop devices"},
		{Name: "device-btrfs", Class: Devices, Tries: "open the control of btrfs", Rare: "a kernel with btrfs"},
		{Name: "device-tty", Class: Devices, Tries: "open a terminal of the host", Rare: "a host with virtual terminals"},
		{Name: "device-console", Class: Devices, Tries: "write to the host's console", Rare: "a host with a console"},

		{Name: "capabilities", Class: Privilege, Tries: "hold a capability"},
		{Name: "bounding-set", Class: Privilege, Tries: "be able to gain capabilities"},
		{Name: "user-root", Class: Privilege, Tries: "be root"},
		{Name: "user-not-nobody", Class: Privilege, Tries: "be another user than 65532"},
		{Name: "setuid", Class: Privilege, Tries: "become root"},
		{Name: "setgid", Class: Privilege, Tries: "become root's group"},
		{Name: "setgroups", Class: Privilege, Tries: "take a supplementary group"},
		{Name: "new-privileges", Class: Privilege, Tries: "be able to gain privileges by executing"},
		{Name: "raise-files", Class: Privilege, Tries: "raise its limit on open files"},
		{Name: "nice", Class: Privilege, Tries: "raise its priority", Surface: true},
		{Name: "realtime", Class: Privilege, Tries: "get real-time scheduling", Rare: "a kernel that gives groups real-time budgets"},
		{Name: "oom-protect", Class: Privilege, Tries: "be killed last when memory is short", Surface: true},
		{Name: "oom-order", Class: Privilege, Tries: "not be the first to be killed when memory is short"},
		{Name: "signal-others", Class: Privilege, Tries: "find another process that takes its signals"},
		{Name: "personality", Class: Privilege, Tries: "change the execution domain", Surface: true},
		{Name: "fork", Class: Privilege, Tries: "make a second process", Surface: true},
		{Name: "clone3", Class: Privilege, Tries: "make a process by the call whose flags no filter sees", Surface: true},
		{Name: "session", Class: Privilege, Tries: "leave its session by a child", Surface: true},
		{Name: "host-name", Class: Privilege, Tries: "set the host name (to what it is)", Surface: true},

		{Name: "namespace-user", Class: Namespaces, Tries: "make a user namespace, and be root in it", Surface: true},
		{Name: "namespace-network", Class: Namespaces, Tries: "make a network namespace", Surface: true},
		{Name: "namespace-mount", Class: Namespaces, Tries: "make a mount namespace", Surface: true},
		{Name: "namespace-uts", Class: Namespaces, Tries: "make a namespace of host names", Surface: true},
		{Name: "namespace-ipc", Class: Namespaces, Tries: "make an IPC namespace", Surface: true},
		{Name: "namespace-pid", Class: Namespaces, Tries: "make a namespace of processes", Surface: true},
		{Name: "namespace-cgroup", Class: Namespaces, Tries: "make a namespace of control groups", Surface: true},
		{Name: "unshare-user-in-child", Class: Namespaces, Tries: "make a user namespace by unshare(2) in a child", Surface: true},
		{Name: "join-namespace", Class: Namespaces, Tries: "join a namespace (its own) by setns(2)", Surface: true},

		{Name: "bpf", Class: Kernel, Tries: "call bpf(2)", Surface: true},
		{Name: "perf", Class: Kernel, Tries: "open a performance counter", Surface: true},
		{Name: "userfaultfd", Class: Kernel, Tries: "handle its own page faults, which makes kernel races winnable", Surface: true},
		{Name: "keyctl", Class: Kernel, Tries: "call keyctl(2): keyrings are not in any namespace", Surface: true},
		{Name: "add-key", Class: Kernel, Tries: "call add_key(2)", Surface: true},
		{Name: "request-key", Class: Kernel, Tries: "call request_key(2), which starts a program on the host", Surface: true},
		{Name: "ptrace", Class: Kernel, Tries: "call ptrace(2) on a process that is not there", Surface: true},
		{Name: "ptrace-me", Class: Kernel, Tries: "have a child traced", Surface: true},
		{Name: "process-memory", Class: Kernel, Tries: "call process_vm_readv(2)", Surface: true},
		{Name: "kcmp", Class: Kernel, Tries: "call kcmp(2)", Surface: true, Rare: "a kernel with kcmp(2)"},
		{Name: "pidfd-open", Class: Kernel, Tries: "open a process", Surface: true},
		{Name: "pidfd-getfd", Class: Kernel, Tries: "call pidfd_getfd(2), which takes files from another process", Surface: true},
		{Name: "init-module", Class: Kernel, Tries: "call init_module(2)", Surface: true, Rare: "a kernel that loads modules"},
		{Name: "finit-module", Class: Kernel, Tries: "call finit_module(2)", Surface: true, Rare: "a kernel that loads modules"},
		{Name: "delete-module", Class: Kernel, Tries: "call delete_module(2)", Surface: true, Rare: "a kernel that loads modules"},
		{Name: "kexec", Class: Kernel, Tries: "call kexec_load(2)", Surface: true, Rare: "a kernel with kexec"},
		{Name: "reboot", Class: Kernel, Tries: "call reboot(2), with numbers that mean nothing", Surface: true},
		{Name: "syslog", Class: Kernel, Tries: "ask for the size of the kernel's messages", Surface: true},
		{Name: "set-clock", Class: Kernel, Tries: "call clock_settime(2)", Surface: true},
		{Name: "adjust-clock", Class: Kernel, Tries: "read the clock's discipline by adjtimex(2)", Surface: true},
		{Name: "swap", Class: Kernel, Tries: "call swapon(2)", Surface: true, Rare: "a kernel with swap"},
		{Name: "quota", Class: Kernel, Tries: "call quotactl(2)", Surface: true, Rare: "a kernel with quotas"},
		{Name: "accounting", Class: Kernel, Tries: "call acct(2)", Surface: true, Rare: "a kernel with process accounting"},
		{Name: "fanotify", Class: Kernel, Tries: "watch a file system", Surface: true, Rare: "a kernel with fanotify"},
		{Name: "inotify", Class: Kernel, Tries: "watch files", Surface: true},
		{Name: "splice", Class: Kernel, Tries: "call splice(2) (\"Dirty Pipe\")", Surface: true},
		{Name: "vmsplice", Class: Kernel, Tries: "call vmsplice(2)", Surface: true},
		{Name: "move-pages", Class: Kernel, Tries: "call move_pages(2)", Surface: true, Rare: "a kernel with NUMA"},
		{Name: "memory-policy", Class: Kernel, Tries: "call mbind(2)", Surface: true, Rare: "a kernel with NUMA"},
		{Name: "secret-memory", Class: Kernel, Tries: "get memory that the kernel cannot see", Surface: true, Rare: "a kernel with memfd_secret(2)"},
		{Name: "memory-file", Class: Kernel, Tries: "make a memory file", Surface: true},
		{Name: "executable-memory", Class: Kernel, Tries: "map memory that is writable and executable", Surface: true},
		{Name: "executable-later", Class: Kernel, Tries: "make written memory executable", Surface: true},
		{Name: "own-filter", Class: Kernel, Tries: "call seccomp(2)", Surface: true},
		{Name: "own-landlock", Class: Kernel, Tries: "call landlock_create_ruleset(2)", Surface: true, Rare: "a kernel with Landlock"},
		{Name: "process-madvise", Class: Kernel, Tries: "call process_madvise(2)", Surface: true},
		{Name: "file-handle", Class: Kernel, Tries: "open a file by its number, past all folders (\"Shocker\")"},
		{Name: "new-mount-api", Class: Kernel, Tries: "call fsopen(2)", Surface: true},
		{Name: "open-tree", Class: Kernel, Tries: "clone a mount", Surface: true},
		{Name: "mount-tmpfs", Class: Kernel, Tries: "mount a tmpfs", Surface: true},
		{Name: "mount-proc", Class: Kernel, Tries: "mount a fresh /proc, with nothing masked", Surface: true},
		{Name: "mount-bind", Class: Kernel, Tries: "mount a folder elsewhere", Surface: true},
		{Name: "pivot-root", Class: Kernel, Tries: "call pivot_root(2)", Surface: true},
		{Name: "remount-input", Class: Kernel, Tries: "remount the inputs writable"},
		{Name: "unmount-input", Class: Kernel, Tries: "take the inputs' mount away"},
		{Name: "unmount-masks", Class: Kernel, Tries: "take a mask off /proc", Rare: "a sandbox with a masked /proc"},
		{Name: "chroot", Class: Kernel, Tries: "change its root, a step of the classic escape", Surface: true},
		{Name: "io-ports", Class: Kernel, Tries: "get the processor's I/O ports", Surface: true, Rare: "an amd64 machine"},
		{Name: "local-descriptors", Class: Kernel, Tries: "call modify_ldt(2)", Surface: true, Rare: "an amd64 kernel with modify_ldt(2)"},
		{Name: "foreign-calls", Class: Kernel, Tries: "make a call by x32 numbers", Surface: true, Rare: "an amd64 kernel with x32"},

		{Name: "processes", Class: Resources, Alone: true, Tries: "make three times the processes that it may have"},
		{Name: "threads", Class: Resources, Alone: true, Tries: "make three times the threads that it may have"},
		{Name: "memory", Class: Resources, Alone: true, Tries: "take four times its memory"},
		{Name: "processors", Class: Resources, Alone: true, Tries: "use more than its share of processors"},
		{Name: "output-flood", Class: Resources, Alone: true, Tries: "write more than it may to standard output"},
		{Name: "error-flood", Class: Resources, Alone: true, Tries: "write more than it may to standard error", Rare: "no machine: this limit is a constant of the runner"},
		{Name: "slow-output", Class: Resources, Alone: true, Tries: "write a byte now and then, for ever"},
		{Name: "never-ending", Class: Resources, Alone: true, Tries: "sleep past its deadline"},
		{Name: "ignored-signals", Class: Resources, Alone: true, Tries: "spin past its deadline, deaf to signals"},
		{Name: "fill-tmp", Class: Resources, Tries: "write 24 MiB to /tmp, which may hold 4"},
		{Name: "inodes-tmp", Class: Resources, Tries: "make fifteen hundred files in /tmp, which may have 1024", GVisor: "a file is memory of the sandbox, whose limit counts it"},
		{Name: "many-files", Class: Resources, Tries: "open five thousand files"},
		{Name: "core-dump", Class: Resources, Tries: "be able to leave a core dump on the host's disk"},
		{Name: "lock-memory", Class: Resources, Tries: "lock memory, so that it cannot be reclaimed"},
		{Name: "cpu-time", Class: Resources, Tries: "have no limit on processor time, to outlive a lab that crashed", Rare: "Docker: a process dies with its lab"},

		{Name: "docker-socket", Class: Host, Tries: "find Docker's socket", Rare: "a host with Docker"},
		{Name: "containerd-socket", Class: Host, Tries: "find containerd's socket", Rare: "a host with containerd"},
		{Name: "system-bus", Class: Host, Tries: "find the system bus", Rare: "a host with D-Bus"},
		{Name: "run", Class: Host, Tries: "find anything in /run"},
		{Name: "write-core-pattern", Class: Host, Tries: "open core_pattern for writing: the host runs what it names"},
		{Name: "write-host-name", Class: Host, Tries: "open the host name's sysctl for writing"},
		{Name: "write-forwarding", Class: Host, Tries: "open a network sysctl for writing"},
		{Name: "write-caches", Class: Host, Tries: "open a memory sysctl for writing"},
		{Name: "write-sysrq", Class: Host, Tries: "open sysrq-trigger for writing", Rare: "a kernel with SysRq"},
		{Name: "write-uevent-helper", Class: Host, Tries: "open uevent_helper for writing: the host runs what it names", Rare: "a kernel with uevent helpers"},
		{Name: "write-module-path", Class: Host, Tries: "open modprobe's path for writing: the host runs what it names", Rare: "a kernel that loads modules"},
		{Name: "read-kcore", Class: Host, Tries: "read the kernel's memory", Rare: "a kernel with /proc/kcore"},
		{Name: "read-keys", Class: Host, Tries: "list the kernel's keys"},
		{Name: "read-timers", Class: Host, Tries: "list the kernel's timers", Rare: "a kernel with /proc/timer_list"},
		{Name: "read-sys", Class: Host, Tries: "list /sys/kernel"},
		{Name: "read-firmware", Class: Host, Tries: "list the firmware's tables", Rare: "a machine with firmware tables"},
		{Name: "read-sys-block", Class: Host, Tries: "list the host's disks"},
		{Name: "read-kallsyms", Class: Host, Tries: "read the kernel's symbols", Known: "addresses in it are zero without a capability"},
		{Name: "read-interrupts", Class: Host, Tries: "count the host's interrupts (a keystroke channel)"},
		{Name: "cgroup-raise", Class: Host, Tries: "open its own memory limit for writing"},
		{Name: "cgroup-escape", Class: Host, Tries: "open a control group's list of processes for writing"},
		{Name: "cgroup-release-agent", Class: Host, Tries: "open release_agent for writing: the host runs what it names", Rare: "a host with version 1 control groups"},

		{Name: "inherited-files", Class: Doors, Tries: "find an open file that its parent forgot"},
		{Name: "shared-memory", Class: Doors, Tries: "make System V shared memory", Surface: true},
		{Name: "semaphores", Class: Doors, Tries: "make System V semaphores", Surface: true},
		{Name: "message-queue", Class: Doors, Tries: "make a System V message queue", Surface: true},
		{Name: "posix-queue", Class: Doors, Tries: "make a POSIX message queue", Surface: true, Rare: "a kernel with POSIX message queues"},
		{Name: "dev-shm", Class: Doors, Tries: "create a file in /dev/shm"},
		{Name: "environment", Class: Doors, Tries: "find more in its environment than it was given"},
		{Name: "learn-host-name", Class: Doors, Tries: "learn the host's name"},
		{Name: "other-environment", Class: Doors, Tries: "read another process's environment"},
		{Name: "other-root", Class: Doors, Tries: "enter another process's root"},
		{Name: "learn-cgroups", Class: Doors, Tries: "learn the host's layout of control groups"},
		{Name: "learn-mounts", Class: Doors, Tries: "learn the host's paths from its mounts", Known: "names of folders on the host, no content"},
		{Name: "learn-hardware", Class: Doors, Tries: "learn the processor's model", Known: "the processor says it to any program"},
		{Name: "learn-load", Class: Doors, Tries: "learn how busy the host is", Known: "timing a loop tells the same"},
		{Name: "learn-boot", Class: Doors, Tries: "learn an identifier of the host's boot", Known: "a random number that names the machine until it restarts"},
	}
}
