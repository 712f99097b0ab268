package release_test

import (
	"context"
	"crypto/x509"
	"io"
	"iter"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/feed"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/release/service"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/pki/pkitest"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox/audit"
	labfeed "yingzhou.dev/lab/sandbox/feed"
	"yingzhou.dev/lab/sandbox/gate"
)

// wire is a world whose custodians are servers at three addresses, with mutual TLS, reached over links that a test can
// cut, and with a control plane that a test can make lie.
type wire struct {
	*world
	ca        *pkitest.CA
	plane     *plane
	labd      *rpc.Server
	addresses map[string]string // of each server
	mu        sync.Mutex        // guards addresses
	links     map[[2]string]*link
	nodes     map[string]*node
}

// node is a custodian's server.
type node struct {
	server *rpc.Server
	peers  map[string]*service.Peer
	stop   func()
}

const theLab = "lab"

// networked puts a world's custodians, as they are, on the network.
func networked(w *world) *wire {
	w.t.Helper()
	n := &wire{world: w, ca: pkitest.New(w.t, "test", nil), addresses: map[string]string{}, links: map[[2]string]*link{}, nodes: map[string]*node{}}
	n.plane = &plane{Log: w.log, blobs: w.blobs, views: map[string]*audit.Log{}}
	servers := append([]string{theLab}, custodianNames...)
	for _, from := range servers {
		for _, to := range servers {
			if from != to {
				n.links[[2]string{from, to}] = newLink(w.t, func() string { return n.address(to) })
			}
		}
	}
	server, err := rpc.NewServer(n.ca.Source(w.t, "lab", theLab).Server(), rpc.Config{Methods: labfeed.Methods(), Identify: identify, Logger: quiet})
	w.check(err)
	labfeed.Register(server, n.plane, n.plane)
	n.labd = server
	n.listen(theLab, server)
	for _, name := range custodianNames {
		w.check(w.custodians[name].Close())
		n.start(name)
	}
	return n
}

func overTheWire(t testing.TB) *wire { return networked(ready(t)) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func identify(c *x509.Certificate) (rpc.Peer, error) {
	name, err := pki.FromCert(c)
	return rpc.Peer{Name: name.Party, Role: name.Role}, err
}

func (n *wire) address(server string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addresses[server]
}

// listen serves at a new address until the function that it returns is called, or the test ends.
func (n *wire) listen(name string, server *rpc.Server) (stop func()) {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	n.check(err)
	n.mu.Lock()
	n.addresses[name] = l.Addr().String()
	n.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- server.Serve(context.Background(), l) }()
	stop = sync.OnceFunc(func() {
		server.Stop() // at once, as a crash would
		if err := <-done; err != nil {
			n.t.Errorf("%s: %v", name, err)
		}
	})
	n.t.Cleanup(stop)
	return stop
}

// dial connects one party with a server, over their link if they have one.
func (n *wire) dial(src *pki.Source, from, to, role string) *grpc.ClientConn {
	n.t.Helper()
	address := n.address(to)
	if l := n.links[[2]string{from, to}]; l != nil {
		address = l.address
	}
	conn, err := rpc.Dial(address, src.Client(pki.Name{Lab: "test", Role: role, Party: to}))
	n.check(err)
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// start opens a custodian from its folder and serves it.
func (n *wire) start(name string) {
	n.t.Helper()
	src := n.ca.Source(n.t, "custodian", name)
	from := feed.New(n.dial(src, name, theLab, "lab"))
	c := n.openCustodianFrom(name, from, from)
	nd := &node{peers: map[string]*service.Peer{}}
	cfg := service.Config{Custodian: c, Open: n.ids[name].Open, Logger: quiet}
	for _, other := range custodianNames {
		if other != name {
			nd.peers[other] = service.NewPeer(other, n.dial(src, name, other, "custodian"), name, c.Roster, n.ids[name].Open)
			cfg.Peers = append(cfg.Peers, nd.peers[other])
		}
	}
	var err error
	nd.server, err = rpc.NewServer(src.Server(), rpc.Config{Methods: custodian.Methods(), Identify: identify, Admit: service.Admit(c.Roster), Status: service.Status, Logger: quiet})
	n.check(err)
	_, err = service.Register(nd.server, cfg)
	n.check(err)
	nd.stop = n.listen(name, nd.server)
	n.nodes[name] = nd
}

// stop ends a custodian's process.
func (n *wire) stop(name string) {
	n.t.Helper()
	n.nodes[name].stop()
	n.check(n.custodians[name].Close())
}

func (n *wire) reboot(name string) {
	n.t.Helper()
	n.stop(name)
	n.start(name)
}

// client asks a custodian as the control plane does.
func (n *wire) client(name string) *custodian.Client {
	n.t.Helper()
	return custodian.New(name, n.dial(n.ca.Source(n.t, "lab", theLab), theLab, name, "custodian"))
}

func (n *wire) gate() *gate.Gate {
	n.t.Helper()
	var clients []*custodian.Client
	for _, name := range custodianNames {
		clients = append(clients, n.client(name))
	}
	g, err := gate.New(clients...)
	n.check(err)
	return g
}

// journal reads a custodian's own record of refusals.
func (n *wire) journal(name string) []release.Refused {
	n.t.Helper()
	lines, err := release.ReadJournal(filepath.Join(n.dir, name, "state"))
	n.check(err)
	return lines
}

// plane is what the control plane shows custodians. Without any hook it is honest.
type plane struct {
	*audit.Log
	blobs store.Source

	mu         sync.Mutex
	views      map[string]*audit.Log // a log of its own for a custodian
	checkpoint func(ctx context.Context, who string) (string, bool)
	append     func(ctx context.Context, who string, entries []enclave.Entry) ([]enclave.LogProof, error, bool)
	blob       func(ctx context.Context, who string, d enclave.Digest, offset int64) (io.ReadCloser, error, bool)
}

func (p *plane) lie(change func(p *plane)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *plane) honest() {
	p.lie(func(p *plane) { p.checkpoint, p.append, p.blob, p.views = nil, nil, nil, map[string]*audit.Log{} })
}

func asker(ctx context.Context) string {
	peer, _ := rpc.PeerFrom(ctx)
	return peer.Name
}

func (p *plane) view(ctx context.Context) *audit.Log {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.views[asker(ctx)]; l != nil {
		return l
	}
	return p.Log
}

func (p *plane) Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error) {
	p.mu.Lock()
	hook := p.append
	p.mu.Unlock()
	if hook != nil {
		if proofs, err, done := hook(ctx, asker(ctx), entries); done {
			return proofs, err
		}
	}
	return p.view(ctx).Append(ctx, entries...)
}

func (p *plane) Checkpoint(ctx context.Context) (string, enclave.Checkpoint, error) {
	p.mu.Lock()
	hook := p.checkpoint
	p.mu.Unlock()
	text, cp, err := p.view(ctx).Checkpoint(ctx)
	if hook != nil {
		if lie, ok := hook(ctx, asker(ctx)); ok {
			return lie, cp, nil
		}
	}
	return text, cp, err
}

func (p *plane) Entries(ctx context.Context, from, to int64) iter.Seq2[audit.Record, error] {
	return p.view(ctx).Entries(ctx, from, to)
}

func (p *plane) ReadBlob(ctx context.Context, d enclave.Digest, offset int64) (io.ReadCloser, error) {
	p.mu.Lock()
	hook := p.blob
	p.mu.Unlock()
	if hook != nil {
		if r, err, done := hook(ctx, asker(ctx), d, offset); done {
			return r, err
		}
	}
	return p.blobs.ReadBlob(ctx, d, offset)
}

// link is a network between two parties: it passes bytes on, slowly if told so, or not at all.
type link struct {
	address string
	target  func() string

	mu    sync.Mutex
	cut   bool
	broke chan struct{} // closed when the link is cut
	delay time.Duration // before each part of at most 16 KiB
	conns map[net.Conn]bool
}

func newLink(t testing.TB, target func() string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{address: listener.Addr().String(), target: target, broke: make(chan struct{}), conns: map[net.Conn]bool{}}
	var g sync.WaitGroup
	g.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			g.Go(func() { l.pass(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.set(true)
		g.Wait()
	})
	return l
}

// set cuts or mends the link.
func (l *link) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cut && !l.cut {
		close(l.broke)
		for c := range l.conns {
			c.Close()
		}
	} else if !cut && l.cut {
		l.broke = make(chan struct{})
	}
	l.cut = cut
}

func (l *link) slow(delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = delay
}

func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut {
		l.conns[c] = true
	}
	return !l.cut
}

func (l *link) drop(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	c.Close()
}

func (l *link) pass(in net.Conn) {
	if !l.keep(in) {
		in.Close()
		return
	}
	defer l.drop(in)
	out, err := net.Dial("tcp", l.target())
	if err != nil {
		return
	}
	if !l.keep(out) {
		out.Close()
		return
	}
	defer l.drop(out)
	var g sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		g.Go(func() {
			l.copy(way[1], way[0])
			in.Close()
			out.Close()
		})
	}
	g.Wait()
}

func (l *link) copy(to, from net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		delay, broke := l.delay, l.broke
		l.mu.Unlock()
		if delay > 0 { // the slowness of the network itself, not a wait for somebody
			select {
			case <-time.After(delay):
			case <-broke:
				return
			}
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cutOff cuts every link of a party, or mends them.
func (n *wire) cutOff(name string, cut bool) {
	for ends, l := range n.links {
		if ends[0] == name || ends[1] == name {
			l.set(cut)
		}
	}
}

// between cuts or mends the links between two parties.
func (n *wire) between(a, b string, cut bool) {
	n.links[[2]string{a, b}].set(cut)
	n.links[[2]string{b, a}].set(cut)
}

func (w *world) copyFolder(from, to string) {
	w.t.Helper()
	w.check(exec.Command("cp", "-a", from, to).Run())
}

func (w *world) replaceFolder(from, to string) {
	w.t.Helper()
	w.check(os.RemoveAll(to))
	w.copyFolder(from, to)
}

type readCloser = io.ReadCloser
