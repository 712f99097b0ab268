package relay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/relay"
	"yingzhou.dev/lab/internal/canon"
)

var names = []string{"cust-a", "cust-b", "cust-c"}

// bodies are three custodians, each with a relay that listens on loopback.
type bodies struct {
	t      testing.TB
	ids    map[string]*keys.Identity
	at     map[string]string // addresses
	relays map[string]*relay.Relay
	log    *bytes.Buffer
	mu     sync.Mutex // guards log
	local  bool       // relays reach each other by pairs of sockets
}

func (b *bodies) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *bodies) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

func newBodies(t testing.TB, patience time.Duration) *bodies {
	t.Helper()
	b := &bodies{t: t, ids: map[string]*keys.Identity{}, at: map[string]string{}, relays: map[string]*relay.Relay{}, log: &bytes.Buffer{}}
	for _, name := range names {
		id, err := keys.NewIdentity(name)
		if err != nil {
			t.Fatal(err)
		}
		b.ids[name] = id
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var served sync.WaitGroup
	t.Cleanup(func() { stop(); served.Wait() })
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		b.at[name] = l.Addr().String()
		r := b.relay(name, patience)
		b.relays[name] = r
		served.Go(func() {
			if err := r.Serve(ctx, l); err != nil {
				t.Error(err)
			}
		})
	}
	return b
}

func (b *bodies) relay(name string, patience time.Duration) *relay.Relay {
	b.t.Helper()
	r, err := relay.New(relay.Config{Signer: b.ids[name], Key: b.key, Dial: b.dial, Patience: patience, Logger: slog.New(slog.NewTextHandler(b, nil))})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bodies) key(name string) (ed25519.PublicKey, error) {
	if id, ok := b.ids[name]; ok {
		return id.Verify(), nil
	}
	return nil, fmt.Errorf("%q is no custodian", name)
}

func (b *bodies) dial(ctx context.Context, name string) (relay.Stream, error) {
	if b.local {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			return nil, err
		}
		var ends [2]net.Conn
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "relay")
			if ends[i], err = net.FileConn(f); err != nil {
				return nil, err
			}
			f.Close()
		}
		go b.relays[name].Take(context.Background(), ends[1].(*net.UnixConn))
		return ends[0].(*net.UnixConn), nil
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", b.at[name])
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// folder is short, as names of sockets must be.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func plan(n byte) enclave.Digest { return enclave.Digest{n} }

// job is a custodian's part, with the key of its node.
func job(t testing.TB, party int, p enclave.Digest) (relay.Job, tls.Certificate) {
	t.Helper()
	cert, key, pin, err := link.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return relay.Job{Plan: p, Party: party, Nodes: names, Pin: pin}, pair
}

// dialled is a listener whose connections are those that a node makes.
type dialled struct {
	net.Listener
	path string
	once chan struct{}
}

func (d *dialled) Accept() (net.Conn, error) {
	select {
	case <-d.once:
		return net.Dial("unix", d.path)
	default:
		return d.Listener.Accept() // nobody comes
	}
}

// node is what a node does with its sockets.
func node(ctx context.Context, t testing.TB, party int, p enclave.Digest, cert tls.Certificate, pins [mpc.Nodes]link.Pin, dir string) (*link.Mesh, error) {
	idle, err := net.Listen("unix", filepath.Join(folder(t), "idle"))
	if err != nil {
		return nil, err
	}
	once := make(chan struct{}, 1)
	once <- struct{}{}
	return link.Connect(ctx, link.Config{Party: party, Certificate: cert, Peers: pins, Job: p, Listener: &dialled{idle, filepath.Join(dir, link.Prev), once},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, link.Next))
		},
		Handshake: time.Minute, Stall: time.Minute})
}

// Three nodes that have two sockets each talk to each other, with keys that only their custodians' signatures vouch for,
// in two jobs at once, more than buffers hold.
func TestCarry(t *testing.T) {
	b := newBodies(t, time.Minute)
	const size = 1 << 20 // words
	words := make([]uint64, size)
	for i := range words {
		words[i] = uint64(i) * 0x9E3779B97F4A7C15
	}
	var g errgroup.Group
	for _, p := range []enclave.Digest{plan(1), plan(2)} {
		for party, name := range names {
			j, cert := job(t, party, p)
			dir := folder(t)
			g.Go(func() error {
				m, err := b.relays[name].Meet(t.Context(), j)
				if err != nil {
					return err
				}
				if err := m.Open(dir); err != nil {
					return err
				}
				mesh, err := node(t.Context(), t, party, p, cert, m.Pins, dir)
				if err != nil {
					return errors.Join(err, m.Close())
				}
				var both errgroup.Group
				both.Go(func() error { return mesh.Next.Send(1, words) })
				both.Go(func() error { return mesh.Prev.Send(1, words[:size/2]) })
				got, back := make([]uint64, size), make([]uint64, size/2)
				err = errors.Join(mesh.Prev.Recv(1, got), mesh.Next.Recv(1, back), both.Wait())
				if err == nil && (!slices.Equal(got, words) || !slices.Equal(back, words[:size/2])) {
					err = errors.New("other words arrived")
				}
				mesh.Close()
				return errors.Join(err, m.Close())
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// A second connection to a node's socket is not there to be had.
func TestOneConnection(t *testing.T) {
	b := newBodies(t, time.Minute)
	meetings := meet(t, b, plan(1))
	defer closeAll(t, meetings)
	dir := folder(t)
	if err := meetings[0].Open(dir); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", filepath.Join(dir, link.Next))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for { // until the relay has taken the first
		second, err := net.Dial("unix", filepath.Join(dir, link.Next))
		if err != nil {
			break
		}
		second.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := second.Read(make([]byte, 1)); err == nil {
			t.Fatal("two connections are served")
		}
		second.Close()
	}
}

func meet(t *testing.T, b *bodies, p enclave.Digest) [mpc.Nodes]*relay.Meeting {
	t.Helper()
	var out [mpc.Nodes]*relay.Meeting
	var g errgroup.Group
	for i, name := range names {
		j, _ := job(t, i, p)
		g.Go(func() (err error) { out[i], err = b.relays[name].Meet(t.Context(), j); return err })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return out
}

func closeAll(t *testing.T, meetings [mpc.Nodes]*relay.Meeting) {
	var g errgroup.Group // each waits for the others' ends
	for _, m := range meetings {
		g.Go(m.Close)
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// What a node sent before it ended arrives, although it reads little of what is sent to it; a peer learns of the end.
func TestEndOfANode(t *testing.T) {
	b := newBodies(t, time.Minute)
	meetings := meet(t, b, plan(1))
	here, there := folder(t), folder(t)
	if err := errors.Join(meetings[0].Open(here), meetings[1].Open(there)); err != nil {
		t.Fatal(err)
	}
	dying, err := net.Dial("unix", filepath.Join(here, link.Next))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := net.Dial("unix", filepath.Join(there, link.Prev))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Write(make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	said := bytes.Repeat([]byte("last words "), 10_000)
	var got []byte
	var g errgroup.Group
	g.Go(func() (err error) { got, err = io.ReadAll(peer); return err })
	if _, err := io.ReadFull(dying, make([]byte, 1)); err != nil { // it is being served
		t.Fatal(err)
	}
	if _, err := dying.Write(said); err != nil {
		t.Fatal(err)
	}
	dying.Close()
	g.Go(meetings[0].Close)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, said) {
		t.Errorf("%d bytes of %d arrived", len(got), len(said))
	}
	peer.Close()
	closeAll(t, [3]*relay.Meeting{meetings[1], meetings[2], meetings[0]})
}

// Who does not come is named, and a meeting that fails can be tried again.
func TestAbsent(t *testing.T) {
	b := newBodies(t, 300*time.Millisecond)
	var g sync.WaitGroup
	var errs [2]error
	for i, name := range names[:2] {
		j, _ := job(t, i, plan(1))
		g.Go(func() { _, errs[i] = b.relays[name].Meet(t.Context(), j) })
	}
	g.Wait()
	for i, err := range errs {
		var absent *relay.AbsentError
		if !errors.As(err, &absent) || absent.Custodian != "cust-c" {
			t.Errorf("%s: %v", names[i], err)
		}
	}
	patient := newBodies(t, time.Minute)
	closeAll(t, meet(t, patient, plan(1)))
	closeAll(t, meet(t, patient, plan(1)))

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the job was cancelled")
	j, _ := job(t, 0, plan(3))
	cancel(why)
	if _, err := patient.relays["cust-a"].Meet(ctx, j); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
	j.Nodes = []string{"cust-b", "cust-a", "cust-c"}
	if _, err := patient.relays["cust-a"].Meet(t.Context(), j); err == nil || !strings.Contains(err.Error(), "is not node 0") {
		t.Errorf("another's place: %v", err)
	}
}

// hello is what somebody says to a relay.
func hello(t *testing.T, by *keys.Identity, h relay.Hello) []byte {
	t.Helper()
	signed, err := keys.SealWith(by, relay.KindHello, h)
	if err != nil {
		t.Fatal(err)
	}
	data := canon.MustMarshal(signed)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

// Whoever is not the custodian that is waited for, or cannot prove it, is dropped and disturbs nobody.
func TestStrangers(t *testing.T) {
	b := newBodies(t, time.Minute)
	mallory, err := keys.NewIdentity("mallory")
	if err != nil {
		t.Fatal(err)
	}
	posing, err := keys.NewIdentity("cust-c")
	if err != nil {
		t.Fatal(err)
	}
	// cust-a waits for cust-c, which is before it, and calls cust-b.
	met := make(chan error, 1)
	j, _ := job(t, 0, plan(1))
	var m *relay.Meeting
	go func() {
		var err error
		m, err = b.relays["cust-a"].Meet(t.Context(), j)
		met <- err
	}()
	right := relay.Hello{By: "cust-c", Plan: plan(1), Pin: enclave.Digest{9}}
	for name, said := range map[string][]byte{
		"no hello":               []byte("GET / HTTP/1.1\r\n\r\n"),
		"endless":                binary.BigEndian.AppendUint32(nil, 1<<30),
		"cut off":                hello(t, b.ids["cust-c"], right)[:40],
		"other plan":             hello(t, b.ids["cust-c"], relay.Hello{By: "cust-c", Plan: plan(2), Pin: enclave.Digest{9}}),
		"the other peer":         hello(t, b.ids["cust-b"], relay.Hello{By: "cust-b", Plan: plan(1), Pin: enclave.Digest{9}}),
		"nobody of the roster":   hello(t, mallory, relay.Hello{By: "mallory", Plan: plan(1), Pin: enclave.Digest{9}}),
		"another's signature":    hello(t, mallory, right),
		"a key of the same name": hello(t, posing, right),
		"trailing":               append(binary.BigEndian.AppendUint32(nil, 3), []byte("{}\n")...),
	} {
		c, err := net.Dial("tcp", b.at["cust-a"])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(said); err != nil {
			t.Fatal(err)
		}
		if name == "cut off" {
			c.(*net.TCPConn).CloseWrite()
		}
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if data, _ := io.ReadAll(c); len(data) > 0 {
			t.Errorf("%s: it is answered %q", name, data)
		}
		c.Close()
	}
	select {
	case err := <-met:
		t.Fatalf("strangers ended the meeting: %v", err)
	default:
	}
	if log := b.logged(); !strings.Contains(log, "cust-b") || !strings.Contains(log, "refused") {
		t.Errorf("nothing is logged of a peer at the wrong place: %s", log)
	}
	var g errgroup.Group
	var others [2]*relay.Meeting
	for i, name := range names[1:] {
		j, _ := job(t, i+1, plan(1))
		g.Go(func() (err error) { others[i], err = b.relays[name].Meet(t.Context(), j); return err })
	}
	if err := errors.Join(g.Wait(), <-met); err != nil {
		t.Fatal(err)
	}
	if m.Pins[2] == (link.Pin{9}) || m.Pins[2] != others[0].Pins[2] || m.Pins[1] != others[1].Pins[1] {
		t.Error("the nodes' keys are not those that their custodians vouch for")
	}
	closeAll(t, [3]*relay.Meeting{m, others[0], others[1]})
}

// Somebody in between, who answers for a custodian with a key of his own, is found out at once.
func TestManInTheMiddle(t *testing.T) {
	b := newBodies(t, time.Minute)
	posing, err := keys.NewIdentity("cust-b")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var served sync.WaitGroup
	served.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Write(hello(t, posing, relay.Hello{By: "cust-b", Plan: plan(1), Pin: enclave.Digest{9}}))
		io.Copy(io.Discard, c)
		c.Close()
	})
	b.at["cust-b"] = l.Addr().String()
	j, _ := job(t, 0, plan(1))
	if _, err := b.relays["cust-a"].Meet(t.Context(), j); err == nil || !strings.Contains(err.Error(), `node of custodian "cust-b" is not it`) {
		t.Errorf("got %v", err)
	}
	l.Close()
	served.Wait()
}
