package witness_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/pki/pkitest"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/witness"
)

func TestMain(m *testing.M) {
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

type world struct {
	t        *testing.T
	ca       *pkitest.CA
	dir      string
	log, wit audit.KeyPair
	signer   note.Signer
	verifier note.Verifier
	local    *audit.LocalWitness
	address  string
	stop     func()
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ca: pkitest.New(t, "test", nil), dir: t.TempDir()}
	var err error
	w.log, w.wit, err = audit.GenerateKeys("test.lab/log")
	w.check(err)
	w.signer, w.verifier, err = audit.NewLogSigner(w.log.Secret)
	w.check(err)
	w.serve()
	return w
}

// serve starts the witness's daemon on its folder.
func (w *world) serve() {
	w.t.Helper()
	signer, err := audit.NewWitnessSigner(w.wit.Secret)
	w.check(err)
	w.local, err = audit.NewWitness(filepath.Join(w.dir, "witness"), signer, w.verifier)
	w.check(err)
	srv, err := rpc.NewServer(w.ca.Source(w.t, "witness", "witness").Server(), rpc.Config{Methods: witness.Methods(), Status: witness.Status,
		Logger: slog.New(slog.DiscardHandler), Identify: func(c *x509.Certificate) (rpc.Peer, error) {
			n, err := pki.FromCert(c)
			return rpc.Peer{Name: n.Party, Role: n.Role}, err
		}})
	w.check(err)
	witness.Register(srv, w.local)
	for _, fault := range rpc.Merge(witness.Methods(), rpc.Platform()).Faults(srv.GetServiceInfo()) {
		w.t.Error(fault)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	w.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		w.check(errors.Join(<-done, w.local.Close()))
	}
	w.t.Cleanup(w.stop)
}

func (w *world) client(role, name string) *witness.Client {
	w.t.Helper()
	conn, err := rpc.Dial(w.address, w.ca.Source(w.t, role, name).Client(pki.Name{Lab: "test", Role: "witness"}))
	w.check(err)
	w.t.Cleanup(func() { conn.Close() })
	signer, err := audit.NewWitnessSigner(w.wit.Secret)
	w.check(err)
	return witness.NewClient(conn, signer.Verifier())
}

func (w *world) openLog(dir string) *audit.Log {
	w.t.Helper()
	log, err := audit.Open(w.t.Context(), audit.Config{Dir: filepath.Join(w.dir, dir), Signer: w.signer, Verifier: w.verifier, Witness: w.client("lab", "lab")})
	w.check(err)
	w.t.Cleanup(func() { log.Close(context.Background()) })
	return log
}

var entry = enclave.Entry{Type: enclave.EntryPlan, Subject: enclave.Digest{1}, By: "lab"}

// A log whose witness is elsewhere appends as one whose witness is here, waits while it is away, and cannot fork.
func TestLogWithAWitnessOverTheWire(t *testing.T) {
	w := newWorld(t)
	log := w.openLog("log")
	proofs, err := log.Append(t.Context(), entry)
	w.check(err)
	keys, err := audit.ParseKeys(w.log.Public, w.wit.Public)
	w.check(err)
	if _, cp, err := proofs[0].Check(keys); err != nil || cp.Size != 1 {
		t.Errorf("proof of %d entries, %v", cp.Size, err)
	}
	w.stop()
	if _, err := log.Append(t.Context(), entry); err == nil {
		t.Error("an entry was cosigned by nobody")
	}
	w.check(log.Close(context.Background()))
	w.serve() // what it has seen outlives its process
	if n, err := w.client("lab", "lab").Size(t.Context()); err != nil || n != 1 {
		t.Errorf("after a restart it has seen %d entries, %v", n, err)
	}
	log = w.openLog("log") // and is asked for what it missed
	_, err = log.Append(t.Context(), entry)
	w.check(err)
	_, err = audit.Open(t.Context(), audit.Config{Dir: filepath.Join(w.dir, "another"), Signer: w.signer, Verifier: w.verifier, Witness: w.client("lab", "lab")})
	if !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("a second history gives %v", err)
	}
}

// What a witness refuses keeps its type and the evidence over the wire.
func TestRefusalsOfAWitness(t *testing.T) {
	w := newWorld(t)
	log := w.openLog("log")
	_, err := log.Append(t.Context(), entry)
	w.check(err)
	c := w.client("lab", "lab")
	sign := func(size, root string) []byte {
		text, err := note.Sign(&note.Note{Text: "test.lab/log\n" + size + "\n" + root + "\n"}, w.signer)
		w.check(err)
		return text
	}
	const root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	_, err = c.Cosign(t.Context(), 1, nil, sign("1", root))
	var split *audit.SplitViewError
	if !errors.As(err, &split) || split.Seen == "" || split.Offered == "" || !errors.Is(err, audit.ErrSplitView) {
		t.Errorf("two checkpoints of one size give %v", err)
	}
	for what, text := range map[string]string{"seen": split.Seen, "offered": split.Offered} {
		if _, err := note.Open([]byte(text), note.VerifierList(w.verifier)); err != nil {
			t.Errorf("evidence %s: %v", what, err)
		}
	}
	if _, err = c.Cosign(t.Context(), 7, nil, sign("9", root)); !errors.Is(err, audit.ErrConflict) {
		t.Errorf("a proof from another size gives %v", err)
	}
	if _, err = c.Cosign(t.Context(), 1, nil, []byte("test.lab/log\n2\n"+root+"\n")); err == nil || errors.Is(err, audit.ErrSplitView) {
		t.Errorf("a checkpoint that nobody signed gives %v", err)
	}
	for _, role := range []string{"custodian", "steward", "analyst", "witness"} {
		if _, err := w.client(role, "x").Size(t.Context()); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
			t.Errorf("a %s gives %v", role, err)
		}
	}
	if n, err := c.Size(t.Context()); err != nil || n != 1 {
		t.Errorf("after all that it has seen %d entries, %v", n, err)
	}
}
