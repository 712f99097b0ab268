// Package client is the control plane's API for Go programs: the command line, examples and tests use it. It believes
// nothing that the control plane says about a statement, dataset or plan: rosters are held against the pinned root key,
// everything else against the roster, the log against the keys of the log and its witness. What the caller signs is
// signed here, with a key that never leaves.
//
// Errors are those of the packages that decided: a refusal is a *operators.DeniedError, a *plan.RefusedError or a
// *refusal.QuorumError with every reason, what is missing matches sandbox.ErrNotFound, and so on, as if the control plane
// were in this process.
//
// A whole analyst's program stands in cmd/labd/example_test.go, and runs there against a lab of services.
package client

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
)

// Config says where the lab is and whom to believe. All fields but Clock are required.
type Config struct {
	Address string            // host:port; several that share a database, separated by commas: the client goes over to another when one is lost
	TLS     *tls.Config       // with the caller's certificate, holding the server to its name: pki.Source.Client
	RootKey ed25519.PublicKey // the lab's root key, pinned
	Clock   func() time.Time  // nil = time.Now
}

// Client is a connection to a lab, for any number of goroutines.
type Client struct {
	// Registry makes statements as the embedded lab's does: it checks before a person signs, against the record as the
	// control plane shows it, and the control plane checks again.
	Registry *registry.Registry

	cfg  Config
	conn *grpc.ClientConn

	lab      labv1.LabServiceClient
	catalog  labv1.CatalogServiceClient
	operator labv1.OperatorServiceClient
	job      labv1.JobServiceClient
	release  labv1.ReleaseServiceClient
	audit    labv1.AuditServiceClient

	collection labv1.CollectionServiceClient

	mu     sync.Mutex
	serial int64 // of the latest roster seen: an older one is not accepted any more
}

// patience is how long a call may take whose caller sets no deadline.
const patience = 3 * time.Minute

// Open makes a client. It connects at the first call, and again after any loss.
func Open(cfg Config, opts ...grpc.DialOption) (*Client, error) {
	if cfg.Address == "" || cfg.TLS == nil || len(cfg.RootKey) != ed25519.PublicKeySize {
		return nil, errors.New("client: want an address, TLS and the lab's root key")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	conn, err := rpc.Dial(cfg.Address, cfg.TLS, append([]grpc.DialOption{grpc.WithChainUnaryInterceptor(impatient)}, opts...)...)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, conn: conn, lab: labv1.NewLabServiceClient(conn), catalog: labv1.NewCatalogServiceClient(conn), operator: labv1.NewOperatorServiceClient(conn),
		job: labv1.NewJobServiceClient(conn), release: labv1.NewReleaseServiceClient(conn), audit: labv1.NewAuditServiceClient(conn), collection: labv1.NewCollectionServiceClient(conn)}
	c.Registry, err = registry.New(registry.Config{Store: record{c}, Log: func(context.Context, operators.Signed, string) error { return nil }, RootKey: cfg.RootKey, Clock: cfg.Clock,
		Roster: func(ctx context.Context) (operators.Signed, error) { s, _, err := c.Roster(ctx); return s, err },
		Owners: func(ctx context.Context) (map[string]string, error) {
			st, err := c.Statements(ctx)
			return st.Owners, err
		}})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is the connection, for services that this package has no methods for.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// impatient bounds a call, and makes one that only reads again when nobody answers it, or not in time.
func impatient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for attempt := 0; ; attempt++ {
		err := invoke(ctx, method, req, reply, cc, opts...)
		code := status.Code(err)
		again := code == codes.Unavailable || code == codes.DeadlineExceeded && ctx.Err() == nil // the lab's deadline, not the caller's
		if !again || !reads(method) || attempt == retries {
			return err
		}
		if rest(ctx, attempt) != nil {
			return err
		}
	}
}

// reads tells whether a call changes nothing, so that it may be made again when the process that was to answer it is lost.
// The names of the others begin with what they do.
func reads(method string) bool {
	_, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	for _, verb := range []string{"Get", "List", "Explain", "Missing", "Prove"} {
		if strings.HasPrefix(name, verb) {
			return true
		}
	}
	return false
}

// record is the registry's store at the other end. The control plane writes the log entry before it keeps a statement, so
// the registry here has no log to write.
type record struct{ c *Client }

func (r record) Append(ctx context.Context, s operators.Signed) error {
	_, err := r.c.operator.RecordStatement(ctx, &labv1.RecordStatementRequest{Statement: canon.MustMarshal(s)})
	return problem(err)
}

func (r record) All(ctx context.Context) ([]operators.Signed, error) {
	st, err := r.c.Statements(ctx)
	return st.All, err
}

// Info is what the lab says of itself.
type Info struct {
	Name       string
	Roster     *operators.Roster
	Custodians map[string]string // name → address
	Caller     string            // as the caller's certificate has it
	Role       operators.Role
}

// Info asks who the lab and the caller are.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	_, info, err := c.info(ctx)
	return info, err
}

func (c *Client) info(ctx context.Context) (enclave.Signed, *Info, error) {
	a, err := c.lab.GetLab(ctx, &labv1.GetLabRequest{})
	if err != nil {
		return enclave.Signed{}, nil, problem(err)
	}
	signed, err := parse(a.GetRoster())
	if err != nil {
		return signed, nil, fmt.Errorf("the lab's roster: %w", err)
	}
	roster, err := operators.OpenRoster(signed, c.cfg.RootKey)
	if err != nil {
		return signed, nil, fmt.Errorf("the lab's roster: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if roster.Serial < c.serial {
		return signed, nil, fmt.Errorf("the lab's roster: %w: it is number %d, number %d was seen before", operators.ErrRoster, roster.Serial, c.serial)
	}
	c.serial = roster.Serial
	info := &Info{Name: a.GetName(), Roster: roster, Caller: a.GetCaller(), Role: operators.Role(a.GetRole()), Custodians: map[string]string{}}
	for _, cu := range a.GetCustodians() {
		info.Custodians[cu.GetName()] = cu.GetAddress()
	}
	return signed, info, nil
}

// Roster returns the lab's roster.
func (c *Client) Roster(ctx context.Context) (enclave.Signed, *operators.Roster, error) {
	signed, info, err := c.info(ctx)
	if err != nil {
		return signed, nil, err
	}
	return signed, info.Roster, nil
}

// PutRoster records a later roster that the root key has signed. For officials.
func (c *Client) PutRoster(ctx context.Context, s enclave.Signed) error {
	_, err := c.lab.PutRoster(ctx, &labv1.PutRosterRequest{Roster: canon.MustMarshal(s)})
	return problem(err)
}

// WorkerDigests are the programs that the lab runs, for a scenario to approve.
func (c *Client) WorkerDigests(ctx context.Context) ([]enclave.Digest, error) {
	a, err := c.lab.GetNode(ctx, &labv1.GetNodeRequest{})
	if err != nil {
		return nil, problem(err)
	}
	return digests(a.GetWorkers())
}

// Isolation says what stands between a worker and its machine, and why nothing better does.
func (c *Client) Isolation(ctx context.Context) (isolation, why string, err error) {
	a, err := c.lab.GetNode(ctx, &labv1.GetNodeRequest{})
	return a.GetIsolation(), a.GetWhy(), problem(err)
}

// NodeIsolation says what stands around the custodians' compute nodes, as labd is told; "" if there are none.
func (c *Client) NodeIsolation(ctx context.Context) (string, error) {
	a, err := c.lab.GetNode(ctx, &labv1.GetNodeRequest{})
	return a.GetNodes(), problem(err)
}

func digests(texts []string) ([]enclave.Digest, error) {
	var out []enclave.Digest
	for _, t := range texts {
		d, err := enclave.ParseDigest(t)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func parse(data []byte) (s enclave.Signed, err error) { return s, canon.Unmarshal(data, &s) }

// received yields the messages of a stream until it ends.
func received[M any](down grpc.ServerStreamingClient[M], err error) iter.Seq2[*M, error] {
	return func(yield func(*M, error) bool) {
		if err != nil {
			yield(nil, problem(err))
			return
		}
		for {
			m, err := down.Recv()
			if isEnd(err) {
				return
			}
			if !yield(m, problem(err)) || err != nil {
				return
			}
		}
	}
}
