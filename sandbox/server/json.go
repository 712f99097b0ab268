package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"yingzhou.dev/lab/internal/rpc"
)

// transcoder answers POST /lab.v1.Service/Method with a JSON body by the very handlers that gRPC has, behind the same
// interceptors: there is one table, one map of errors, one set of limits. A call with one answer is a unary call of the
// Connect protocol (https://connectrpc.com/docs/protocol), so its clients work too; a stream of answers is one JSON
// object a line, and its last line is {"error": …} where it failed. Streams of requests are for gRPC alone.
//
// It is written by hand because it is small: a generated gateway would bring a second set of handlers to keep in step,
// and connect-go a second kind of interceptor.
type transcoder struct {
	guard   *rpc.Guard
	table   rpc.Table
	methods map[string]method
}

// method is one call: unary or stream is set.
type method struct {
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
}

func newTranscoder(g *rpc.Guard, t rpc.Table) *transcoder {
	return &transcoder{guard: g, table: t, methods: map[string]method{}}
}

// RegisterService implements grpc.ServiceRegistrar.
func (t *transcoder) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for i := range desc.Methods {
		t.methods["/"+desc.ServiceName+"/"+desc.Methods[i].MethodName] = method{impl: impl, unary: &desc.Methods[i]}
	}
	for i := range desc.Streams {
		t.methods["/"+desc.ServiceName+"/"+desc.Streams[i].StreamName] = method{impl: impl, stream: &desc.Streams[i]}
	}
}

// readTime is how long a body may take to arrive.
const readTime = 30 * time.Second

func (t *transcoder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m, ok := t.methods[r.URL.Path]
	switch media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case !ok:
		fail(w, http.StatusNotFound, status.Newf(codes.Unimplemented, "there is no method %s", r.URL.Path))
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, status.Newf(codes.Unimplemented, "%s is called by POST", r.URL.Path))
		return
	case err != nil || media != "application/json":
		w.Header().Set("Accept-Post", "application/json")
		fail(w, http.StatusUnsupportedMediaType, status.Newf(codes.InvalidArgument, "%s wants a body of type application/json", r.URL.Path))
		return
	case m.stream != nil && m.stream.ClientStreams:
		fail(w, http.StatusNotImplemented, status.Newf(codes.Unimplemented, "%s streams its request: call it over gRPC", r.URL.Path))
		return
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		fail(w, http.StatusInternalServerError, status.New(codes.Internal, "internal error"))
		return
	}
	// Base64 takes four bytes for three, names of fields some more.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(t.row(r.URL.Path).Max)*3/2+64<<10))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, status.Newf(codes.ResourceExhausted, "the body does not arrive in %v or is larger than %s takes", readTime, r.URL.Path))
		return
	}
	ctx := incoming(r)
	header := &headers{w: w}
	ctx = grpc.NewContextWithServerTransportStream(ctx, &transport{header: header, method: r.URL.Path})
	if m.stream != nil {
		t.serveStream(ctx, w, header, r.URL.Path, m, body)
		return
	}
	answer, err := m.unary.Handler(m.impl, ctx, decoder(body), t.guard.Unary)
	if err != nil {
		st, _ := status.FromError(err)
		fail(w, httpStatus(st.Code()), st)
		return
	}
	out, err := protojson.Marshal(answer.(proto.Message))
	if err != nil {
		fail(w, http.StatusInternalServerError, status.New(codes.Internal, "internal error"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(out)
}

func (t *transcoder) row(path string) rpc.Method { return t.table[path] }

// incoming gives a request the caller's certificate, as gRPC would, and the headers that handlers know.
func incoming(r *http.Request) context.Context {
	p := &peer.Peer{Addr: addr(r.RemoteAddr)}
	if r.TLS != nil {
		p.AuthInfo = credentials.TLSInfo{State: *r.TLS, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	}
	md := metadata.MD{}
	for _, v := range r.Header.Values(rpc.HeaderID) {
		md.Append(rpc.HeaderID, v)
	}
	return metadata.NewIncomingContext(peer.NewContext(r.Context(), p), md)
}

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

var _ net.Addr = addr("")

// decoder reads the one request of a call, strictly: a field that the message lacks is a mistake.
func decoder(body []byte) func(any) error {
	return func(v any) error {
		if len(body) == 0 {
			body = []byte("{}")
		}
		if err := protojson.Unmarshal(body, v.(proto.Message)); err != nil {
			return status.Errorf(codes.InvalidArgument, "the body is not a request in JSON: %v", strings.TrimPrefix(err.Error(), "proto: "))
		}
		return nil
	}
}

// serveStream writes one line for each answer.
func (t *transcoder) serveStream(ctx context.Context, w http.ResponseWriter, h *headers, path string, m method, body []byte) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	ss := &lines{ctx: ctx, w: w, header: h, body: body}
	info := &grpc.StreamServerInfo{FullMethod: path, IsServerStream: true}
	err := t.guard.Stream(m.impl, ss, info, m.stream.Handler)
	if err == nil {
		return
	}
	st, _ := status.FromError(err)
	if !ss.begun {
		fail(w, httpStatus(st.Code()), st)
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"error": failure(st)})
}

// lines is a grpc.ServerStream whose answers are lines of JSON.
type lines struct {
	ctx    context.Context
	w      http.ResponseWriter
	header *headers
	body   []byte
	read   bool
	begun  bool
}

func (l *lines) Context() context.Context        { return l.ctx }
func (l *lines) SetHeader(md metadata.MD) error  { return l.header.set(md) }
func (l *lines) SendHeader(md metadata.MD) error { return l.header.set(md) }
func (l *lines) SetTrailer(metadata.MD)          {}

func (l *lines) RecvMsg(m any) error {
	if l.read {
		return io.EOF
	}
	l.read = true
	return decoder(l.body)(m)
}

func (l *lines) SendMsg(m any) error {
	out, err := protojson.Marshal(m.(proto.Message))
	if err != nil {
		return err
	}
	l.begun = true
	if _, err := l.w.Write(append(out, '\n')); err != nil {
		return err
	}
	return http.NewResponseController(l.w).Flush()
}

// headers passes what interceptors set on to HTTP.
type headers struct{ w http.ResponseWriter }

func (h *headers) set(md metadata.MD) error {
	for name, values := range md {
		for _, v := range values {
			h.w.Header().Set(name, v)
		}
	}
	return nil
}

// transport lets grpc.SetHeader work.
type transport struct {
	header *headers
	method string
}

func (t *transport) Method() string                  { return t.method }
func (t *transport) SetHeader(md metadata.MD) error  { return t.header.set(md) }
func (t *transport) SendHeader(md metadata.MD) error { return t.header.set(md) }
func (t *transport) SetTrailer(metadata.MD) error    { return nil }

// connectCodes are the words of the Connect protocol, by number.
var connectCodes = map[codes.Code]string{
	codes.Canceled: "canceled", codes.Unknown: "unknown", codes.InvalidArgument: "invalid_argument", codes.DeadlineExceeded: "deadline_exceeded",
	codes.NotFound: "not_found", codes.AlreadyExists: "already_exists", codes.PermissionDenied: "permission_denied",
	codes.ResourceExhausted: "resource_exhausted", codes.FailedPrecondition: "failed_precondition", codes.Aborted: "aborted",
	codes.OutOfRange: "out_of_range", codes.Unimplemented: "unimplemented", codes.Internal: "internal", codes.Unavailable: "unavailable",
	codes.DataLoss: "data_loss", codes.Unauthenticated: "unauthenticated",
}

// httpStatus is the Connect protocol's map of codes.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.Canceled:
		return 499
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError
}

// failure is an error as JSON: Connect's, with each detail readable under "debug".
func failure(st *status.Status) map[string]any {
	e := map[string]any{"code": connectCodes[st.Code()], "message": st.Message()}
	var details []any
	for _, packed := range st.Proto().GetDetails() {
		d := map[string]any{"type": strings.TrimPrefix(packed.GetTypeUrl(), "type.googleapis.com/"), "value": base64.RawStdEncoding.EncodeToString(packed.GetValue())}
		if m, err := packed.UnmarshalNew(); err == nil {
			if text, err := protojson.Marshal(m); err == nil {
				d["debug"] = json.RawMessage(text)
			}
		}
		details = append(details, d)
	}
	if details != nil {
		e["details"] = details
	}
	return e
}

func fail(w http.ResponseWriter, code int, st *status.Status) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	out, err := json.Marshal(failure(st))
	if err != nil {
		out = fmt.Appendf(nil, `{"code":"internal"}`)
	}
	w.Write(out)
}
