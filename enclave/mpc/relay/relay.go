// Package relay connects the compute nodes of a joint job, each of which is shut up with the custodian that drives it and
// reaches nothing but two sockets. Behind one of them is the node after it, behind the other the one before: the
// custodians meet first, tell each other their nodes' keys, and then carry bytes.
//
// A node's key is made for one job. Its custodian vouches for its pin with the signing key that the roster has for it, so
// neither the network nor whoever issues certificates can put a node of its own in between. What is carried is TLS from
// node to node (package link): a relay sees ciphertext, and can stop a job or delay it, no more.
package relay

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/internal/canon"
)

// KindHello is the first message on a connection between two relays, from either end.
const KindHello = "yingzhou.node-hello.v1"

// Hello is a custodian's word for the key that its node has in one job.
type Hello struct {
	By   string         `json:"by"`
	Plan enclave.Digest `json:"plan"`
	Pin  enclave.Digest `json:"pin"` // SHA-256 of the public key, as link.Pin
}

// AbsentError says whose node did not come.
type AbsentError struct {
	Custodian string
	Err       error
}

func (e *AbsentError) Error() string {
	return fmt.Sprintf("the node of custodian %q does not come: %v", e.Custodian, e.Err)
}

func (e *AbsentError) Unwrap() error { return e.Err }

// Config is one custodian's relay. Every field but Patience and Logger is needed.
type Config struct {
	Signer keys.Signer                                   // the custodian's
	Key    func(name string) (ed25519.PublicKey, error)  // of another custodian, from the roster
	Dial   func(context.Context, string) (Stream, error) // the relay of the custodian of that name
	// Patience is how long the others may take to come; 0 = one minute.
	Patience time.Duration
	Logger   *slog.Logger // nil = slog.Default
}

// Stream is a connection of which one direction can end before the other: TCP's, or a Unix socket's.
type Stream interface {
	net.Conn
	CloseWrite() error
}

// Relay is one custodian's. It serves all its jobs.
type Relay struct {
	cfg Config

	mu      sync.Mutex
	waiting map[enclave.Digest]*visit // by plan
}

// visit is a job whose node before this one is waited for.
type visit struct {
	from  string // its custodian
	reply []byte
	came  chan arrival  // holds the latest
	over  chan struct{} // closed when the job no longer waits
}

type arrival struct {
	conn Stream
	pin  link.Pin
}

const (
	maxHello  = 4 << 10 // bytes
	greeting  = 10 * time.Second
	strangers = 64 // connections that may be about to say who they are
	retry     = 100 * time.Millisecond
)

// New makes a relay. Nothing is connected yet.
func New(cfg Config) (*Relay, error) {
	if cfg.Signer == nil || cfg.Key == nil || cfg.Dial == nil {
		return nil, errors.New("relay: a required field is missing")
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Relay{cfg: cfg, waiting: map[enclave.Digest]*visit{}}, nil
}

// Serve takes connections of other custodians' relays until ctx ends, and closes the listener.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var g errgroup.Group
	g.SetLimit(strangers)
	defer g.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("listening for other custodians' nodes: %w", err)
		}
		if err != nil { // out of files, say: it passes
			r.cfg.Logger.WarnContext(ctx, "listening for other custodians' nodes", "error", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(retry):
				continue
			}
		}
		s, ok := conn.(Stream)
		if !ok {
			conn.Close()
			return fmt.Errorf("listening for other custodians' nodes: %T has no directions", conn)
		}
		g.Go(func() error {
			r.Take(ctx, s)
			return nil
		})
	}
}

// Take finds out for which job a connection of another relay is, and hands it over or closes it. It returns soon.
func (r *Relay) Take(ctx context.Context, s Stream) {
	err := r.greet(ctx, s)
	if err == nil {
		return
	}
	s.Close()
	if !errors.Is(err, errNotYet) {
		r.cfg.Logger.WarnContext(ctx, "a connection for a compute node was refused", "from", s.RemoteAddr().String(), "error", err)
	}
}

// errNotYet means that a relay that calls is too early, or too late.
var errNotYet = errors.New("no job of this custodian waits for it")

// greet finds out for which job a connection is and hands it over.
func (r *Relay) greet(ctx context.Context, s Stream) error {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.SetDeadline(time.Now().Add(greeting)); err != nil {
		return err
	}
	signed, h, err := readHello(s)
	if err != nil {
		return err
	}
	r.mu.Lock()
	v := r.waiting[h.Plan]
	r.mu.Unlock()
	if v == nil {
		return errNotYet
	}
	if h.By != v.from {
		return fmt.Errorf("custodian %q calls where %q is waited for", h.By, v.from)
	}
	if err := r.verify(signed, h); err != nil {
		return err
	}
	if _, err := s.Write(v.reply); err != nil {
		return err
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-v.over:
		return errNotYet
	default:
	}
	select {
	case old := <-v.came: // of an attempt that the peer has given up
		old.conn.Close()
	default:
	}
	v.came <- arrival{s, link.Pin(h.Pin)}
	return nil
}

func (r *Relay) verify(signed canon.Signed, h Hello) error {
	key, err := r.cfg.Key(h.By)
	if err != nil {
		return err
	}
	return signed.Verify(h.By, key)
}

// A hello is framed by its length in four bytes, big-endian. Nothing beyond it is read.
func readHello(s Stream) (signed canon.Signed, h Hello, err error) {
	var size [4]byte
	if _, err := io.ReadFull(s, size[:]); err != nil {
		return signed, h, fmt.Errorf("reading a hello: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxHello {
		return signed, h, fmt.Errorf("reading a hello: it has %d bytes, at most are %d", n, maxHello)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(s, data); err != nil {
		return signed, h, fmt.Errorf("reading a hello: %w", err)
	}
	if err := canon.Unmarshal(data, &signed); err != nil {
		return signed, h, fmt.Errorf("reading a hello: %w", err)
	}
	if err := signed.Open(KindHello, &h); err != nil {
		return signed, h, fmt.Errorf("reading a hello: %w", err)
	}
	return signed, h, nil
}

func frame(signed canon.Signed) ([]byte, error) {
	data, err := canon.Marshal(signed)
	if err == nil && len(data) > maxHello {
		err = fmt.Errorf("a hello of %d bytes", len(data))
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...), err
}

// Job is a node's place in a joint job.
type Job struct {
	Plan  enclave.Digest
	Party int
	Nodes []string // custodians, by party
	Pin   link.Pin // of this custodian's node
}

// Meet returns when the custodians of the two other nodes have come, or says which did not.
func (r *Relay) Meet(ctx context.Context, job Job) (*Meeting, error) {
	if len(job.Nodes) != mpc.Nodes || job.Party < 0 || job.Party >= mpc.Nodes || job.Nodes[job.Party] != r.cfg.Signer.Name() {
		return nil, fmt.Errorf("meeting for plan %s: custodian %q is not node %d of %q", job.Plan.Short(), r.cfg.Signer.Name(), job.Party, job.Nodes)
	}
	signed, err := keys.SealWith(r.cfg.Signer, KindHello, Hello{By: r.cfg.Signer.Name(), Plan: job.Plan, Pin: enclave.Digest(job.Pin)})
	if err != nil {
		return nil, fmt.Errorf("meeting for plan %s: %w", job.Plan.Short(), err)
	}
	hello, err := frame(signed)
	if err != nil {
		return nil, fmt.Errorf("meeting for plan %s: %w", job.Plan.Short(), err)
	}
	next, prev := (job.Party+1)%mpc.Nodes, (job.Party+mpc.Nodes-1)%mpc.Nodes
	v := &visit{from: job.Nodes[prev], reply: hello, came: make(chan arrival, 1), over: make(chan struct{})}
	r.mu.Lock()
	if r.waiting[job.Plan] != nil {
		r.mu.Unlock()
		return nil, fmt.Errorf("meeting for plan %s: this custodian waits for its nodes already", job.Plan.Short())
	}
	r.waiting[job.Plan] = v
	r.mu.Unlock()
	defer r.leave(job.Plan, v)

	patience, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	m := &Meeting{}
	m.Pins[job.Party] = job.Pin
	g, both := errgroup.WithContext(patience)
	g.Go(func() (err error) {
		m.next, m.Pins[next], err = r.call(both, job.Nodes[next], job.Plan, hello)
		return err
	})
	g.Go(func() error {
		select {
		case a := <-v.came:
			m.prev, m.Pins[prev] = a.conn, a.pin
			return nil
		case <-both.Done():
			return &AbsentError{job.Nodes[prev], errors.New("it has not called")}
		}
	})
	if err := g.Wait(); err != nil {
		m.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("meeting for plan %s: %w", job.Plan.Short(), err)
	}
	return m, nil
}

// leave ends a visit, with whoever came too late.
func (r *Relay) leave(plan enclave.Digest, v *visit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, plan)
	close(v.over)
	select {
	case a := <-v.came:
		a.conn.Close()
	default:
	}
}

// call connects to the relay of the node after this one, as soon as that waits for it.
func (r *Relay) call(ctx context.Context, name string, plan enclave.Digest, hello []byte) (Stream, link.Pin, error) {
	for {
		s, pin, err := r.callOnce(ctx, name, plan, hello)
		var wrong *wrongError
		if err == nil || errors.As(err, &wrong) {
			return s, pin, err
		}
		select {
		case <-ctx.Done():
			return nil, pin, &AbsentError{name, err}
		case <-time.After(retry):
		}
	}
}

// wrongError is an answer by somebody else, or about something else: asking again does not help.
type wrongError struct {
	name string
	err  error
}

func (e *wrongError) Error() string {
	return fmt.Sprintf("who answers for the node of custodian %q is not it: %v", e.name, e.err)
}

func (e *wrongError) Unwrap() error { return e.err }

func (r *Relay) callOnce(ctx context.Context, name string, plan enclave.Digest, hello []byte) (Stream, link.Pin, error) {
	var pin link.Pin
	s, err := r.cfg.Dial(ctx, name)
	if err != nil {
		return nil, pin, err
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	fail := func(err error) (Stream, link.Pin, error) { s.Close(); return nil, pin, err }
	if err := s.SetDeadline(time.Now().Add(greeting)); err != nil {
		return fail(err)
	}
	if _, err := s.Write(hello); err != nil {
		return fail(err)
	}
	signed, h, err := readHello(s)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fail(errNotYet)
	case err != nil:
		return fail(err)
	}
	if h.By != name || h.Plan != plan {
		return fail(&wrongError{name, fmt.Errorf("it is %q at plan %s", h.By, h.Plan.Short())})
	}
	if err := r.verify(signed, h); err != nil {
		return fail(&wrongError{name, err})
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		return fail(err)
	}
	if !stop() { // the context ended, and the connection with it
		return fail(context.Cause(ctx))
	}
	return s, link.Pin(h.Pin), nil
}
