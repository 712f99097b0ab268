package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
)

// Meeting is the two connections of a job, once everybody has come. Its methods are for one goroutine.
type Meeting struct {
	Pins [mpc.Nodes]link.Pin // the keys of all three nodes

	next, prev Stream
	listeners  []*net.UnixListener
	carrying   sync.WaitGroup
}

// Open makes the sockets for this custodian's node in a folder, each for one connection, and begins to carry what comes.
// Whoever may enter the folder may connect: it belongs below one that is closed to all others.
func (m *Meeting) Open(dir string) error {
	// The folder's own name may be longer than a socket's may be.
	folder, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("making a node's sockets: %w", err)
	}
	defer folder.Close()
	for _, s := range []struct {
		name string
		peer Stream
	}{{link.Next, m.next}, {link.Prev, m.prev}} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), s.name), Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false) // the folder goes as a whole
			m.listeners = append(m.listeners, l)
			err = os.Chmod(filepath.Join(dir, s.name), 0o666) // the node is another user
		}
		if err != nil {
			return fmt.Errorf("making a node's sockets: %w", err)
		}
		m.carrying.Go(func() { m.serve(l, s.peer) })
	}
	return nil
}

// serve carries for one socket's one connection until both directions have ended.
func (m *Meeting) serve(l *net.UnixListener, peer Stream) {
	node, err := l.AcceptUnix()
	l.Close()
	if err != nil {
		return // closed before the node came
	}
	var back sync.WaitGroup
	back.Go(func() {
		if err := carry(node, peer); err != nil {
			// The node has gone, or the peer has. What the peer still sends is for nobody, but must be read: closing over
			// unread bytes would cut off what is on its way there.
			_, _ = io.Copy(io.Discard, peer)
		}
		_ = node.CloseWrite()
	})
	_ = carry(peer, node)
	_ = peer.CloseWrite()
	back.Wait()
	_ = node.Close()
}

// carry copies until one end has enough. Between a Unix socket and TCP the kernel moves the bytes itself (splice); between
// two Unix sockets they come through here, in pieces as large as such a socket holds.
func carry(to io.Writer, from io.Reader) error {
	_, err := io.CopyBuffer(to, from, make([]byte, 256<<10))
	return err
}

// lingers is how long Close waits for a peer to end too. What a node sent travels on after that, unless a peer sends more
// to a node that has ended.
const lingers = time.Second

// Close ends both connections, after what the node sent before it ended. The node must have ended, or never come.
func (m *Meeting) Close() error {
	var err error
	for _, l := range m.listeners {
		l.Close() // often closed already
	}
	for _, s := range []Stream{m.next, m.prev} {
		if s != nil {
			err = errors.Join(err, s.SetDeadline(time.Now().Add(lingers)))
		}
	}
	m.carrying.Wait()
	for _, s := range []Stream{m.next, m.prev} {
		if s != nil {
			s.Close()
		}
	}
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
