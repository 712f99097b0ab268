package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	_ "google.golang.org/grpc/balancer/pickfirst" // named by several
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// Dial makes a connection to a server that tlsConfig pins. It connects when first used, and again after any loss. A server
// that several processes are, which share their state, has their addresses separated by commas: the connection is to one
// of them, drawn at random, and goes over to another when it is lost. All of them must be what tlsConfig pins.
func Dial(address string, tlsConfig *tls.Config, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	addresses, err := Addresses(address)
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		// A lost peer is back within seconds of coming back.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second,
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithChainUnaryInterceptor(passUnary), grpc.WithChainStreamInterceptor(passStream),
	}, opts...)
	target := addresses[0]
	if len(addresses) > 1 {
		target, opts = several(addresses, tlsConfig.ServerName, opts)
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("dialling %q: %w", address, err)
	}
	return conn, nil
}

// Addresses reads host:port, or several of them separated by commas.
func Addresses(s string) ([]string, error) {
	out := strings.Split(s, ",")
	for i, a := range out {
		out[i] = strings.TrimSpace(a)
		if _, _, err := net.SplitHostPort(out[i]); err != nil {
			return nil, fmt.Errorf("%q is not host:port", out[i])
		}
	}
	return out, nil
}

// several is a target of many addresses. Into each one's handshake goes its own host, if not the same name for all.
func several(addresses []string, name string, opts []grpc.DialOption) (string, []grpc.DialOption) {
	var state resolver.State
	for _, a := range addresses {
		host := name
		if host == "" {
			host, _, _ = net.SplitHostPort(a) // was split before
		}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a, ServerName: host}}})
	}
	list := manual.NewBuilderWithScheme("addresses")
	list.InitialState(state)
	return list.Scheme() + ":///" + addresses[0], append(opts, grpc.WithResolvers(list),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": true}}]}`))
}

// pass hands the id of the call that is being answered on to the calls that it makes.
func pass(ctx context.Context) context.Context {
	if id := RequestID(ctx); id != "" {
		return metadata.AppendToOutgoingContext(ctx, HeaderID, id)
	}
	return ctx
}

func passUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(pass(ctx), method, req, reply, cc, opts...)
}

func passStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(pass(ctx), desc, cc, method, opts...)
}
