package home

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/cmd/internal/nodehost"
	"yingzhou.dev/lab/cmd/internal/nodes"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/relay"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
)

// Three compute nodes on one machine. Each custodian drives its own as at three bodies, through its own relay; only the
// relays' ways to each other are short here: sockets in a temporary folder.

// trio is what the three custodians' nodes have in common in one folder.
type trio struct {
	host *nodehost.Host
	dir  string // of the relays' sockets, whose names must be short

	mu       sync.Mutex
	custody  map[string]*release.Custodian
	serve    errgroup.Group
	stop     context.CancelFunc
	stopping context.Context
}

// openNodes sets the host up. Nothing is started.
func (h *Home) openNodes(ctx context.Context) error {
	backend := h.opts.Backend
	if backend == "gvisor" {
		backend = "docker" // gVisor connects to no sockets of the host's
	}
	host, err := nodehost.New(nodehost.Config{Program: h.node.ComputeProgram(), Backend: backend, Production: h.Production, Owner: h.abs})
	if err != nil {
		return err
	}
	t := &trio{host: host, custody: map[string]*release.Custodian{}}
	if t.dir, err = os.MkdirTemp("", "yz-"); err != nil {
		return fmt.Errorf("opening lab: making a folder for sockets: %w", err)
	}
	t.stopping, t.stop = context.WithCancel(context.WithoutCancel(ctx))
	h.nodes = t
	h.closers = append(h.closers, t)
	return nil
}

// Close implements io.Closer.
func (t *trio) Close() error {
	t.stop()
	err := t.serve.Wait()
	if cerr := t.host.Close(); err == nil {
		err = cerr
	}
	if rerr := os.RemoveAll(t.dir); err == nil {
		err = rerr
	}
	return err
}

func (t *trio) socket(custodian string) string { return filepath.Join(t.dir, custodian) }
