package link

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave/mpc"
)

// Pin is the SHA-256 of a node's public key as its certificate has it (SubjectPublicKeyInfo).
type Pin [sha256.Size]byte

// PinOf is the pin of a certificate.
func PinOf(c tls.Certificate) (Pin, error) {
	if c.Leaf == nil {
		return Pin{}, errors.New("pinning certificate: it is not parsed")
	}
	return sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo), nil
}

// Config is one node's part in a job. Every field but the durations is needed.
type Config struct {
	Party       int // 0, 1 or 2
	Certificate tls.Certificate
	Peers       [mpc.Nodes]Pin
	// Job names the job, the same at all three nodes. Nodes of different jobs refuse each other.
	Job mpc.Digest
	// Listener is where the node before this one connects; connections of others are dropped. Connect closes it.
	Listener net.Listener
	// Dial connects to the node after this one, whose listener may not be up yet: Connect tries until its context ends.
	Dial func(ctx context.Context) (net.Conn, error)
	// Handshake is how long a connection may take to prove whose it is; 0 = ten seconds. Where a custodian has made sure of
	// the other end already, no stranger waits for it, and a peer that still loads its shares may need longer.
	Handshake time.Duration
	// Stall is how long a peer may keep a connection waiting in either direction, while it computes too; 0 = two minutes.
	Stall time.Duration
}

// Mesh is a node's two connections: to the node after it and to the one before, in the circle 0, 1, 2.
type Mesh struct {
	Next, Prev *Conn
	stop       func() bool // watching the context
}

// Names of the sockets that a node is given where its custodian carries its connections (package relay).
const (
	Next = "next" // to the node after it
	Prev = "prev" // to the one before
)

const (
	retry    = 50 * time.Millisecond
	exporter = "EXPORTER-yingzhou-mpc-v1"
)

// Connect returns when both connections stand and both peers named the same job, or when ctx ends. When ctx ends later,
// both connections break.
func Connect(ctx context.Context, cfg Config) (*Mesh, error) {
	defer cfg.Listener.Close()
	if cfg.Party < 0 || cfg.Party >= mpc.Nodes {
		return nil, fmt.Errorf("connecting node: there is no node %d", cfg.Party)
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("connecting node: words travel in little-endian order, which this machine has not")
	}
	if cfg.Stall == 0 {
		cfg.Stall = 2 * time.Minute
	}
	if cfg.Handshake == 0 {
		cfg.Handshake = 10 * time.Second
	}
	m := &Mesh{}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		m.Next, err = cfg.dial(both, (cfg.Party+1)%mpc.Nodes)
		return err
	})
	g.Go(func() (err error) {
		m.Prev, err = cfg.accept(both, (cfg.Party+mpc.Nodes-1)%mpc.Nodes)
		return err
	})
	if err := g.Wait(); err != nil {
		m.Close()
		return nil, fmt.Errorf("connecting node %d: %w", cfg.Party, err)
	}
	m.stop = context.AfterFunc(ctx, func() {
		m.Next.raw.Close()
		m.Prev.raw.Close()
	})
	return m, nil
}

// Abort tells both peers that the job has failed, and closes the connections.
func (m *Mesh) Abort(blames int) {
	var g errgroup.Group
	for _, c := range []*Conn{m.Next, m.Prev} {
		g.Go(func() error { c.Abort(blames); return nil })
	}
	g.Wait()
	m.stop()
}

// Close ends both connections after what was sent.
func (m *Mesh) Close() {
	for _, c := range []*Conn{m.Next, m.Prev} {
		if c != nil {
			c.Close()
		}
	}
	if m.stop != nil {
		m.stop()
	}
}

func (cfg *Config) dial(ctx context.Context, peer int) (*Conn, error) {
	for {
		conn, err := cfg.Dial(ctx)
		if err == nil {
			return cfg.shake(ctx, conn, peer, tls.Client)
		}
		select {
		case <-ctx.Done():
			return nil, &mpc.PartyError{Party: peer, Step: "dialling", Err: fmt.Errorf("%w: %v", mpc.ErrGone, err)}
		case <-time.After(retry):
		}
	}
}

// strangers is how many connections may try at a time to prove that they are the peer's: a silent one holds its place for
// as long as a handshake may take.
const strangers = 64

// accept takes the first connection that proves to be the peer's.
func (cfg *Config) accept(ctx context.Context, peer int) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { cfg.Listener.Close() })
	defer stop()
	var mu sync.Mutex
	var found *Conn
	var last error
	var g errgroup.Group
	g.SetLimit(strangers)
	for {
		conn, err := cfg.Listener.Accept()
		if err != nil {
			mu.Lock()
			if last == nil {
				last = err
			}
			mu.Unlock()
			break
		}
		g.Go(func() error {
			c, err := cfg.shake(ctx, conn, peer, tls.Server)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				last = err
				if errors.Is(err, errOtherJob) { // it is the peer
					cancel()
				}
			case found != nil:
				c.Close()
			default:
				found = c
				cancel() // the listener and other handshakes
			}
			return nil
		})
	}
	g.Wait()
	switch {
	case found != nil:
		return found, nil
	case errors.Is(last, errOtherJob):
		return nil, last
	}
	return nil, &mpc.PartyError{Party: peer, Step: "accepting", Err: fmt.Errorf("%w: %v", mpc.ErrGone, last)}
}

var errOtherJob = errors.New("peer is at another job")

func (cfg *Config) shake(ctx context.Context, conn net.Conn, peer int, side func(net.Conn, *tls.Config) *tls.Conn) (*Conn, error) {
	raw := coalesce(conn)
	t := side(raw, cfg.tls(peer))
	limit, cancel := context.WithTimeout(ctx, cfg.Handshake)
	defer cancel()
	failed := func(err error) (*Conn, error) {
		conn.Close()
		return nil, &mpc.PartyError{Party: peer, Step: "handshake", Err: err}
	}
	if err := t.HandshakeContext(limit); err != nil {
		return failed(fmt.Errorf("%w: %v", mpc.ErrMalformed, err))
	}
	state := t.ConnectionState()
	secret, err := state.ExportKeyingMaterial(exporter, cfg.Job[:], 32)
	if err != nil {
		return failed(err)
	}
	c := newConn(peer, raw, t, cfg.Stall)
	c.secret = secret
	raw.buffered()
	go c.write()
	if err := cfg.hello(c); err != nil {
		c.Close()
		return failed(err)
	}
	return c, nil
}

// tls is the configuration towards one peer. Nothing but its key identifies it.
func (cfg *Config) tls(peer int) *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{cfg.Certificate},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, // VerifyConnection compares the pin instead
		MinVersion:                  tls.VersionTLS13,
		CurvePreferences:            []tls.CurveID{tls.X25519MLKEM768},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo) != cfg.Peers[peer] {
				return fmt.Errorf("peer does not have the key of node %d", peer)
			}
			return nil
		},
	}
}

// hello makes sure that both ends mean the same job and the same places in it.
func (cfg *Config) hello(c *Conn) error {
	words := make([]uint64, 5)
	words[0] = uint64(cfg.Party)
	for i := range 4 {
		words[i+1] = binary.LittleEndian.Uint64(cfg.Job[8*i:])
	}
	if err := c.frame(kindHello, 0, words); err != nil {
		return err
	}
	length, kind, _, err := c.header()
	if err != nil {
		return err
	}
	theirs := make([]uint64, len(words))
	if kind != kindHello || length != 8*len(theirs) {
		return fmt.Errorf("%w: no hello", mpc.ErrMalformed)
	}
	if _, err := io.ReadFull(c.tls, view(theirs)); err != nil {
		return network(err)
	}
	words[0] = uint64(c.peer)
	if !slices.Equal(theirs, words) {
		return errOtherJob
	}
	return nil
}
