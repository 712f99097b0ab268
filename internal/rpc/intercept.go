package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Rate bounds what one caller may ask for.
type Rate struct {
	PerSecond float64 // cost of calls begun; 0 = no limit
	Burst     int     // saved up while idle; 0 = one second's worth
	AtOnce    int     // calls under way; 0 = no limit
}

// Guard holds the interceptors. All methods share one state, so a server that speaks another protocol beside gRPC uses
// the same ones.
type Guard struct {
	cfg     Config
	metrics *metrics

	mu    sync.Mutex
	peers map[Peer]*quota
}

type quota struct {
	limit   *rate.Limiter
	running int // guarded by Guard.mu
}

// NewGuard checks the configuration and registers metrics.
func NewGuard(cfg Config) (*Guard, error) {
	if len(cfg.Methods) == 0 || cfg.Identify == nil {
		return nil, errors.New("rpc: want a table of methods and a way to identify callers")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	return &Guard{cfg: cfg, metrics: m, peers: map[Peer]*quota{}}, nil
}

// call is one request on its way through.
type call struct {
	method string
	row    Method
	peer   Peer
	id     string
	start  time.Time
}

// enter decides whether a call may begin. The context that it returns carries caller and id and ends at the row's
// deadline; done must be called with the handler's error and gives what the caller sees.
func (g *Guard) enter(ctx context.Context, method string) (_ context.Context, done func(error) error, row Method, err error) {
	c := &call{method: method, id: requestID(ctx), start: g.cfg.Clock()}
	ctx = context.WithValue(ctx, idKey, c.id)
	release, err := g.admit(ctx, c)
	if err != nil {
		return ctx, nil, Method{}, g.leave(ctx, c, err)
	}
	cancel := func() {}
	if c.row.Deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, c.row.Deadline)
	}
	ctx = context.WithValue(ctx, peerKey, c.peer)
	return ctx, func(err error) error {
		defer cancel()
		release()
		return g.leave(ctx, c, err)
	}, c.row, nil
}

func (g *Guard) admit(ctx context.Context, c *call) (release func(), err error) {
	cert, err := certificate(ctx)
	if err != nil {
		return nil, Errorf(codes.Unauthenticated, "%v", err)
	}
	if c.peer, err = g.cfg.Identify(cert); err != nil {
		return nil, Errorf(codes.Unauthenticated, "certificate of the caller: %v", err)
	}
	row, ok := g.cfg.Methods[c.method]
	if !ok {
		return nil, Errorf(codes.Unimplemented, "there is no method %s", c.method)
	}
	if !slices.Contains(row.Roles, Anyone) && !slices.Contains(row.Roles, c.peer.Role) {
		return nil, Errorf(codes.PermissionDenied, "%s is for the roles %q; %q is a %s", c.method, row.Roles, c.peer.Name, c.peer.Role)
	}
	c.row = row
	if g.cfg.Admit != nil {
		if err := g.cfg.Admit(ctx, c.peer); err != nil {
			code := codes.PermissionDenied
			var said *Error // it could not be judged now
			if errors.As(err, &said) {
				code = said.Code
			}
			return nil, Errorf(code, "%q is not let in: %v", c.peer.Name, err)
		}
	}
	return g.take(c)
}

// take books a call on its caller's account.
func (g *Guard) take(c *call) (release func(), err error) {
	limits := g.cfg.PerPeer
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.peers[c.peer]
	if q == nil {
		q = &quota{limit: rate.NewLimiter(rate.Inf, 0)}
		if limits.PerSecond > 0 {
			burst := limits.Burst
			if burst == 0 {
				burst = max(1, int(limits.PerSecond))
			}
			q.limit = rate.NewLimiter(rate.Limit(limits.PerSecond), burst)
		}
		g.peers[c.peer] = q
	}
	if limits.AtOnce > 0 && q.running >= limits.AtOnce {
		return nil, Errorf(codes.ResourceExhausted, "%q has %d calls under way, the most it may", c.peer.Name, q.running)
	}
	if !q.limit.AllowN(c.start, max(1, c.row.Cost)) {
		return nil, Errorf(codes.ResourceExhausted, "%q asks too often; wait and try again", c.peer.Name)
	}
	q.running++
	g.metrics.running.Inc()
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		q.running--
		g.metrics.running.Dec()
	}, nil
}

// leave turns a handler's error into what the caller may see, and records the call.
func (g *Guard) leave(ctx context.Context, c *call, err error) error {
	st := g.status(c, err)
	took := g.cfg.Clock().Sub(c.start)
	g.metrics.observe(c.method, c.row.Roles != nil, st.Code(), took)
	level := slog.LevelInfo
	if st.Code() == codes.Internal {
		level = slog.LevelError
	} else if err == nil {
		level = slog.LevelDebug
	}
	attrs := []any{"method", c.method, "peer", c.peer.Name, "role", c.peer.Role, "code", st.Code().String(), "took", took, "request_id", c.id}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	g.cfg.Logger.Log(context.WithoutCancel(ctx), level, "call", attrs...)
	return st.Err()
}

func (g *Guard) status(c *call, err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	if g.cfg.Status != nil {
		if st, ok := g.cfg.Status(err); ok {
			return st
		}
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return status.New(e.Code, e.Text)
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "it took too long; request "+c.id)
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the caller left")
	default:
		return status.New(codes.Internal, "internal error; request "+c.id)
	}
}

// Unary is the interceptor of calls with one answer.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	ctx, done, row, err := g.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	grpc.SetHeader(ctx, metadata.Pairs(HeaderID, RequestID(ctx))) // fails outside gRPC, where another protocol sets its own
	if err := row.fits(req); err != nil {
		return nil, done(err)
	}
	resp, err := handle(ctx, req)
	if err = done(err); err != nil {
		return nil, err
	}
	return resp, nil
}

// Stream is the interceptor of calls with many answers.
func (g *Guard) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, done, row, err := g.enter(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	ss.SetHeader(metadata.Pairs(HeaderID, RequestID(ctx)))
	return done(handle(srv, &stream{ServerStream: ss, ctx: ctx, row: row}))
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
	row Method
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.row.fits(m)
}

// SendMsg gives up at the row's deadline. A receiver that reads nothing holds the call in the send before until it leaves:
// Rate.AtOnce bounds how many calls a caller can hold.
func (s *stream) SendMsg(m any) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (m Method) fits(msg any) error {
	limit := m.Max
	if limit == 0 {
		limit = defaultMax
	}
	if p, ok := msg.(proto.Message); ok {
		if n := proto.Size(p); n > limit {
			return Errorf(codes.ResourceExhausted, "message of %d bytes, the method takes %d", n, limit)
		}
	}
	return nil
}

type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	running prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "yingzhou_rpc_calls_total", Help: "Calls answered, by method and gRPC code."},
			[]string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "yingzhou_rpc_seconds", Help: "Time to answer a call.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)}, []string{"method"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "yingzhou_rpc_running", Help: "Calls under way."}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds, m.running} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// observe counts a call. A method that is not in the table, or that the caller may not use, is counted under one label:
// labels come from closed sets.
func (m *metrics) observe(method string, known bool, code codes.Code, took time.Duration) {
	if !known {
		method = "refused"
	}
	m.calls.WithLabelValues(method, code.String()).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}
