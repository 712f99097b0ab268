package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/mpctest"
)

func connect(t *testing.T, stall time.Duration) [3]*link.Mesh {
	t.Helper()
	cfgs := mpctest.Configs(t)
	for i := range cfgs {
		cfgs[i].Stall = stall
	}
	return mpctest.Connect(t, cfgs)
}

func words(n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i) * 0x9E3779B97F4A7C15
	}
	return out
}

func TestWordsArrive(t *testing.T) {
	m := connect(t, 10*time.Second)
	var g errgroup.Group
	sizes := []int{1, 2, 8191, 8192, 8193, 100_000}
	for i := range m {
		g.Go(func() error {
			for step, n := range sizes {
				if err := m[i].Prev.Send(uint32(step), words(n)); err != nil {
					return err
				}
				got := make([]uint64, n)
				if err := m[i].Next.Recv(uint32(step), got); err != nil {
					return err
				}
				if !slices.Equal(got, words(n)) {
					return errors.New("other words arrived")
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range m {
		next := (i + 1) % 3
		if m[i].Next.Peer() != next || m[next].Prev.Peer() != i {
			t.Errorf("node %d has peer %d after it", i, m[i].Next.Peer())
		}
		if s := m[i].Next.Secret(); len(s) != 32 || string(s) != string(m[next].Prev.Secret()) {
			t.Errorf("nodes %d and %d have different secrets", i, next)
		}
		if string(m[i].Next.Secret()) == string(m[i].Prev.Secret()) {
			t.Error("two pairs have one secret")
		}
	}
}

// A job's keys are its own: the same nodes connecting again agree on others.
func TestSecretsAreFresh(t *testing.T) {
	a, b := connect(t, time.Second), connect(t, time.Second)
	if string(a[0].Next.Secret()) == string(b[0].Next.Secret()) {
		t.Error("two jobs have one secret")
	}
}

// What a peer may do wrong, and what the node says.
func TestFaultsOfAPeer(t *testing.T) {
	data := func(length int, kind, step, number uint32, payload int) func(c *link.Conn) error {
		return func(c *link.Conn) error {
			return c.WriteRaw(link.Frame(length, kind, step, number, make([]byte, payload)))
		}
	}
	both := func(fs ...func(c *link.Conn) error) func(c *link.Conn) error {
		return func(c *link.Conn) error {
			for _, f := range fs {
				if err := f(c); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, c := range []struct {
		name string
		peer func(c *link.Conn) error
		want error
	}{
		{"dies", func(c *link.Conn) error { c.Cut(); return nil }, mpc.ErrGone},
		{"leaves", func(c *link.Conn) error { c.Close(); return nil }, mpc.ErrGone},
		{"stalls", func(*link.Conn) error { return nil }, mpc.ErrStalled},
		{"stalls within a frame", data(16, link.KindData, 7, 1, 8), mpc.ErrStalled},
		{"aborts", func(c *link.Conn) error { c.Abort(2); return nil }, mpc.ErrAborted},
		{"replays a frame", both(data(8, link.KindData, 7, 1, 8), data(8, link.KindData, 7, 1, 8)), mpc.ErrReplayed},
		{"replays its hello", data(40, link.KindHello, 0, 0, 40), mpc.ErrReplayed},
		{"sends hello twice", data(40, link.KindHello, 0, 1, 40), mpc.ErrMalformed},
		{"skips a frame", data(8, link.KindData, 7, 2, 8), mpc.ErrReplayed},
		{"is a step ahead", data(8, link.KindData, 8, 1, 8), mpc.ErrReplayed},
		{"is a step behind", data(8, link.KindData, 6, 1, 8), mpc.ErrReplayed},
		{"sends an empty frame", data(0, link.KindData, 7, 1, 0), mpc.ErrMalformed},
		{"sends part of a word", data(12, link.KindData, 7, 1, 12), mpc.ErrMalformed},
		{"sends too much", data(800, link.KindData, 7, 1, 800), mpc.ErrMalformed},
		{"sends more than a frame holds", data(link.MaxPayload+8, link.KindData, 7, 1, link.MaxPayload+8), mpc.ErrMalformed},
		{"promises 4 GiB", data(1<<32-8, link.KindData, 7, 1, 8), mpc.ErrMalformed},
		{"sends an unknown kind", data(8, 9, 7, 1, 8), mpc.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := connect(t, 300*time.Millisecond)
			if err := c.peer(m[0].Next); err != nil {
				t.Fatal(err)
			}
			err := m[1].Prev.Recv(7, make([]uint64, 3))
			if !errors.Is(err, c.want) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
			if a := (*mpc.AbortError)(nil); errors.As(err, &a) && a.Blames != 2 {
				t.Errorf("abort blames %d", a.Blames)
			}
		})
	}
}

// A peer that does not read makes a sender wait, with bounded memory, and at last fail.
func TestPeerThatDoesNotReadIsStalled(t *testing.T) {
	m := connect(t, 300*time.Millisecond)
	sent := 0
	var err error
	for frame := words(link.MaxPayload / 8); err == nil && sent < 4000; sent++ { // far more than the kernel holds
		err = m[0].Next.Send(1, frame)
	}
	if !errors.Is(err, mpc.ErrStalled) {
		t.Errorf("after %d frames the error is %v", sent, err)
	}
}

// A slow reader is waited for: the sender takes as long, and nothing is lost.
func TestBackPressure(t *testing.T) {
	m := connect(t, 10*time.Second)
	const frames = 4 * link.Window
	var sent atomic.Int64
	var g errgroup.Group
	g.Go(func() error {
		for range frames {
			if err := m[0].Next.Send(1, words(link.MaxPayload/8)); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	})
	got := make([]uint64, link.MaxPayload/8)
	for range frames {
		if err := m[1].Prev.Recv(1, got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, words(len(got))) {
			t.Fatal("other words arrived")
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestConnectRefuses(t *testing.T) {
	stranger, err := mpctest.Certificate(9)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(cfgs *[3]link.Config)
		want   string
	}{
		{"another key", func(cfgs *[3]link.Config) { cfgs[1].Certificate = stranger }, "does not have the key of node 1"},
		{"a peer's key in another's place", func(cfgs *[3]link.Config) { cfgs[1].Certificate = cfgs[2].Certificate }, "does not have the key of node 1"},
		{"another job", func(cfgs *[3]link.Config) { cfgs[1].Job = mpc.Digest{9} }, "peer is at another job"},
		{"no such node", func(cfgs *[3]link.Config) { cfgs[0].Party = 3 }, "there is no node 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfgs := mpctest.Configs(t)
			c.change(&cfgs)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			var g errgroup.Group
			var errs [3]error
			for i, cfg := range cfgs {
				g.Go(func() error {
					m, err := link.Connect(ctx, cfg)
					if err == nil {
						m.Close()
					}
					errs[i] = err
					return nil
				})
			}
			g.Wait()
			if all := errors.Join(errs[:]...); all == nil || !strings.Contains(all.Error(), c.want) {
				t.Errorf("errors are %v, want %q", all, c.want)
			}
			if errs[0] == nil {
				t.Error("node 0 connected")
			}
		})
	}
}

// Strangers at the door do not keep the peer out.
func TestStrangersAreDropped(t *testing.T) {
	cfgs := mpctest.Configs(t)
	addr := cfgs[1].Listener.Addr().String()
	var held []net.Conn
	for _, hello := range []string{"", "silent", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\x05junk!"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		switch hello {
		case "":
			c.Close()
		case "silent":
		default:
			if _, err := c.Write([]byte(hello)); err != nil {
				t.Fatal(err)
			}
		}
		held = append(held, c)
	}
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	go func() { // one that shakes hands with no key of a node
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
		}
	}()
	mpctest.Connect(t, cfgs)
}

// The end of the context ends a connection that somebody waits on.
func TestContextEndsConnections(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cfgs := mpctest.Configs(t)
	var m [3]*link.Mesh
	var g errgroup.Group
	for i, cfg := range cfgs {
		g.Go(func() (err error) {
			m[i], err = link.Connect(ctx, cfg)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- m[0].Next.Recv(1, make([]uint64, 1)) }()
	cancel()
	if err := <-done; !errors.Is(err, mpc.ErrGone) {
		t.Errorf("error is %v", err)
	}
	for i := range m {
		m[i].Close()
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(link.Frame(8, link.KindData, 1, 2, nil))
	f.Add(link.Frame(link.MaxPayload, link.KindData, 1, 2, nil))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) != 16 {
			return
		}
		length, kind, step, number, err := link.ParseHeader([16]byte(data))
		if err != nil {
			if !errors.Is(err, mpc.ErrMalformed) {
				t.Errorf("error is %v", err)
			}
			return
		}
		if length < 0 || length > link.MaxPayload || length%8 != 0 {
			t.Errorf("accepted length %d", length)
		}
		if again := link.Frame(length, kind, step, number, nil); string(again) != string(data) {
			t.Errorf("%x is encoded as %x", data, again)
		}
	})
}
