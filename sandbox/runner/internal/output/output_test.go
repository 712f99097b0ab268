package output

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/sandbox/runner"
)

// TestCapture compares with what can be said of the whole streams at once, however they were cut.
func TestCapture(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		max := rapid.Int64Range(0, 200).Draw(t, "max")
		var lines []string
		over := 0
		c := New(max, func(l string) { lines = append(lines, l) }, func() { over++ })
		var out, errs []byte
		for _, part := range rapid.SliceOf(rapid.SliceOfN(rapid.SampledFrom([]byte("ab\n")), 0, 40)).Draw(t, "parts") {
			if n, err := c.Stdout().Write(part); n != len(part) || err != nil {
				t.Fatalf("wrote %d of %d, %v", n, len(part), err)
			}
			out = append(out, part...)
			if over == 0 {
				_, _ = c.Stderr().Write(part)
				errs = append(errs, part...)
			}
		}
		c.Flush()
		if want := out[:min(int64(len(out)), max)]; !bytes.Equal(want, c.Output()) {
			t.Fatalf("kept %q, want %q", c.Output(), want)
		}
		if (over == 1) != (int64(len(out)) > max) || over > 1 {
			t.Fatalf("%d bytes of %d allowed: over %d times", len(out), max, over)
		}
		if tail := c.Tail(7); !bytes.HasSuffix(errs, tail) || len(tail) != min(7, len(errs)) {
			t.Fatalf("tail %q of %q", tail, errs)
		}
		if over == 0 {
			want := strings.Split(string(errs), "\n")
			if want[len(want)-1] == "" {
				want = want[:len(want)-1]
			}
			if diff := cmp.Diff(want, append([]string{}, lines...)); diff != "" {
				t.Fatalf("lines (-want +got):\n%s", diff)
			}
		}
	})
}

func TestBounds(t *testing.T) {
	over := 0
	var lines []string
	c := New(10, func(l string) { lines = append(lines, l) }, func() { over++ })
	_, _ = c.Stderr().Write(append(bytes.Repeat([]byte("x"), 3*runner.MaxLine), "\n\xff\xfe\n"...))
	if len(lines) != 2 || len(lines[0]) != runner.MaxLine || lines[1] != "\uFFFD" {
		t.Errorf("%d lines", len(lines))
	}
	block := bytes.Repeat([]byte("y"), 100_000)
	for range 30 {
		_, _ = c.Stderr().Write(block)
	}
	if over != 1 || len(c.Tail(1<<30)) != runner.MaxTail || len(lines) != 2 || cap(c.stderr) > 8*runner.MaxTail {
		t.Errorf("over %d times, %d bytes kept in %d, %d lines", over, len(c.Tail(1<<30)), cap(c.stderr), len(lines))
	}
}
