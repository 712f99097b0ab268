//go:build unix

package link

import (
	"net"
	"syscall"
)

// direct writes to a connection as much as the kernel takes without waiting. It knows two kinds of connection, not all that
// have a file descriptor: what wraps one of them may have a Write of its own.
func direct(c net.Conn) func(p []byte) (int, error) {
	var s syscall.Conn
	switch c := c.(type) {
	case *net.TCPConn:
		s = c
	case *net.UnixConn:
		s = c
	default:
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return func(p []byte) (int, error) {
		written := 0
		var failed error
		err := raw.Write(func(fd uintptr) bool {
			for written < len(p) {
				n, err := syscall.Write(int(fd), p[written:])
				switch err {
				case nil:
					written += n
				case syscall.EINTR:
				case syscall.EAGAIN:
					return true
				default:
					failed = err
					return true
				}
			}
			return true
		})
		if err == nil {
			err = failed
		}
		return written, err
	}
}
