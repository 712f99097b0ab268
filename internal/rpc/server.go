package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

// Server is a gRPC server with the lab's rules, health and reflection.
type Server struct {
	*grpc.Server
	Guard  *Guard
	Health *health.Server
	drain  time.Duration
}

// NewServer makes a server; services are registered on it before Serve. tlsConfig must demand and verify certificates.
func NewServer(tlsConfig *tls.Config, cfg Config) (*Server, error) {
	if tlsConfig == nil || tlsConfig.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, errors.New("rpc: want TLS that demands certificates")
	}
	cfg.Methods = Merge(cfg.Methods, Platform())
	guard, err := NewGuard(cfg)
	if err != nil {
		return nil, err
	}
	drain := cfg.Drain
	if drain == 0 {
		drain = 30 * time.Second
	}
	opts := append([]grpc.ServerOption{
		grpc.Creds(credentials.NewTLS(tlsConfig)),
		grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(256), grpc.ConnectionTimeout(10 * time.Second), grpc.MaxHeaderListSize(16 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: 15 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}, cfg.Stats...)
	s := &Server{Server: grpc.NewServer(opts...), Guard: guard, Health: health.NewServer(), drain: drain}
	healthpb.RegisterHealthServer(s.Server, s.Health)
	reflection.Register(s.Server)
	return s, nil
}

// Serve answers calls until ctx ends. It then tells health watchers, refuses new calls and lets those under way finish
// for as long as Config.Drain says.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, ended := context.WithCancel(ctx)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer ended()                                                                              // also when somebody calls Stop
		if err := s.Server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		s.Health.Shutdown()
		stop := time.AfterFunc(s.drain, s.Server.Stop) // ends what GracefulStop waits for
		defer stop.Stop()
		s.Server.GracefulStop()
		return nil
	})
	return g.Wait()
}
