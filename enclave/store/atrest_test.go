package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/store"
)

// ring wraps data keys by remembering them; gone is a wrapping key that was destroyed.
type ring struct {
	keys map[string][]byte
	head []byte
	gone bool
}

func (r *ring) Fresh(_ context.Context, head []byte) ([]byte, store.Ref, error) {
	r.head = bytes.Clone(head)
	key := sha256.Sum256(fmt.Append(nil, len(r.keys)))
	ref := store.Ref{Scope: "s", ID: []byte{byte(len(r.keys))}, Wrapped: fmt.Sprint("w", len(r.keys))}
	r.keys[ref.Wrapped] = key[:]
	return bytes.Clone(key[:]), ref, nil
}

func (r *ring) Open(_ context.Context, ref store.Ref) ([]byte, error) {
	if key := r.keys[ref.Wrapped]; key != nil && !r.gone {
		return bytes.Clone(key), nil
	}
	return nil, fmt.Errorf("data key: %w", enclave.ErrNotFound)
}

func atRest(t testing.TB) (*store.Store, *ring) {
	t.Helper()
	r := &ring{keys: map[string][]byte{}}
	s, err := store.OpenAtRest(t.TempDir(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func content(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i * 7 >> 3)
	}
	return out
}

func TestAtRest(t *testing.T) {
	const chunk = 64 << 10
	s, ring := atRest(t)
	for _, n := range []int{0, 1, 4095, 4096, 4097, chunk - 1, chunk, chunk + 1, 3 * chunk, 3*chunk + 5} {
		want := content(n)
		d, size, err := s.Put(t.Context(), bytes.NewReader(want), enclave.Digest{})
		if err != nil || size != int64(n) {
			t.Fatalf("%d bytes: stored %d, %v", n, size, err)
		}
		if !bytes.Equal(ring.head, want[:min(n, 4096)]) {
			t.Errorf("%d bytes: the data key was asked for with %d bytes", n, len(ring.head))
		}
		if got, err := s.Size(d); err != nil || got != int64(n) {
			t.Errorf("%d bytes have size %d, %v", n, got, err)
		}
		if err := s.Verify(t.Context(), d); err != nil {
			t.Error(err)
		}
		raw, err := os.ReadFile(s.Path(d))
		if err != nil || n >= 4095 && bytes.Contains(raw, want[100:200]) {
			t.Errorf("%d bytes lie as they are: %v", n, err)
		}
		for _, from := range []int{0, n / 2, n - 1, n, chunk, chunk - 1} {
			if from < 0 || from > n {
				continue
			}
			r, err := s.ReadBlob(t.Context(), d, int64(from))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want[from:]) {
				t.Errorf("%d bytes from %d: %d bytes, %v", n, from, len(got), err)
			}
			r.Close()
		}
		if _, err := s.ReadBlob(t.Context(), d, int64(n)+1); err == nil {
			t.Errorf("%d bytes are read beyond their end", n)
		}
		if _, err := s.Map(d); n > 0 && err == nil {
			t.Error("an encrypted blob is mapped")
		}
		again, _, err := s.Put(t.Context(), bytes.NewReader(want), d)
		if err != nil || again != d {
			t.Errorf("storing again: %v", err)
		}
		// Another node takes it over as it is.
		plain, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := plain.Pull(t.Context(), s, d, int64(n)); err != nil {
			t.Error(err)
		} else if err := plain.Verify(t.Context(), d); err != nil {
			t.Error(err)
		}
		back, _ := atRest(t)
		if err := back.Pull(t.Context(), plain, d, int64(n)); err != nil {
			t.Error(err)
		} else if err := back.Verify(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
}

// Whatever is changed of a file, it does not read as anything else.
func TestAtRestNoticesEveryChange(t *testing.T) {
	s, _ := atRest(t)
	want := content(200_000)
	d, _, err := s.Put(t.Context(), bytes.NewReader(want), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(s.Path(d))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.Path(d), 0o600); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		bad := bytes.Clone(raw)
		switch rapid.SampledFrom([]string{"flip", "cut", "add", "swap"}).Draw(rt, "change") {
		case "flip":
			bad[rapid.IntRange(0, len(bad)-1).Draw(rt, "at")] ^= byte(1 << rapid.IntRange(0, 7).Draw(rt, "bit"))
		case "cut":
			bad = bad[:rapid.IntRange(0, len(bad)-1).Draw(rt, "to")]
		case "add":
			bad = append(bad, rapid.SliceOfN(rapid.Byte(), 1, 100_000).Draw(rt, "more")...)
		case "swap": // two chunks of equal length
			const sealed = 64<<10 + 16
			head := len(bad) - 3*sealed - (200_000 - 3*64<<10 + 16)
			a, b := bad[head:head+sealed], bad[head+sealed:head+2*sealed]
			tmp := bytes.Clone(a)
			copy(a, b)
			copy(b, tmp)
		}
		if err := os.WriteFile(s.Path(d), bad, 0o600); err != nil {
			rt.Fatal(err)
		}
		if err := s.Verify(context.Background(), d); err == nil {
			rt.Error("a changed file reads as the blob")
		}
		r, err := s.ReadBlob(context.Background(), d, 0)
		if err != nil {
			return
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err == nil || !bytes.HasPrefix(want, got) {
			rt.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestAtRestWithoutItsKey(t *testing.T) {
	s, ring := atRest(t)
	d, _, err := s.Put(t.Context(), bytes.NewReader(content(10)), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	ring.gone = true
	if err := s.Verify(t.Context(), d); !errors.Is(err, enclave.ErrNotFound) {
		t.Errorf("a blob whose data key was destroyed gives %v", err)
	}
}

func BenchmarkAtRest(b *testing.B) {
	s, _ := atRest(b)
	want := content(16 << 20)
	d, _, err := s.Put(b.Context(), bytes.NewReader(want), enclave.Digest{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(want)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.ReadBlob(b.Context(), d, 0)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}
