package daemon

import (
	"context"
	"fmt"
	"net/url"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// start sends traces of every call, if an endpoint is configured. end sends what is left.
func (t Trace) start(ctx context.Context, env *Env) (end func(context.Context) error, err error) {
	if t.Endpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	base, err := url.Parse(t.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("trace.endpoint: %w", err)
	}
	// The exporter takes a URL as it is; collectors listen at this path below their address.
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base.JoinPath("v1", "traces").String()))
	if err != nil {
		return nil, fmt.Errorf("trace.endpoint: %w", err)
	}
	ratio := t.Ratio
	if ratio == 0 {
		ratio = 1
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(ratio))))
	opts := []otelgrpc.Option{otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(propagation.TraceContext{})}
	env.Stats = append(env.Stats, grpc.StatsHandler(otelgrpc.NewServerHandler(opts...)))
	env.Dials = append(env.Dials, grpc.WithStatsHandler(otelgrpc.NewClientHandler(opts...)))
	return provider.Shutdown, nil
}
