package custody

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/nodejob"
	"yingzhou.dev/lab/cmd/internal/nodes"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/relay"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/operators"
)

// Node is this body's compute node, one of the three that compute joint jobs on secret shares. The custodian has it run
// for each job, shut up with its inputs, and carries what it says to the other two bodies' nodes and back, encrypted from
// node to node.
type Node struct {
	Host      string    `yaml:"host"`       // path of the program nodehost, which runs it
	Program   string    `yaml:"program"`    // path of the node's program, whose digest a scenario approves
	Isolation string    `yaml:"isolation"`  // docker, or process for development only; default: the best there is
	Listen    string    `yaml:"listen"`     // host:port where the other custodians' relays connect; nobody else need reach it
	Peers     []Address `yaml:"peers"`      // where the other custodians listen so
	MemoryMiB int64     `yaml:"memory_mib"` // what one node may take; default: 4096
	CPUs      float64   `yaml:"cpus"`       // processors that one node may take; default: all
	Time      Duration  `yaml:"time"`       // how long one may run; default: 9m, and no more, since custodians wait ten for each other
	Stall     Duration  `yaml:"stall"`      // how long a node waits for another, and custodians for each other's; default: 1m
	AtOnce    int       `yaml:"at_once"`    // nodes that run at a time; default: 2
}

const longestNode = 9 * time.Minute

func (n *Node) check(dir string, production bool) error {
	daemon.In(dir, &n.Host, &n.Program)
	errs := []error{daemon.File("node.host", n.Host), daemon.File("node.program", n.Program), daemon.HostPort("node.listen", n.Listen)}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch n.Isolation {
	case "", "docker":
	case "process":
		if production {
			fault("node.isolation: process is for development only, and this is production")
		}
	default:
		fault("node.isolation: %q is not docker or process", n.Isolation)
	}
	seen := map[string]bool{}
	for i, a := range n.Peers {
		errs = append(errs, a.check(fmt.Sprintf("node.peers[%d]", i)))
		if seen[a.Name] {
			fault("node.peers[%d]: %q is there twice", i, a.Name)
		}
		seen[a.Name] = true
	}
	if len(n.Peers) < 2 {
		fault("node.peers: name the two other custodians whose nodes take part")
	}
	for key, v := range map[string]float64{"memory_mib": float64(n.MemoryMiB), "cpus": n.CPUs, "time": float64(n.Time), "stall": float64(n.Stall), "at_once": float64(n.AtOnce)} {
		if v < 0 {
			fault("node.%s: it is negative", key)
		}
	}
	if time.Duration(n.Time) > longestNode {
		fault("node.time: %v is more than %v: custodians wait %v for each other", time.Duration(n.Time), longestNode, custodian.Methods()[enclavev1.CustodianService_Share_FullMethodName].Deadline)
	}
	return errors.Join(errs...)
}

// openNode sets up the driver of this body's node. serve takes the other custodians' connections until its context ends.
func (b *body) openNode(id keys.Signer, own *store.Store, roster func() *operators.Roster) (_ *nodes.Driver, serve func(context.Context) error, err error) {
	n := b.cfg.Node
	// Beside the blobs, which are linked from there, and left out of backups as they are.
	work, err := filepath.Abs(b.cfg.Mirror)
	if err != nil {
		return nil, nil, err
	}
	dial := func(ctx context.Context, name string) (relay.Stream, error) {
		for _, p := range n.Peers {
			if p.Name == name {
				var d net.Dialer
				c, err := d.DialContext(ctx, "tcp", p.Address)
				if err != nil {
					return nil, err
				}
				return c.(*net.TCPConn), nil
			}
		}
		return nil, fmt.Errorf("node.peers does not name custodian %q", name)
	}
	r, err := relay.New(relay.Config{Signer: id, Key: nodes.KeyIn(roster), Dial: dial, Patience: time.Duration(n.Stall), Logger: b.env.Logger})
	if err != nil {
		return nil, nil, err
	}
	host := &nodes.Program{Path: n.Host, Node: n.Program, Isolation: n.Isolation, Production: b.cfg.Production, Owner: work}
	driver, err := nodes.New(nodes.Config{Custodian: id.Name(), Host: host, Relay: r, Blobs: own, Dir: filepath.Join(work, "node"), Production: b.cfg.Production,
		Limits: nodejob.Limits{MemoryMiB: n.MemoryMiB, CPUs: n.CPUs, Time: time.Duration(n.Time)}, AtOnce: n.AtOnce, Stall: time.Duration(n.Stall), Logger: b.env.Logger})
	if err != nil {
		return nil, nil, err
	}
	return driver, func(ctx context.Context) error {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", n.Listen)
		if err != nil {
			return err
		}
		// Asked now so that whoever starts the daemon sees what is the matter. What an earlier process left running goes.
		if id, err := host.Identify(ctx); err != nil {
			b.env.Logger.ErrorContext(ctx, "the compute node cannot be run: joint jobs wait", "error", err)
		} else {
			b.env.Logger.InfoContext(ctx, "compute node", "address", l.Addr().String(), "program", id.Program.String(), "image", id.Image.String(), "isolation", id.Isolation)
		}
		return r.Serve(ctx, l)
	}, nil
}
