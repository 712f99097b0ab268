// Package clustertest runs a whole lab of services in one test process: labd, the witness and three custodians, each with
// its own folder, certificate and connections over loopback, exactly as their daemons run them.
package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/custody"
	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/deploy"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/cmd/internal/plane"
	"yingzhou.dev/lab/cmd/internal/witnessd"
)

// Labd and Witness name those two parts; custodians have their names in the roster.
const (
	Labd    = "labd"
	Witness = "witness"
)

// Cluster is a lab of services.
type Cluster struct {
	*deploy.Laid

	t     testing.TB
	mu    sync.Mutex
	parts map[string]*part
}

type part struct {
	stop func()
	done chan struct{}
	err  error
	log  *syncBuffer
}

// Start makes a lab as hometest does, lays it out and starts every daemon. edit, which may be nil, changes labd's
// configuration file first.
func Start(t testing.TB, o hometest.Options, edit func(yaml string) string) *Cluster {
	t.Helper()
	if o.Worker == "" {
		if o.Worker = os.Getenv("LAB_WORKER"); o.Worker == "" {
			dir := t.TempDir()
			if err := hometest.Build(t.Context(), dir, "worker"); err != nil {
				t.Fatal(err)
			}
			o.Worker = filepath.Join(dir, "worker")
		}
	}
	dir := t.TempDir()
	from, out := filepath.Join(dir, "lab"), filepath.Join(dir, "out")
	if err := hometest.Make(t.Context(), from, o); err != nil {
		t.Fatal(err)
	}
	laid, err := deploy.Lay(t.Context(), from, out, deploy.Options{Ports: freePorts(t, 8), Worker: o.Worker, Isolation: "process", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		path := filepath.Join(out, Labd, "labd.yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(edit(string(data))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &Cluster{Laid: laid, t: t, parts: map[string]*part{}}
	t.Cleanup(func() {
		for name := range c.parts {
			c.Stop(name)
		}
	})
	c.Begin(Witness)
	for name := range laid.Custodians {
		c.Begin(name)
	}
	c.Begin(Labd)
	c.Ready()
	return c
}

// freePorts finds ports that nobody uses now.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// Begin starts a part.
func (c *Cluster) Begin(name string) {
	c.t.Helper()
	var d daemon.Daemon = &custody.Config{}
	path := filepath.Join(c.Dir, name, "custodian.yaml")
	switch name {
	case Labd:
		d, path = &plane.Config{}, filepath.Join(c.Dir, name, "labd.yaml")
	case Witness:
		d, path = &witnessd.Config{}, filepath.Join(c.Dir, name, "witness.yaml")
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(c.t.Context()))
	p := &part{stop: stop, done: make(chan struct{}), log: &syncBuffer{}}
	c.mu.Lock()
	c.parts[name] = p
	c.mu.Unlock()
	go func() {
		defer close(p.done)
		p.err = daemon.Run(ctx, path, d, p.log)
	}()
}

// Stop ends a part in order and waits for its end.
func (c *Cluster) Stop(name string) {
	c.t.Helper()
	c.mu.Lock()
	p := c.parts[name]
	delete(c.parts, name)
	c.mu.Unlock()
	if p == nil {
		return
	}
	p.stop()
	<-p.done
	if p.err != nil && !errors.Is(p.err, context.Canceled) {
		c.t.Errorf("%s ended: %v", name, p.err)
	}
	if c.t.Failed() {
		c.t.Logf("log of %s:\n%s", name, p.log)
	}
}

// Log is what a part has logged.
func (c *Cluster) Log(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts[name].log.String()
}

// Ready waits until labd answers.
func (c *Cluster) Ready() {
	c.t.Helper()
	r := c.Person("zhao.min")
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := r.Info(ctx)
		if err == nil {
			return
		}
		c.mu.Lock()
		p := c.parts[Labd]
		c.mu.Unlock()
		select {
		case <-p.done:
			c.t.Fatalf("labd ended: %v\n%s", p.err, p.log)
		case <-ctx.Done():
			c.t.Fatalf("labd does not answer: %v\n%s", err, p.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Folder is a person's client folder.
func (c *Cluster) Folder(name string) string { return filepath.Join(c.Dir, "people", name) }

// Person is the lab as one of its people sees it.
func (c *Cluster) Person(name string) *desk.Remote {
	c.t.Helper()
	r, err := desk.OpenRemote(c.Folder(name), "", time.Now)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { r.Client.Close() })
	return r
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var _ fmt.Stringer = (*syncBuffer)(nil)
