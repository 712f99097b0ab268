package relay_test

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/mpctest"
	"yingzhou.dev/lab/enclave/mpc/relay"
)

// carried connects three nodes by their custodians' relays, which reach each other by TCP on loopback or, as in one folder,
// by pairs of sockets.
func carried(b *testing.B, local bool) [mpc.Nodes]*link.Mesh {
	b.Helper()
	bodies := newBodies(b, time.Minute)
	if local {
		bodies.local = true
	}
	var out [mpc.Nodes]*link.Mesh
	var meetings [mpc.Nodes]*relay.Meeting
	var g errgroup.Group
	for i, name := range names {
		j, cert := job(b, i, plan(1))
		dir := folder(b)
		g.Go(func() (err error) {
			if meetings[i], err = bodies.relays[name].Meet(b.Context(), j); err != nil {
				return err
			}
			if err := meetings[i].Open(dir); err != nil {
				return err
			}
			out[i], err = node(b.Context(), b, i, j.Plan, cert, meetings[i].Pins, dir)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		for _, m := range out {
			m.Close()
		}
		for _, m := range meetings {
			m.Close()
		}
	})
	return out
}

// direct connects three nodes by sockets in one folder, with nothing in between.
func direct(b *testing.B) [mpc.Nodes]*link.Mesh {
	b.Helper()
	dir := folder(b)
	var cfgs [mpc.Nodes]link.Config
	var certs [mpc.Nodes]tls.Certificate
	var pins [mpc.Nodes]link.Pin
	for i := range cfgs {
		j, cert := job(b, i, plan(1))
		certs[i], pins[i] = cert, j.Pin
	}
	for i := range cfgs {
		l, err := net.Listen("unix", filepath.Join(dir, names[i]))
		if err != nil {
			b.Fatal(err)
		}
		next := filepath.Join(dir, names[(i+1)%mpc.Nodes])
		cfgs[i] = link.Config{Party: i, Certificate: certs[i], Peers: pins, Job: plan(1), Listener: l,
			Dial: func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", next) }}
	}
	return mpctest.Connect(b, cfgs)
}

// BenchmarkCarry sends from each of three nodes to the next what a multiplication of a million numbers sends, and then a
// round of one number; cpu-ms is the processor time of nodes and relays together, which other load on the machine moves
// less than it moves the clock.
func BenchmarkCarry(b *testing.B) {
	for _, kind := range []struct {
		name  string
		nodes func(*testing.B) [mpc.Nodes]*link.Mesh
	}{{"direct", direct}, {"relayed-tcp", func(b *testing.B) [mpc.Nodes]*link.Mesh { return carried(b, false) }},
		{"relayed-unix", func(b *testing.B) [mpc.Nodes]*link.Mesh { return carried(b, true) }}} {
		for _, load := range []struct {
			name  string
			words int
		}{{"8MB", 1 << 20}, {"round", 1}} {
			b.Run(kind.name+"/"+load.name, func(b *testing.B) {
				nodes := kind.nodes(b)
				b.SetBytes(int64(3 * 8 * load.words))
				b.ResetTimer()
				before := cpu(b)
				var g errgroup.Group
				for _, m := range nodes {
					g.Go(func() error {
						send, got := make([]uint64, load.words), make([]uint64, load.words)
						for i := range b.N {
							var both errgroup.Group
							both.Go(func() error { return m.Next.Send(uint32(i), send) })
							if err := m.Prev.Recv(uint32(i), got); err != nil {
								return err
							}
							if err := both.Wait(); err != nil {
								return err
							}
						}
						return nil
					})
				}
				if err := g.Wait(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64((cpu(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			})
		}
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
