//go:build unix

package link

import (
	"net"
	"syscall"
)

// direct writes to a connection as much as the kernel takes without waiting.
func direct(c net.Conn) func(p []byte) (int, error) {
	s, ok := c.(syscall.Conn)
	if !ok {
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
