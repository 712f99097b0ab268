package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/audit"
)

var errDown = errors.New("connection refused")

// flaky is a witness behind a bad line.
type flaky struct {
	*audit.LocalWitness
	down     atomic.Bool // nothing gets through
	lostNext atomic.Bool // the next answer is lost, after the witness has signed
	lies     atomic.Bool // answers with bytes that are no signature
	calls    atomic.Int64

	hold, entered chan struct{} // if set, Cosign says that it was called and waits; set before the call
}

func (f *flaky) Cosign(ctx context.Context, old int64, proof []enclave.Digest, checkpoint []byte) ([]byte, error) {
	f.calls.Add(1)
	if f.hold != nil {
		select {
		case f.entered <- struct{}{}:
		default:
		}
		<-f.hold
	}
	if f.down.Load() {
		return nil, errDown
	}
	out, err := f.LocalWitness.Cosign(ctx, old, proof, checkpoint)
	if f.lies.Load() {
		return []byte("— somebody AAAA\n"), nil
	}
	if f.lostNext.CompareAndSwap(true, false) {
		return nil, errDown
	}
	return out, err
}

func (f *flaky) Size(ctx context.Context) (int64, error) {
	if f.down.Load() {
		return 0, errDown
	}
	return f.LocalWitness.Size(ctx)
}

func edit(t testing.TB, dir, name string, change func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func flip(t testing.TB, dir, name string, at int) {
	t.Helper()
	edit(t, dir, name, func(b []byte) []byte { b[at] ^= 0x04; return b })
}

func truncate(t testing.TB, dir, name string, size int) {
	t.Helper()
	edit(t, dir, name, func(b []byte) []byte { return b[:size] })
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	edit(t, dir, name, func([]byte) []byte { return []byte(text) })
}

func remove(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func report(b *testing.B, latencies []time.Duration) {
	slices.Sort(latencies)
	at := func(q int) float64 { return latencies[(len(latencies)-1)*q/100].Seconds() * 1000 }
	b.ReportMetric(at(50), "p50-ms")
	b.ReportMetric(at(99), "p99-ms")
}
