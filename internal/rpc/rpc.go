// Package rpc is what every gRPC server and client of the lab has in common: who calls, by the certificate; what it may
// call, by one table; how long and how often; and what it may learn of an error.
//
// A server refuses a method that the table does not have, a caller whose role the row does not list, a message beyond
// the row's size, and a caller who asks too much at once. An error that a handler did not mean for the caller becomes
// the text "internal error" with a request id, under which the log has the rest. It decides nothing else: what a call
// may do is judged by whoever answers it.
package rpc

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// MaxMessage bounds every message, in bytes. The largest are a dossier, which holds every statement and keyset of the
// lab with a log proof for each (about 2 KiB apiece), and the share sets of a stage: at the planner's limit of 100,000
// terms, 33 bytes a share and two pieces, 6.6 MB each in binary and 12 MB in canonical form.
const MaxMessage = 64 << 20

// Peer is who calls, as its certificate says. Role is one of the roster's roles, or "witness".
type Peer struct {
	Name string
	Role string
}

// Method is one row of a table.
type Method struct {
	Roles    []string      // who may call; "*" = whoever has a certificate of the lab
	Deadline time.Duration // longest that a call may take; 0 = as long as the caller stays, for streams that watch
	Max      int           // bytes of a message received; 0 = 64 KiB
	Cost     int           // of a call, against the caller's rate; 0 = 1
}

// Anyone is a row's role for whoever has a certificate of the lab.
const Anyone = "*"

const defaultMax = 64 << 10

// Table says who may call what: by full method name, "/lab.v1.Service/Method".
type Table map[string]Method

// Merge joins tables. A method in two of them is a programmer's error.
func Merge(tables ...Table) Table {
	out := Table{}
	for _, t := range tables {
		for name, m := range t {
			if _, twice := out[name]; twice {
				panic("rpc: two rows for " + name)
			}
			out[name] = m
		}
	}
	return out
}

// Platform is the rows of the services that a Server adds by itself: health to all, reflection to nobody but those who
// have a certificate.
func Platform() Table {
	anyone := Method{Roles: []string{Anyone}, Deadline: 10 * time.Second}
	watch := Method{Roles: []string{Anyone}}
	return Table{
		"/grpc.health.v1.Health/Check":                                   anyone,
		"/grpc.health.v1.Health/List":                                    anyone,
		"/grpc.health.v1.Health/Watch":                                   watch,
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      watch,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": watch,
	}
}

// Faults compares a table with what a server offers: methods without a row, rows without a method. Tests want none.
func (t Table) Faults(services map[string]grpc.ServiceInfo) []string {
	var out []string
	offered := map[string]bool{}
	for service, info := range services {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			offered[name] = true
			if row, ok := t[name]; !ok {
				out = append(out, name+" has no row in the table: nobody may call it")
			} else if len(row.Roles) == 0 {
				out = append(out, name+" has a row without roles")
			} else if row.Deadline == 0 && !m.IsServerStream {
				out = append(out, name+" has no deadline")
			}
		}
	}
	for name := range t {
		if !offered[name] {
			out = append(out, name+" is in the table and is no method")
		}
	}
	slices.Sort(out)
	return out
}

// Config says who may call and what becomes of errors.
type Config struct {
	Methods  Table
	Identify func(*x509.Certificate) (Peer, error) // reads a verified certificate; strict
	Admit    func(context.Context, Peer) error     // judges a caller beyond its certificate; an *Error has a code of its own; nil = no further rule
	Status   func(error) (*status.Status, bool)    // maps errors that a caller may see; nil = none but an *Error
	PerPeer  Rate                                  // what one caller may ask for; zero = no limit
	Logger   *slog.Logger                          // nil = slog.Default
	Metrics  prometheus.Registerer                 // nil = none
	Stats    []grpc.ServerOption                   // tracing
	Drain    time.Duration                         // how long calls under way have after the end was asked for; 0 = 30 s
	Clock    func() time.Time                      // nil = time.Now
}

// Error is an error that the caller is meant to see, with a code.
type Error struct {
	Code codes.Code
	Text string
}

func (e *Error) Error() string { return e.Text }

// Errorf makes an error for the caller's eyes.
func Errorf(code codes.Code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

type ctxKey int

const (
	peerKey ctxKey = iota
	idKey
)

// PeerFrom is the caller that the interceptors let in.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey).(Peer)
	return p, ok
}

// RequestID is the id of the call that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(idKey).(string)
	return id
}

// HeaderID carries a request's id between servers and back to the caller.
const HeaderID = "x-request-id"

// requestID takes over the caller's id, so that one release has one id at every custodian, or draws one.
func requestID(ctx context.Context) string {
	if given := metadata.ValueFromIncomingContext(ctx, HeaderID); len(given) == 1 && plainID(given[0]) {
		return given[0]
	}
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// plainID keeps what is written to logs short and without surprises.
func plainID(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

var errNoCertificate = errors.New("the connection has no verified certificate")

// certificate is the caller's leaf that TLS verified up to a trusted root.
func certificate(ctx context.Context) (*x509.Certificate, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errNoCertificate
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return nil, errNoCertificate
	}
	return info.State.VerifiedChains[0][0], nil
}
