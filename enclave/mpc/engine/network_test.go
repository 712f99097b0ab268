package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/mpctest"
)

// proxy forwards connections to addr on the loopback interface, each piece as relay says.
func proxy(t *testing.T, addr string, relay func(dst io.Writer, piece []byte, total int) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	pump := func(dst, src net.Conn) {
		defer dst.Close()
		defer src.Close()
		buf, total := make([]byte, 2048), 0
		for {
			n, err := src.Read(buf)
			if n > 0 {
				if err := relay(dst, buf[:n], total); err != nil {
					return
				}
				total += n
			}
			if err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				return
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			wg.Go(func() { pump(out, in) })
			wg.Go(func() { pump(in, out) })
		}
	})
	return l.Addr().String()
}

// overTLS runs a program over TLS, with a proxy between nodes 0 and 1 if relay is given.
func overTLS(t *testing.T, p *mpc.Program, dealt [3]mpc.Dealt, stall time.Duration, relay func(dst io.Writer, piece []byte, total int) error) ([3]*mpc.Output, [3]error) {
	t.Helper()
	cfgs := mpctest.Configs(t)
	if relay != nil {
		addr := proxy(t, cfgs[1].Listener.Addr().String(), relay)
		cfgs[0].Dial = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	for i := range cfgs {
		cfgs[i].Stall = stall
	}
	m := mpctest.Connect(t, cfgs)
	w := &trio{}
	for i := range m {
		w.peers[i] = [2]Peer{m[i].Next, m[i].Prev}
	}
	return w.runAll(t, p, dealt, func(i int, cfg *Config) { cfg.Abort = m[i].Abort })
}

// The connection that package link makes is a Peer.
var _ Peer = (*link.Conn)(nil)

func TestOverTLS(t *testing.T) {
	p, d := small(9, 12, true)
	dealt := dealAll(t, p, d)
	want := evaluateDealt(t, t, p, dealt)
	for _, c := range []struct {
		name  string
		relay func(dst io.Writer, piece []byte, total int) error
	}{
		{"directly", nil},
		{"slow link", func(dst io.Writer, piece []byte, _ int) error { // every piece late, and in two
			<-time.After(time.Millisecond)
			if _, err := dst.Write(piece[:len(piece)/2]); err != nil {
				return err
			}
			<-time.After(time.Millisecond)
			_, err := dst.Write(piece[len(piece)/2:])
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			outs, errs := overTLS(t, p, dealt, 20*time.Second, c.relay)
			if err := errors.Join(errs[:]...); err != nil {
				t.Fatal(err)
			}
			got, err := mpc.Combine(p, [3]mpc.Output{*outs[0], *outs[1], *outs[2]})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("over TLS (-in memory +got)\n%s", diff)
			}
		})
	}
}

// A link that fails in the middle ends the job at all three nodes, each with an error that names a node, and with no output.
func TestBadLinks(t *testing.T) {
	p, d := small(9, 12, true)
	const late = 20_000 // bytes: after the handshake, in the middle of the program
	for _, c := range []struct {
		name  string
		relay func(dst io.Writer, piece []byte, total int) error
		want  []error // one of them, at some node: the third may run out of patience first
	}{
		{"cut", func(dst io.Writer, piece []byte, total int) error {
			if total > late {
				return io.ErrClosedPipe
			}
			_, err := dst.Write(piece)
			return err
		}, []error{mpc.ErrGone}},
		{"loses everything from some point", func(dst io.Writer, piece []byte, total int) error {
			if total > late {
				return nil
			}
			_, err := dst.Write(piece)
			return err
		}, []error{mpc.ErrStalled}},
		{"loses a piece", func(dst io.Writer, piece []byte, total int) error {
			if total > late && total < late+4096 {
				return nil
			}
			_, err := dst.Write(piece)
			return err
		}, []error{mpc.ErrMalformed, mpc.ErrGone, mpc.ErrStalled}},
		{"changes a byte", func(dst io.Writer, piece []byte, total int) error {
			if total > late {
				piece[len(piece)/2] ^= 1
			}
			_, err := dst.Write(piece)
			return err
		}, []error{mpc.ErrMalformed, mpc.ErrGone, mpc.ErrStalled}},
		{"repeats a piece", func(dst io.Writer, piece []byte, total int) error {
			if total > late {
				dst.Write(piece)
			}
			_, err := dst.Write(piece)
			return err
		}, []error{mpc.ErrMalformed, mpc.ErrGone, mpc.ErrStalled}},
	} {
		t.Run(c.name, func(t *testing.T) {
			outs, errs := overTLS(t, p, dealAll(t, p, d), time.Second, c.relay)
			found := false
			for i, err := range errs {
				var e *mpc.PartyError
				if !errors.As(err, &e) || e.Step == "" {
					t.Errorf("node %d: %v names no node and step", i, err)
				}
				if outs[i] != nil {
					t.Errorf("node %d has an output", i)
				}
				for _, want := range c.want {
					found = found || errors.Is(err, want)
				}
			}
			if !found {
				t.Errorf("errors are %v, want one of %v", errs, c.want)
			}
		})
	}
}
