package feed_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	custodianfeed "yingzhou.dev/lab/enclave/feed"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/pki/pkitest"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/feed"
)

// memory is a log in memory, and blobs. breaks makes the next reading fail after that many entries or bytes.
type memory struct {
	mu      sync.Mutex
	entries [][]byte
	blobs   map[enclave.Digest][]byte
	breaks  int
	down    error
	closed  int
}

func (m *memory) Append(_ context.Context, entries ...enclave.Entry) (out []enclave.LogProof, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	for _, e := range entries {
		raw := canon.MustMarshal(e)
		out = append(out, enclave.LogProof{Entry: raw, Index: int64(len(m.entries)), Path: []enclave.Digest{}, Checkpoint: "signed"})
		m.entries = append(m.entries, raw)
	}
	return out, nil
}

func (m *memory) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.entries)
}

func (m *memory) Checkpoint(context.Context) (string, enclave.Checkpoint, error) {
	return "signed", enclave.Checkpoint{Size: int64(m.size())}, m.down
}

func (m *memory) Entries(_ context.Context, from, to int64) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		for i := from; i < to; i++ {
			if m.breaks > 0 && int(i-from) == m.breaks {
				yield(audit.Record{}, errors.New("/var/lib/log: torn"))
				return
			}
			if !yield(audit.Record{Index: i, Raw: m.entries[i]}, nil) {
				return
			}
		}
	}
}

func (m *memory) ReadBlob(_ context.Context, d enclave.Digest, offset int64) (io.ReadCloser, error) {
	data, ok := m.blobs[d]
	if !ok {
		return nil, fmt.Errorf("blob: %w", enclave.ErrNotFound)
	}
	var r io.Reader = bytes.NewReader(data[min(offset, int64(len(data))):])
	if m.breaks > 0 {
		r = io.MultiReader(io.LimitReader(r, int64(m.breaks)), broken{})
	}
	return &closing{r, m}, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("/dev/sda1: input/output error") }

type closing struct {
	io.Reader
	m *memory
}

func (c *closing) Close() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.closed++
	return nil
}

// served offers a memory over mutual TLS; dial connects as a party.
func served(t *testing.T, m *memory) (dial func(role, name string) *grpc.ClientConn) {
	t.Helper()
	ca := pkitest.New(t, "test", nil)
	quiet := slog.New(slog.DiscardHandler)
	s, err := rpc.NewServer(ca.Source(t, "lab", "lab").Server(), rpc.Config{Methods: feed.Methods(), Logger: quiet, Identify: func(c *x509.Certificate) (rpc.Peer, error) {
		n, err := pki.FromCert(c)
		return rpc.Peer{Name: n.Party, Role: n.Role}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	feed.Register(s, m, m)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(role, name string) *grpc.ClientConn {
		t.Helper()
		conn, err := rpc.Dial(l.Addr().String(), ca.Source(t, role, name).Client(pki.Name{Lab: "test", Role: "lab", Party: "lab"}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

func entry(kind, by string, n int) enclave.Entry {
	return enclave.Entry{Type: kind, Subject: canon.Sum(fmt.Append(nil, n)), By: by}
}

func TestTable(t *testing.T) {
	g := grpc.NewServer()
	feed.Register(g, &memory{}, &memory{})
	for _, fault := range feed.Methods().Faults(g.GetServiceInfo()) {
		t.Error(fault)
	}
	for name, row := range feed.Methods() {
		if !slices.Equal(row.Roles, []string{"custodian"}) {
			t.Errorf("%s is for %q", name, row.Roles)
		}
	}
	dial := served(t, &memory{})
	for _, role := range []string{"steward", "analyst", "official", "auditor", "node", "lab", "witness"} {
		c := enclavev1.NewLogServiceClient(dial(role, "x"))
		if _, err := c.GetCheckpoint(t.Context(), &enclavev1.GetCheckpointRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a %s reads the checkpoint: %v", role, err)
		}
	}
}

// A custodian announces its own acts and nothing else; of a request that holds anything else nothing is written.
func TestAppend(t *testing.T) {
	m := &memory{}
	dial := served(t, m)
	conn := dial("custodian", "cust-a")
	own := custodianfeed.New(conn)
	mine := []string{enclave.EntryCharge, enclave.EntryShare, enclave.EntryRelease, enclave.EntryRefusal, enclave.EntryRotation, enclave.EntryRetirement, enclave.EntryDestruction}
	for i, kind := range mine {
		proofs, err := own.Append(t.Context(), entry(kind, "cust-a", i))
		if err != nil || len(proofs) != 1 || proofs[0].Index != int64(i) {
			t.Errorf("%s: %+v, %v", kind, proofs, err)
		}
	}
	for _, kind := range []string{enclave.EntryRoster, enclave.EntryStatement, enclave.EntryKeyset, enclave.EntryManifest, enclave.EntryPlan, enclave.EntryReceipt, enclave.EntryFailure,
		enclave.EntryCancel, enclave.EntryDisposal, enclave.EntryDisposalRequest, enclave.EntryCertificate, enclave.EntryCollection, "", "charges"} {
		before := m.size()
		_, err := own.Append(t.Context(), entry(enclave.EntryCharge, "cust-a", 1), entry(kind, "cust-a", 2))
		if err == nil || !strings.Contains(err.Error(), "may announce its own") || m.size() != before {
			t.Errorf("a custodian announces a %q: %v, %d entries more", kind, err, m.size()-before)
		}
	}
	before := m.size()
	for _, by := range []string{"cust-b", "", "lab"} {
		if _, err := own.Append(t.Context(), entry(enclave.EntryCharge, by, 1)); err == nil {
			t.Errorf("cust-a announces in the name of %q", by)
		}
	}
	raw := enclavev1.NewLogServiceClient(conn)
	good := canon.MustMarshal(entry(enclave.EntryCharge, "cust-a", 1))
	for what, bad := range map[string][]byte{
		"no JSON": []byte("charge"), "spaces": bytes.Replace(good, []byte(":"), []byte(": "), 1), "an unknown field": bytes.Replace(good, []byte(`{`), []byte(`{"aa":1,`), 1),
		"two values": append(slices.Clone(good), good...), "nothing": {},
	} {
		if _, err := raw.Append(t.Context(), &enclavev1.AppendRequest{Entries: [][]byte{bad}}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := raw.Append(t.Context(), &enclavev1.AppendRequest{Entries: [][]byte{make([]byte, 2<<20)}}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("two megabytes: %v", err)
	}
	if m.size() != before {
		t.Errorf("%d entries were written", m.size()-before)
	}
	m.down = errors.New("/var/lib/log: no space left")
	if _, err := own.Append(t.Context(), entry(enclave.EntryCharge, "cust-a", 1)); err == nil || strings.Contains(err.Error(), "/var") {
		t.Errorf("the log is down: %v", err)
	}
}

func TestReadEntries(t *testing.T) {
	m := &memory{}
	for i := range 3000 { // several messages
		m.entries = append(m.entries, canon.MustMarshal(enclave.Entry{Type: enclave.EntryRefusal, By: "cust-a", Reason: strings.Repeat("x", i%400), Subject: canon.Sum(fmt.Append(nil, i))}))
	}
	dial := served(t, m)
	conn := dial("custodian", "cust-a")
	c := custodianfeed.New(conn)
	for _, span := range [][2]int64{{0, 3000}, {0, 0}, {2999, 3000}, {17, 1234}} {
		got, err := c.Leaves(t.Context(), span[0], span[1])
		if err != nil || !slices.EqualFunc(got, m.entries[span[0]:span[1]], bytes.Equal) {
			t.Errorf("entries %v: %d of them, %v", span, len(got), err)
		}
	}
	raw := enclavev1.NewLogServiceClient(conn)
	m.mu.Lock()
	m.entries = append(m.entries, make([][]byte, 1<<14)...)
	m.mu.Unlock()
	for _, span := range [][2]int64{{-1, 5}, {5, 4}, {0, 1 << 40}, {0, 1<<14 + 1}} {
		s, err := raw.ReadEntries(t.Context(), &enclavev1.ReadEntriesRequest{From: span[0], To: span[1]})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.OutOfRange {
			t.Errorf("entries %v: %v", span, err)
		}
	}
	if text, err := c.Checkpoint(t.Context()); err != nil || text != "signed" {
		t.Errorf("checkpoint %q, %v", text, err)
	}
	m.breaks = 1500 // a log that breaks off is an error and no shorter log, and its words stay here
	if got, err := c.Leaves(t.Context(), 0, 3000); err == nil || strings.Contains(err.Error(), "torn") {
		t.Errorf("a log that breaks off gives %d entries, %v", len(got), err)
	}
}

func TestReadBlob(t *testing.T) {
	data := bytes.Repeat([]byte("sealed rows "), 100_000) // several messages
	d := canon.Sum(data)
	m := &memory{blobs: map[enclave.Digest][]byte{d: data, canon.Sum(nil): {}}}
	conn := served(t, m)("custodian", "cust-a")
	c := custodianfeed.New(conn)
	read := func(d enclave.Digest, offset int64) ([]byte, error) {
		r, err := c.ReadBlob(t.Context(), d, offset)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	for _, offset := range []int64{0, 1, 256 << 10, int64(len(data)) - 1, int64(len(data)), int64(len(data)) + 9} {
		if got, err := read(d, offset); err != nil || !bytes.Equal(got, data[min(offset, int64(len(data))):]) {
			t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
		}
	}
	if got, err := read(canon.Sum(nil), 0); err != nil || len(got) != 0 {
		t.Errorf("an empty blob: %d bytes, %v", len(got), err)
	}
	var away *refusal.UnavailableError
	if _, err := read(canon.Sum([]byte("other")), 0); !errors.As(err, &away) || !errors.Is(err, enclave.ErrNotFound) {
		t.Errorf("a blob that is not there: %v", err)
	}
	raw := enclavev1.NewBlobServiceClient(conn)
	for what, req := range map[string]*enclavev1.ReadBlobRequest{
		"no digest": {}, "a short digest": {Digest: d[:31]}, "a long digest": {Digest: append(d[:], 0)}, "a negative offset": {Digest: d[:], Offset: -1},
	} {
		s, err := raw.ReadBlob(t.Context(), req)
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	m.breaks = 300 << 10
	if got, err := read(d, 0); err == nil || strings.Contains(err.Error(), "sda1") {
		t.Errorf("a disk that fails in the middle: %d bytes, %v", len(got), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != 8 {
		t.Errorf("%d of 8 readers were closed", m.closed)
	}
}
