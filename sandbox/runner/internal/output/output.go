// Package output takes what a worker writes. It never stops reading, because a writer that nobody reads from cannot be
// ended cleanly (Docker's engine blocks its own kill on it), and it never keeps more than it was allowed.
package output

import (
	"bytes"
	"io"
	"strings"
	"sync"

	"yingzhou.dev/lab/sandbox/runner"
)

// Capture collects one task's output. Its two writers accept everything and return no errors.
type Capture struct {
	max      int64
	progress func(string)
	over     func()

	mu     sync.Mutex
	stdout bytes.Buffer
	stderr []byte // the tail, at most twice runner.MaxTail between trims
	said   int64  // bytes of standard error in all
	full   bool   // over has been called

	line []byte // the unfinished line; only the one writer of standard error touches it
}

// New makes a Capture that keeps max bytes of standard output. At the first byte too many, of standard output or of
// standard error, it calls over, once, and hands on no more lines. progress may be nil.
func New(max int64, progress func(line string), over func()) *Capture {
	return &Capture{max: max, progress: progress, over: over}
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// Stdout takes standard output.
func (c *Capture) Stdout() io.Writer { return writer(c.writeOut) }

// Stderr takes standard error. Only one goroutine may write to it.
func (c *Capture) Stderr() io.Writer { return writer(c.writeErr) }

func (c *Capture) writeOut(p []byte) {
	c.mu.Lock()
	room := c.max - int64(c.stdout.Len())
	c.stdout.Write(p[:min(int64(len(p)), room)])
	first := int64(len(p)) > room && c.fill()
	c.mu.Unlock()
	if first {
		c.over()
	}
}

func (c *Capture) writeErr(p []byte) {
	c.mu.Lock()
	c.said += int64(len(p))
	c.stderr = append(c.stderr, p[max(0, len(p)-runner.MaxTail):]...)
	if len(c.stderr) > 2*runner.MaxTail {
		c.stderr = append(c.stderr[:0], c.stderr[len(c.stderr)-runner.MaxTail:]...)
	}
	first := c.said > runner.MaxStderr && c.fill()
	full := c.full
	c.mu.Unlock()
	if first {
		c.over()
	}
	if !full && c.progress != nil {
		c.split(p)
	}
}

// fill notes that a bound was passed and reports whether it is the first time.
func (c *Capture) fill() bool {
	first := !c.full
	c.full = true
	return first
}

// split hands on whole lines. The rest of a line that is too long is dropped.
func (c *Capture) split(p []byte) {
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte{'\n'})
		c.line = append(c.line, part[:min(len(part), runner.MaxLine-len(c.line))]...)
		if ended {
			c.emit()
		}
		p = rest
	}
}

func (c *Capture) emit() {
	line := strings.ToValidUTF8(string(c.line), "\uFFFD")
	c.line = c.line[:0]
	c.progress(line)
}

// Flush hands on a last line that no newline ends. It is called when standard error has ended.
func (c *Capture) Flush() {
	c.mu.Lock()
	full := c.full
	c.mu.Unlock()
	if len(c.line) > 0 && !full && c.progress != nil {
		c.emit()
	}
}

// Output is what was kept of standard output.
func (c *Capture) Output() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.stdout.Bytes())
}

// Tail is the end of standard error, at most max bytes and runner.MaxTail.
func (c *Capture) Tail(max int64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := min(int64(len(c.stderr)), runner.MaxTail, max)
	return bytes.Clone(c.stderr[int64(len(c.stderr))-keep:])
}
