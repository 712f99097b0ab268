package rpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/prometheus/client_golang/prometheus"

	"yingzhou.dev/lab/internal/rpc"
)

// authority issues certificates whose common name is "role/name".
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.key, a.cert = a.make("ca", true, time.Now().Add(time.Hour), nil, nil)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) make(name string, ca bool, until time.Time, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: []string{"server"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ca {
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

func (a *authority) config(name string, until time.Time) *tls.Config {
	key, cert := a.make(name, false, until, a.cert, a.key)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		RootCAs: a.pool, ClientCAs: a.pool, ServerName: "server", ClientAuth: tls.RequireAndVerifyClientCert}
}

func identify(c *x509.Certificate) (rpc.Peer, error) {
	role, name, ok := strings.Cut(c.Subject.CommonName, "/")
	if !ok {
		return rpc.Peer{}, errors.New("no role")
	}
	return rpc.Peer{Name: name, Role: role}, nil
}

// probe is a health server that a test replaces the answer of.
type probe struct {
	healthpb.UnimplementedHealthServer
	check func(ctx context.Context) error
}

func (p *probe) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, p.check(ctx)
}

const checkMethod = "/grpc.health.v1.Health/Check"

// echo registers the probe under another service name, so that it does not meet the server's own health service.
func (p *probe) desc() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "test.Echo", HandlerType: (*healthpb.HealthServer)(nil), Methods: []grpc.MethodDesc{{MethodName: "Check",
		Handler: func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := new(healthpb.HealthCheckRequest)
			if err := dec(in); err != nil {
				return nil, err
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/test.Echo/Check"}, func(ctx context.Context, req any) (any, error) {
				return srv.(healthpb.HealthServer).Check(ctx, req.(*healthpb.HealthCheckRequest))
			})
		}}}}
}

func serve(t *testing.T, ca *authority, cfg rpc.Config, p *probe) (address string, stop func()) {
	t.Helper()
	cfg.Identify = identify
	s, err := rpc.NewServer(ca.config("lab/server", time.Now().Add(time.Hour)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.RegisterService(p.desc(), p)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func invoke(ctx context.Context, t *testing.T, address string, config *tls.Config, req *healthpb.HealthCheckRequest, method string, opts ...grpc.CallOption) error {
	t.Helper()
	conn, err := rpc.Dial(address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.Invoke(ctx, method, req, new(healthpb.HealthCheckResponse), opts...)
}

func TestWhoMayCall(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	address, _ := serve(t, ca, rpc.Config{Methods: rpc.Table{"/test.Echo/Check": {Roles: []string{"custodian"}, Deadline: time.Minute}},
		Admit: func(_ context.Context, p rpc.Peer) error {
			if p.Name == "left" {
				return errors.New("has left")
			}
			return nil
		}}, &probe{check: func(ctx context.Context) error {
		if p, ok := rpc.PeerFrom(ctx); !ok || p != (rpc.Peer{Name: "a", Role: "custodian"}) {
			return fmt.Errorf("peer is %v", p)
		}
		return nil
	}})
	hour := time.Now().Add(time.Hour)
	tampered := foreign.config("custodian/a", hour)
	tampered.RootCAs = ca.pool // believes the server; the server must not believe it
	for name, c := range map[string]struct {
		config *tls.Config
		method string
		size   int
		want   codes.Code
	}{
		"good":               {ca.config("custodian/a", hour), "/test.Echo/Check", 0, codes.OK},
		"other role":         {ca.config("lab/a", hour), "/test.Echo/Check", 0, codes.PermissionDenied},
		"not in the roster":  {ca.config("custodian/left", hour), "/test.Echo/Check", 0, codes.PermissionDenied},
		"no role":            {ca.config("a", hour), "/test.Echo/Check", 0, codes.Unauthenticated},
		"expired":            {ca.config("custodian/a", time.Now().Add(-time.Minute)), "/test.Echo/Check", 0, codes.Unavailable},
		"foreign authority":  {tampered, "/test.Echo/Check", 0, codes.Unavailable},
		"foreign server":     {foreign.config("custodian/a", hour), "/test.Echo/Check", 0, codes.Unavailable},
		"unknown method":     {ca.config("custodian/a", hour), "/test.Echo/Other", 0, codes.Unimplemented},
		"health, by anybody": {ca.config("analyst/x", hour), checkMethod, 0, codes.OK},
		"large message":      {ca.config("custodian/a", hour), "/test.Echo/Check", 1 << 20, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			err := invoke(t.Context(), t, address, c.config, &healthpb.HealthCheckRequest{Service: strings.Repeat("x", c.size)}, c.method)
			if status.Code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestErrorsAreOpaqueButForThoseMeant(t *testing.T) {
	ca := newAuthority(t)
	sentinel := errors.New("known")
	var answer error
	address, _ := serve(t, ca, rpc.Config{Methods: rpc.Table{"/test.Echo/Check": {Roles: []string{rpc.Anyone}, Deadline: 20 * time.Millisecond}},
		Status: func(err error) (*status.Status, bool) {
			return status.New(codes.FailedPrecondition, "mapped"), errors.Is(err, sentinel)
		}}, &probe{check: func(ctx context.Context) error {
		if answer == nil {
			<-ctx.Done()
			return fmt.Errorf("waiting: %w", ctx.Err())
		}
		return answer
	}})
	config := ca.config("lab/x", time.Now().Add(time.Hour))
	for name, c := range map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"secret":            {errors.New("password is hunter2"), codes.Internal, "internal error; request id-1"},
		"another server's":  {status.Error(codes.NotFound, "upstream detail"), codes.Internal, "internal error; request id-1"},
		"for the caller":    {fmt.Errorf("reading: %w", rpc.Errorf(codes.InvalidArgument, "no such stage")), codes.InvalidArgument, "no such stage"},
		"mapped":            {fmt.Errorf("x: %w", sentinel), codes.FailedPrecondition, "mapped"},
		"the method's time": {nil, codes.DeadlineExceeded, "it took too long; request id-1"},
	} {
		t.Run(name, func(t *testing.T) {
			answer = c.err
			var header metadata.MD
			ctx := metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderID, "id-1")
			err := invoke(ctx, t, address, config, &healthpb.HealthCheckRequest{}, "/test.Echo/Check", grpc.Header(&header))
			if status.Code(err) != c.code || status.Convert(err).Message() != c.text {
				t.Errorf("got %v", err)
			}
			if got := header.Get(rpc.HeaderID); len(got) != 1 || got[0] != "id-1" {
				t.Errorf("request id is %q", got)
			}
		})
	}
}

func TestOneCallerCannotTakeEverything(t *testing.T) {
	ca := newAuthority(t)
	entered, leave := make(chan struct{}, 8), make(chan struct{})
	address, _ := serve(t, ca, rpc.Config{Methods: rpc.Table{"/test.Echo/Check": {Roles: []string{rpc.Anyone}, Deadline: time.Minute}},
		PerPeer: rpc.Rate{PerSecond: 1e-9, Burst: 3, AtOnce: 2}}, &probe{check: func(context.Context) error {
		entered <- struct{}{}
		<-leave
		return nil
	}})
	hour := time.Now().Add(time.Hour)
	a, b := ca.config("analyst/a", hour), ca.config("analyst/b", hour)
	call := func(c *tls.Config) error {
		return invoke(t.Context(), t, address, c, &healthpb.HealthCheckRequest{}, "/test.Echo/Check")
	}
	results := make(chan error, 3)
	for range 2 {
		go func() { results <- call(a) }()
		<-entered
	}
	if err := call(a); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a third call at once gives %v", err)
	}
	go func() { results <- call(b) }() // another caller is not held up
	<-entered
	close(leave)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if err := call(a); err != nil { // the last of a burst of three
		t.Error(err)
	}
	if err := call(a); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a fourth call of a burst of three gives %v", err)
	}
}

// A server that is told to stop finishes what it began.
func TestDrain(t *testing.T) {
	ca := newAuthority(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	reg := prometheus.NewRegistry()
	address, stop := serve(t, ca, rpc.Config{Metrics: reg, Methods: rpc.Table{"/test.Echo/Check": {Roles: []string{rpc.Anyone}, Deadline: time.Minute}}},
		&probe{check: func(context.Context) error {
			close(entered)
			<-leave
			return nil
		}})
	result, stopped := make(chan error, 1), make(chan struct{})
	config := ca.config("analyst/a", time.Now().Add(time.Hour))
	go func() {
		result <- invoke(t.Context(), t, address, config, &healthpb.HealthCheckRequest{}, "/test.Echo/Check")
	}()
	<-entered
	go func() { stop(); close(stopped) }()
	close(leave)
	if err := <-result; err != nil {
		t.Errorf("a call under way at the end gives %v", err)
	}
	<-stopped
	families, err := reg.Gather()
	if err != nil || len(families) != 3 {
		t.Errorf("metrics: %d families, %v", len(families), err)
	}
	if err := invoke(t.Context(), t, address, config, &healthpb.HealthCheckRequest{}, "/test.Echo/Check"); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

func TestFaultsOfATable(t *testing.T) {
	services := map[string]grpc.ServiceInfo{"s": {Methods: []grpc.MethodInfo{{Name: "A"}, {Name: "B"}, {Name: "C"}, {Name: "D", IsServerStream: true}}}}
	got := rpc.Table{"/s/A": {Roles: []string{"x"}, Deadline: 1}, "/s/B": {Deadline: 1}, "/s/D": {Roles: []string{"x"}}, "/s/E": {}}.Faults(services)
	if len(got) != 3 {
		t.Errorf("faults are %q, want B without roles, C without row, E no method", got)
	}
	if got := (rpc.Table{"/s/A": {Roles: []string{"x"}}}).Faults(map[string]grpc.ServiceInfo{"s": {Methods: []grpc.MethodInfo{{Name: "A"}}}}); len(got) != 1 {
		t.Errorf("a call without deadline gives %q", got)
	}
}

func TestNewServerRefuses(t *testing.T) {
	ca := newAuthority(t)
	open := ca.config("lab/x", time.Now().Add(time.Hour))
	open.ClientAuth = tls.NoClientCert
	if _, err := rpc.NewServer(open, rpc.Config{Methods: rpc.Table{"/x/y": {}}, Identify: identify}); err == nil {
		t.Error("a server that demands no certificate was made")
	}
	if _, err := rpc.NewServer(ca.config("lab/x", time.Now().Add(time.Hour)), rpc.Config{}); err == nil {
		t.Error("a server without a table was made")
	}
}

// A server that is several processes: a connection to their addresses outlives one of them, whichever it is, and an address
// where nobody is.
func TestSeveralAddresses(t *testing.T) {
	ca := newAuthority(t)
	var served [2]atomic.Int64
	var addresses []string
	var stops []func()
	for i := range served {
		address, stop := serve(t, ca, rpc.Config{Methods: rpc.Table{"/test.Echo/Check": {Roles: []string{"custodian"}, Deadline: time.Minute}}},
			&probe{check: func(context.Context) error { served[i].Add(1); return nil }})
		addresses, stops = append(addresses, address), append(stops, stop)
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	conn, err := rpc.Dial(nobody.Addr().String()+", "+strings.Join(addresses, ","), ca.config("custodian/a", time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call := func() {
		t.Helper()
		for attempt := 0; ; attempt++ { // a call that was under way with the one that ends is not made again by the connection
			err := conn.Invoke(t.Context(), "/test.Echo/Check", &healthpb.HealthCheckRequest{}, new(healthpb.HealthCheckResponse))
			if status.Code(err) == codes.Unavailable && attempt < 1000 {
				select {
				case <-time.After(10 * time.Millisecond):
				case <-t.Context().Done():
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	call()
	first := 0
	if served[1].Load() > 0 {
		first = 1
	}
	call()
	if served[first].Load() != 2 {
		t.Errorf("two calls went to %d and %d: one connection is with one of them", served[0].Load(), served[1].Load())
	}
	stops[first]()
	call()
	if served[1-first].Load() != 1 {
		t.Error("the other one was not asked")
	}
	for _, bad := range []string{"", "host", "a:1,,b:2", "a:1,b"} {
		if _, err := rpc.Dial(bad, ca.config("custodian/a", time.Now().Add(time.Hour))); err == nil {
			t.Errorf("%q is dialled", bad)
		}
	}
}

// A rule that cannot be judged now has a code of its own: the caller may try again.
func TestAdmissionThatCannotBeJudged(t *testing.T) {
	ca := newAuthority(t)
	address, _ := serve(t, ca, rpc.Config{Methods: rpc.Table{"/test.Echo/Check": {Roles: []string{"custodian"}, Deadline: time.Minute}},
		Admit: func(context.Context, rpc.Peer) error { return rpc.Errorf(codes.Unavailable, "nobody knows") }}, &probe{})
	err := invoke(t.Context(), t, address, ca.config("custodian/a", time.Now().Add(time.Hour)), &healthpb.HealthCheckRequest{}, "/test.Echo/Check")
	if status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want Unavailable", err)
	}
}
