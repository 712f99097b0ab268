package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/cmd/internal/nodehost"
	"yingzhou.dev/lab/cmd/internal/nodes"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/relay"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/lab"
)

// Three compute nodes on one machine. Each custodian drives its own as at three bodies, through a relay of its own; only
// the way from relay to relay is short: a pair of sockets of this process.

// trio is what the three custodians' nodes have in common in one folder.
type trio struct {
	host *nodehost.Host
	life context.Context // ends with Close
	end  context.CancelFunc

	mu     sync.Mutex
	relays map[string]*relay.Relay
	calls  sync.WaitGroup
}

// openNodes sets up what runs nodes. Nothing is started.
func (h *Home) openNodes(ctx context.Context) error {
	owner, err := filepath.Abs(h.Dir)
	if err != nil {
		return fmt.Errorf("finding the lab's folder: %w", err)
	}
	backend := h.opts.Backend
	if backend == "gvisor" {
		backend = "docker" // gVisor connects to no sockets of the host's
	}
	t := &trio{relays: map[string]*relay.Relay{}}
	if t.host, err = nodehost.New(nodehost.Config{Program: h.node.ComputeProgram(), Backend: backend, Production: h.Production, Owner: owner}); err != nil {
		return err
	}
	t.life, t.end = context.WithCancel(context.WithoutCancel(ctx))
	h.nodes, h.closers = t, append(h.closers, t)
	return nil
}

// Close implements io.Closer.
func (t *trio) Close() error {
	t.end()
	t.calls.Wait()
	return t.host.Close()
}

// dial connects to the relay of another custodian in this folder.
func (t *trio) dial(_ context.Context, custodian string) (relay.Stream, error) {
	t.mu.Lock()
	peer := t.relays[custodian]
	t.mu.Unlock()
	if peer == nil {
		return nil, fmt.Errorf("custodian %q is not in this folder", custodian)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	t.calls.Go(func() { peer.Take(t.life, theirs) })
	return ours, nil
}

func socketPair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting two relays: %w", err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "relay")
		c, ferr := net.FileConn(f) // a copy
		err = errors.Join(err, ferr, f.Close())
		ends[i], _ = c.(*net.UnixConn)
	}
	if err != nil {
		for _, e := range ends {
			if e != nil {
				e.Close()
			}
		}
		return nil, nil, fmt.Errorf("connecting two relays: %w", err)
	}
	return ends[0], ends[1], nil
}

// openNode is the driver of one custodian's node.
func (h *Home) openNode(id keys.Signer, own *store.Store, roster func() *operators.Roster) (*nodes.Driver, error) {
	r, err := relay.New(relay.Config{Signer: id, Key: nodes.KeyIn(roster), Dial: h.nodes.dial, Logger: h.opts.Logger})
	if err != nil {
		return nil, err
	}
	h.nodes.mu.Lock()
	h.nodes.relays[id.Name()] = r
	h.nodes.mu.Unlock()
	dir, err := filepath.Abs(h.path("custodians", id.Name(), "mirror", "node"))
	if err != nil {
		return nil, fmt.Errorf("finding the lab's folder: %w", err)
	}
	return nodes.New(nodes.Config{Custodian: id.Name(), Host: h.nodes.host, Relay: r, Blobs: own, Dir: dir, Production: h.Production, Logger: h.opts.Logger,
		Log: func(lines string) {
			if h.opts.NodeLog != nil {
				h.opts.NodeLog(id.Name(), lines)
			}
		}})
}

// identifyNode implements lab.Config.NodeProgram.
func (h *Home) identifyNode(ctx context.Context) (enclave.Digest, string, error) {
	if h.Production {
		return enclave.Digest{}, "", fmt.Errorf("%w, at three bodies: this lab is one folder", lab.ErrNoNodes)
	}
	id, err := h.nodes.host.Identify(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return enclave.Digest{}, "", fmt.Errorf("%w: %w", lab.ErrNoNodes, err)
	case err != nil:
		return enclave.Digest{}, "", err
	case id.Development:
		return id.Program, mpc.Uncontained, nil
	}
	return id.Image, mpc.Contained, nil
}
