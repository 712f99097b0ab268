package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func network(port int, abstract string) []probe {
	return []probe{
		{"interfaces", interfaces}, {"routes", routes},
		{"connect-host", func() error { return connect(port) }},
		{"connect-abstract", func() error { return connectAbstract(abstract) }},
		{"listen", func() error { return listen(unix.SOCK_STREAM) }},
		{"udp-loopback", func() error { return listen(unix.SOCK_DGRAM) }},
		{"interface-up", interfaceUp},
		{"resolver", func() error { return readLine("/etc/resolv.conf", "nameserver") }},
		{"socket-inet", socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
		{"socket-inet6", socket(unix.AF_INET6, unix.SOCK_STREAM, 0)},
		{"socket-unix", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)},
		{"socketpair", func() error {
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err == nil {
				err = errors.Join(unix.Close(p[0]), unix.Close(p[1]))
			}
			return err
		}},
		{"socket-raw", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"socket-ping", socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)},
		{"socket-packet", socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300)},
		{"netlink-route", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)},
		{"netlink-netfilter", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)},
		{"netlink-uevent", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)},
		{"netlink-audit", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT)},
		{"socket-vsock", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
		{"socket-alg", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
		{"socket-xdp", socket(unix.AF_XDP, unix.SOCK_RAW, 0)},
		{"socket-can", socket(unix.AF_CAN, unix.SOCK_RAW, 1)},
		{"socket-bluetooth", socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 1)},
		{"socket-sctp", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)},
		{"socket-mptcp", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)},
		{"socket-tipc", socket(unix.AF_TIPC, unix.SOCK_DGRAM, 0)},
		{"io-uring", func() error {
			var params [120]byte
			fd, _, errno := unix.RawSyscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
			if errno != 0 {
				return errno
			}
			return unix.Close(int(fd))
		}},
		{"device-tun", func() error { return open("/dev/net/tun", unix.O_RDWR) }},
		{"device-vsock", func() error { return open("/dev/vsock", unix.O_RDONLY) }},
	}
}

func socket(domain, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
}

// interfaces looks for one beside lo, in each place that would name it.
func interfaces() error {
	list, err := net.Interfaces()
	if err != nil {
		list = nil
		data, e := os.ReadFile("/proc/net/dev")
		if e != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			if name, _, ok := strings.Cut(line, ":"); ok {
				list = append(list, net.Interface{Name: strings.TrimSpace(name)})
			}
		}
	}
	for _, i := range list {
		if i.Name != "lo" {
			return nil
		}
	}
	return errors.New("lo only")
}

func routes() error {
	data, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return err
	}
	if strings.Count(strings.TrimSpace(string(data)), "\n") == 0 {
		return errors.New("none")
	}
	return nil
}

// connect calls the caller's listener on loopback.
func connect(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
}

// connectAbstract calls the caller's listener on a socket that has a name but no file.
func connectAbstract(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + name})
}

func listen(kind int) error {
	fd, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil || kind == unix.SOCK_DGRAM {
		return err
	}
	return unix.Listen(fd, 1)
}

// interfaceUp sets lo's flags to what they are.
func interfaceUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func readLine(path, with string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(data), with) {
		return fmt.Errorf("no %s", with)
	}
	return nil
}
