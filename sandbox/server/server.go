// Package server offers the control plane as a service: lab.v1 over gRPC and, on the same port, the same calls as JSON.
// It authenticates by certificate and roster, translates, and maps errors; what a call may do is decided by the packages
// that it calls, and by custodians after that. It holds no keys and opens nothing.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// Log is what the service shows of the audit log.
type Log interface {
	Checkpoint(ctx context.Context) (string, enclave.Checkpoint, error)
	Entries(ctx context.Context, from, to int64) iter.Seq2[audit.Record, error]
	Prove(ctx context.Context, index int64) (enclave.LogProof, error)
	Consistency(ctx context.Context, from, to int64) ([]enclave.Digest, error)
}

// Node says what runs jobs.
type Node interface {
	WorkerDigests(ctx context.Context) ([]enclave.Digest, error)
	Isolation(ctx context.Context) (isolation, why string, err error)
}

// Address is where a custodian can be reached.
type Address struct{ Name, Address string }

// Config is what the service works with. All fields but those that say so are required.
type Config struct {
	Name       string // the lab's
	Lab        *lab.Lab
	Registry   *registry.Registry
	Log        Log
	Blobs      *store.Store
	Node       Node
	Jobs       *Watchers
	RootKey    []byte
	TLS        *tls.Config           // as pki.Source.Server makes it
	Custodians []Address             // may be empty
	Extra      func(Registrar)       // registers further services; may be nil
	Methods    rpc.Table             // of the further services
	PerPeer    rpc.Rate              // zero = no limit
	MaxBlob    int64                 // bytes; 0 = 64 GiB
	Drain      time.Duration         // how long calls under way have when the service ends; 0 = 30 s
	Metrics    prometheus.Registerer // may be nil
	Stats      []grpc.ServerOption   // tracing; may be empty
	Clock      func() time.Time      // nil = time.Now
	Logger     *slog.Logger          // nil = slog.Default
}

// Registrar takes services; they are offered over both protocols.
type Registrar = grpc.ServiceRegistrar

const (
	defaultMaxBlob = 64 << 30
	defaultDrain   = 30 * time.Second
)

// Server is the service. Serve may be called once.
type Server struct {
	cfg      Config
	rpc      *rpc.Server
	json     *transcoder
	stopping chan struct{} // closed when the service is to end: watchers are sent away

	mu     sync.Mutex
	latest *operators.Roster
	read   time.Time
}

// New wires the service. Nothing listens yet.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Name == "", cfg.Lab == nil, cfg.Registry == nil, cfg.Log == nil, cfg.Blobs == nil, cfg.Node == nil, cfg.Jobs == nil, cfg.RootKey == nil, cfg.TLS == nil:
		return nil, errors.New("server: a required field of the configuration is missing")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MaxBlob == 0 {
		cfg.MaxBlob = defaultMaxBlob
	}
	if cfg.Drain == 0 {
		cfg.Drain = defaultDrain
	}
	s := &Server{cfg: cfg, stopping: make(chan struct{})}
	var err error
	s.rpc, err = rpc.NewServer(cfg.TLS, rpc.Config{Methods: rpc.Merge(Methods(), cfg.Methods), Identify: s.identify, Admit: s.admit, Status: Status,
		PerPeer: cfg.PerPeer, Logger: cfg.Logger, Metrics: cfg.Metrics, Stats: cfg.Stats, Drain: cfg.Drain, Clock: cfg.Clock})
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s.json = newTranscoder(s.rpc.Guard, rpc.Merge(Methods(), cfg.Methods, rpc.Platform()))
	both := registrars{s.rpc.Server, s.json}
	s.register(both)
	if cfg.Extra != nil {
		cfg.Extra(both)
	}
	healthpb.RegisterHealthServer(s.json, s.rpc.Health)
	for name := range s.rpc.GetServiceInfo() {
		s.rpc.Health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	return s, nil
}

// register offers the control plane's own services.
func (s *Server) register(r Registrar) {
	labv1.RegisterLabServiceServer(r, labService{s: s})
	labv1.RegisterCatalogServiceServer(r, catalogService{s: s})
	labv1.RegisterOperatorServiceServer(r, operatorService{s: s})
	labv1.RegisterJobServiceServer(r, jobService{s: s})
	labv1.RegisterReleaseServiceServer(r, releaseService{s: s})
	labv1.RegisterAuditServiceServer(r, auditService{s: s})
	labv1.RegisterCollectionServiceServer(r, collectionService{s: s})
}

// registrars registers a service with several.
type registrars []Registrar

func (rs registrars) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for _, r := range rs {
		r.RegisterService(desc, impl)
	}
}

// identify reads the caller's name from its certificate.
func (s *Server) identify(cert *x509.Certificate) (rpc.Peer, error) {
	n, err := pki.FromCert(cert)
	if err == nil && n.Lab != s.cfg.Name {
		err = fmt.Errorf("%w: it is of lab %q", pki.ErrName, n.Lab)
	}
	return rpc.Peer{Name: n.Party, Role: n.Role}, err
}

// rosterAge bounds how long somebody who has left is still let in: every call asks for the roster, and reading it means
// reading the whole record.
const rosterAge = time.Second

// roster is the roster as it was a moment ago at most.
func (s *Server) roster(ctx context.Context) (*operators.Roster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest != nil && s.cfg.Clock().Sub(s.read) < rosterAge {
		return s.latest, nil
	}
	_, roster, err := s.cfg.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	s.latest, s.read = roster, s.cfg.Clock()
	return roster, nil
}

// forgetRoster makes the next call read a new one.
func (s *Server) forgetRoster() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = nil
}

// admit holds a caller against the roster as it is now: who has left is out, whatever the certificate says.
func (s *Server) admit(ctx context.Context, p rpc.Peer) error {
	roster, err := s.roster(ctx)
	if err != nil {
		s.cfg.Logger.ErrorContext(ctx, "reading the roster", "error", err)
		return rpc.Errorf(codes.Unavailable, "the roster cannot be read now")
	}
	party, ok := roster.Find(p.Name)
	switch {
	case !ok:
		return operators.ErrUnknown
	case party.Absent:
		return operators.ErrAbsent
	case string(party.Role) != p.Role:
		return operators.ErrRole
	}
	return nil
}

// ServeHTTP sends gRPC and JSON their ways.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		s.rpc.ServeHTTP(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/openapi.json":
		w.Header().Set("Content-Type", "application/json")
		w.Write(labv1.OpenAPI)
	default:
		s.json.ServeHTTP(w, r)
	}
}

// Serve answers calls until ctx ends. Then health says so, watchers are told to come back, new connections are refused,
// and calls under way have until Config.Drain to finish.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler: s, TLSConfig: s.cfg.TLS, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 15 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 256, SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second, MaxReceiveBufferPerStream: 4 << 20, MaxReceiveBufferPerConnection: 16 << 20},
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := h.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving on %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		s.rpc.Health.Shutdown()
		close(s.stopping)
		// Calls under way outlive the request to end.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Drain)
		defer cancel()
		if err := h.Shutdown(end); err != nil {
			s.cfg.Logger.WarnContext(ctx, "calls were cut off", "after", s.cfg.Drain)
			return h.Close()
		}
		return nil
	})
	return g.Wait()
}
