// Hostile is a worker that does what it should not. It is built by tests and run in sandboxes only. It never contacts
// anything but the loopback address of the machine it runs on.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	args := append(os.Args[2:], "", "")
	switch os.Args[1] {
	case "echo":
		echo(args[0])
	case "exit":
		n, _ := strconv.Atoi(args[0])
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(n)
	case "late":
		wait, err := time.ParseDuration(args[0])
		die(err)
		fmt.Fprintln(os.Stderr, "waiting")
		time.Sleep(wait)
		fmt.Print("late answer")
	case "attack":
		attack(args[0])
	case "map":
		mapFile(args[0])
	case "maps":
		mapMany(args[0], args[1])
	case "flood":
		flood(os.Stdout)
	case "chatter":
		flood(os.Stderr)
	case "hog":
		hog()
	case "threads":
		threads()
	case "spin":
		signal.Ignore()
		fmt.Fprintln(os.Stderr, "spinning")
		for {
		}
	case "stdin":
		n, err := io.Copy(os.Stdout, os.Stdin)
		die(err)
		fmt.Fprintln(os.Stderr, "read", n)
	case "links":
		links(args[0], os.Args[3:])
	case "dump":
		os.Stdout.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	}
}

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// echo copies a file out, with lines of progress.
func echo(path string) {
	f, err := os.Open(path)
	die(err)
	fmt.Fprintln(os.Stderr, "progress 0.50")
	_, err = io.Copy(os.Stdout, f)
	die(err)
	fmt.Fprint(os.Stderr, "progress 1.00")
}

// mapFile reads a whole file through a mapping, asking for huge pages as a good worker does.
func mapFile(path string) {
	f, err := os.Open(path)
	die(err)
	info, err := f.Stat()
	die(err)
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	die(err)
	_ = unix.Madvise(data, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(data, unix.MADV_SEQUENTIAL)
	sum := 0
	for i := 0; i < len(data); i += 4096 {
		sum += int(data[i])
	}
	fmt.Print(len(data), " ", sum)
}

func mapMany(path, count string) {
	n, _ := strconv.Atoi(count)
	for range n {
		f, err := os.Open(path)
		die(err)
		_, err = unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
		die(err)
		defer f.Close()
	}
	fmt.Print("mapped")
}

func flood(w io.Writer) {
	block := bytes.Repeat([]byte("spam and eggs\n"), 1<<12)
	for {
		if _, err := w.Write(block); err != nil {
			os.Exit(3)
		}
	}
}

func hog() {
	var keep [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		keep = append(keep, b)
		fmt.Fprintln(os.Stderr, len(keep)*8, "MiB")
	}
}

// threads blocks threads until no more are to be had; the runtime then ends the program.
func threads() {
	for i := range 5000 {
		go func() { var t = unix.Timespec{Sec: 60}; _ = unix.Nanosleep(&t, nil) }()
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(3 * time.Second)
	fmt.Print("5000 threads")
}

// attack tries each thing and prints what came of it: an empty string means that it worked.
func attack(loopback string) {
	got := map[string]string{
		"pid": strconv.Itoa(os.Getpid()), "uid": strconv.Itoa(os.Getuid()), "gid": strconv.Itoa(os.Getgid()),
		"env": fmt.Sprint(os.Environ()),
	}
	host, err := os.Hostname()
	got["hostname"] = fmt.Sprint(host, err)
	wd, err := os.Getwd()
	got["wd"] = fmt.Sprint(wd, err)
	note := func(name string, err error) {
		got[name] = ""
		if err != nil {
			got[name] = err.Error()
		}
	}
	for name, domain := range map[string]int{"inet": unix.AF_INET, "inet6": unix.AF_INET6, "unix": unix.AF_UNIX, "vsock": unix.AF_VSOCK,
		"netlink": unix.AF_NETLINK, "packet": unix.AF_PACKET, "alg": unix.AF_ALG} {
		fd, err := unix.Socket(domain, unix.SOCK_RAW, 0)
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) || name == "inet" || name == "unix" || name == "vsock" {
			fd, err = unix.Socket(domain, unix.SOCK_STREAM, 0)
		}
		if err == nil {
			unix.Close(fd)
		}
		note("socket-"+name, err)
	}
	if loopback != "" {
		c, err := net.DialTimeout("tcp", loopback, time.Second)
		if err == nil {
			c.Close()
		}
		note("connect", err)
	}
	if list, err := net.Interfaces(); err == nil {
		names := []string{}
		for _, i := range list {
			names = append(names, i.Name)
		}
		got["interfaces"] = fmt.Sprint(names)
	} else {
		got["interfaces"] = "[]"
	}
	files(note)
	processes(note)
	calls(note)
	note("tmp", os.WriteFile("/tmp/scratch", []byte("x"), 0o600))
	out, err := json.Marshal(got)
	die(err)
	os.Stdout.Write(out)
}

// links says hello to sockets in a folder, then tries what a task that was given them may not do.
func links(folder string, names []string) {
	got := map[string]string{}
	note := func(name string, err error) {
		got[name] = ""
		if err != nil {
			got[name] = err.Error()
		}
	}
	for _, name := range names {
		c, err := net.Dial("unix", filepath.Join(folder, name))
		die(err)
		fmt.Fprint(c, name)
		die(c.(*net.UnixConn).CloseWrite())
		answer, err := io.ReadAll(c)
		die(err)
		got["answer-"+name] = string(answer)
		note("remove-"+name, os.Remove(filepath.Join(folder, name)))
		note("rename-"+name, os.Rename(filepath.Join(folder, name), filepath.Join(folder, "x")))
	}
	note("create", os.WriteFile(filepath.Join(folder, "file"), nil, 0o600))
	for name, domain := range map[string]int{"inet": unix.AF_INET, "inet6": unix.AF_INET6, "vsock": unix.AF_VSOCK, "netlink": unix.AF_NETLINK, "packet": unix.AF_PACKET, "alg": unix.AF_ALG} {
		kind := unix.SOCK_STREAM
		if name == "netlink" || name == "packet" {
			kind = unix.SOCK_RAW
		}
		fd, err := unix.Socket(domain, kind, 0)
		if err == nil {
			unix.Close(fd)
		}
		note("socket-"+name, err)
	}
	for name, kind := range map[string]int{"dgram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET} {
		_, err := unix.Socket(unix.AF_UNIX, kind, 0)
		note("socket-"+name, err)
	}
	_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	note("pair", err)
	_, err = net.Listen("unix", "/tmp/listen")
	note("listen", err)
	_, err = net.Listen("unix", "@listen")
	note("listen-abstract", err)
	for _, path := range []string{"/var/run/docker.sock", "/run/docker.sock", "/run/systemd/private", "/run/dbus/system_bus_socket"} {
		_, err := net.Dial("unix", path)
		note("dial"+path, err)
	}
	// A socket is no way to another's files.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	die(err)
	note("pass-files", unix.Sendmsg(fd, []byte{0}, unix.UnixRights(0), nil, 0))
	_, _, _, _, err = unix.Recvmsg(fd, make([]byte, 1), make([]byte, 64), unix.MSG_DONTWAIT)
	note("take-files", err)
	out, err := json.Marshal(got)
	die(err)
	os.Stdout.Write(out)
}

func files(note func(string, error)) {
	create := func(path string) error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			f.Close()
		}
		return err
	}
	note("write-root", create("/x"))
	note("write-input", create("/in/x"))
	note("write-here", create("x"))
	note("change-input", func() error {
		f, err := os.OpenFile("data", os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	}())
	note("remove-input", os.Remove("data"))
	for _, path := range []string{"/etc/passwd", "/etc/shadow", "/root", "/home", "/var", "/usr", "/sys/kernel", "/proc/1/environ", "/run"} {
		f, err := os.Open(path)
		if err == nil {
			if names, e := f.Readdirnames(-1); e == nil && len(names) == 0 {
				err = errors.New("an empty folder")
			}
			f.Close()
		}
		if path == "/proc/1/environ" && os.Getpid() == 1 {
			continue // its own
		}
		note("read"+path, err)
	}
	seen, _ := filepath.Glob("/*")
	note("listing", fmt.Errorf("%v", seen))
	note("fill-tmp", func() error {
		f, err := os.Create("/tmp/big")
		if err != nil {
			return err
		}
		defer os.Remove("/tmp/big")
		defer f.Close()
		block := make([]byte, 1<<20)
		for range 64 {
			if _, err := f.Write(block); err != nil {
				return err
			}
		}
		return nil
	}())
	note("device", unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))))
	note("setuid-file", func() error {
		if err := create("/tmp/s"); err != nil {
			return err
		}
		return unix.Chmod("/tmp/s", 0o4755)
	}())
}

func processes(note func(string, error)) {
	note("execute-tmp", func() error {
		// A script needs no copy of this program, which may not be readable.
		if err := os.WriteFile("/tmp/run", []byte("#!/worker exit 0\n"), 0o755); err != nil {
			return err
		}
		return exec.Command("/tmp/run").Run()
	}())
	note("execute-self", exec.Command("/worker", "exit", "0").Run())
	note("execute-proc", exec.Command("/proc/self/exe", "exit", "0").Run())
	note("execute-memory", func() error {
		fd, err := unix.MemfdCreate("x", 0)
		if err != nil {
			return err
		}
		_, err = unix.Write(fd, []byte("#!/worker exit 0\n"))
		if err != nil {
			return err
		}
		return exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd)).Run()
	}())
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD|unix.CLONE_SIGHAND|unix.CLONE_VM, 0, 0)
	note("clone-user", errno)
	note("signal-parent", unix.Kill(os.Getppid(), 0))
	note("signal-all", unix.Kill(-1, 0))
	note("raise-files", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}))
}

func calls(note func(string, error)) {
	note("mount", unix.Mount("none", "/tmp", "tmpfs", 0, ""))
	note("remount", unix.Mount("", "/in", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	note("unmount", unix.Unmount("/in", unix.MNT_DETACH))
	note("chroot", unix.Chroot("/tmp"))
	note("hostname-set", unix.Sethostname([]byte("x")))
	note("unshare", unix.Unshare(unix.CLONE_NEWUTS))
	note("setuid", syscall.Setuid(0))
	note("executable-memory", func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	}())
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		note("capabilities", err)
	} else if caps != ([2]unix.CapUserData{}) {
		note("capabilities", nil)
	} else {
		note("capabilities", errors.New("none"))
	}
	for name, nr := range map[string]uintptr{"bpf": unix.SYS_BPF, "io_uring": unix.SYS_IO_URING_SETUP, "keyctl": unix.SYS_KEYCTL,
		"perf": unix.SYS_PERF_EVENT_OPEN, "ptrace": unix.SYS_PTRACE, "userfaultfd": unix.SYS_USERFAULTFD, "reboot": unix.SYS_REBOOT,
		"add_key": unix.SYS_ADD_KEY, "init_module": unix.SYS_INIT_MODULE, "kexec": unix.SYS_KEXEC_LOAD, "handle": unix.SYS_OPEN_BY_HANDLE_AT} {
		_, _, errno := unix.RawSyscall6(nr, ^uintptr(0), 0, 0, 0, 0, 0) // arguments that no kernel accepts
		note("call-"+name, errno)
	}
}
