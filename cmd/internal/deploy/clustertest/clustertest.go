// Package clustertest runs a whole lab of services in one test process: labd, the witness and three custodians, each with
// its own folder, certificate and connections over loopback, exactly as their daemons run them. Several labds over one
// PostgreSQL are processes of their own, which can be killed.
package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/custody"
	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/deploy"
	"yingzhou.dev/lab/cmd/internal/deploy/daemons"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/cmd/internal/plane"
	"yingzhou.dev/lab/cmd/internal/witnessd"
	"yingzhou.dev/lab/internal/pki"
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
	labd  string // program; "" = labd runs in this process
	mu    sync.Mutex
	parts map[string]*part
}

type part struct {
	stop    func()
	done    chan struct{}
	err     error
	log     *syncBuffer
	process *daemons.Process // instead of the others
}

// Options say what kind of lab it is.
type Options struct {
	hometest.Options
	Postgres string                   // what `lab deploy` is told; "" = a file with Database, if that is given
	Labds    int                      // over one PostgreSQL; 0 = one, in this process
	Edit     func(yaml string) string // changes labd's configuration file before the start
}

// Start makes a lab as hometest does, lays it out and starts every daemon. edit, which may be nil, changes labd's
// configuration file first.
func Start(t testing.TB, o hometest.Options, edit func(yaml string) string) *Cluster {
	t.Helper()
	return StartWith(t, Options{Options: o, Edit: edit})
}

// StartMoved is Start, with the records moved to PostgreSQL when the lab is laid out: postgres is what `lab deploy` is told.
func StartMoved(t testing.TB, o hometest.Options, postgres string, edit func(yaml string) string) *Cluster {
	t.Helper()
	return StartWith(t, Options{Options: o, Edit: edit, Postgres: postgres})
}

// StartWith is Start with all options.
func StartWith(t testing.TB, o Options) *Cluster {
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
	if err := hometest.Make(t.Context(), from, o.Options); err != nil {
		t.Fatal(err)
	}
	lay := deploy.Options{Ports: freePorts(t, 8+max(0, o.Labds-1)), Worker: o.Worker, Isolation: "process", Labds: o.Labds, Now: time.Now(),
		Database: o.Database, Postgres: o.Postgres}
	if lay.Postgres == "" && o.Database != "" {
		lay.Postgres = filepath.Join(dir, "dsn")
		if err := os.WriteFile(lay.Postgres, []byte(o.Database), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	laid, err := deploy.Lay(t.Context(), from, out, lay)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Laid: laid, t: t, parts: map[string]*part{}}
	for name := range laid.Labds {
		if o.Edit == nil {
			break
		}
		path := filepath.Join(out, name, "labd.yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(o.Edit(string(data))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if o.Labds > 1 { // what logs to the whole process can be there once in each
		c.labd = filepath.Join(dir, "labd")
		if err := hometest.Build(t.Context(), dir, "labd"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for name := range c.parts {
			c.Stop(name)
		}
	})
	c.Begin(Witness)
	for name := range laid.Custodians {
		c.Begin(name)
	}
	for name := range laid.Labds {
		c.Begin(name)
	}
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
	_, labd := c.Labds[name]
	switch {
	case labd && c.labd != "":
		p, err := daemons.Start(context.WithoutCancel(c.t.Context()), name, c.labd, filepath.Join(c.Dir, name, "labd.yaml"))
		if err != nil {
			c.t.Fatal(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.parts[name] = &part{process: p}
		return
	case labd:
		d, path = &plane.Config{}, filepath.Join(c.Dir, name, "labd.yaml")
	case name == Witness:
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
	p := c.take(name)
	if p == nil {
		return
	}
	if p.process != nil {
		if err := p.process.End(); err != nil {
			c.t.Error(err)
		}
		if c.t.Failed() {
			c.t.Logf("log of %s:\n%s", name, p.process.Log())
		}
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

// Kill ends a labd that is a process of its own, and returns what it had logged.
func (c *Cluster) Kill(name string) (log string) {
	c.t.Helper()
	p := c.take(name)
	p.process.Kill()
	if c.t.Failed() {
		c.t.Logf("log of %s:\n%s", name, p.process.Log())
	}
	return p.process.Log()
}

// take removes a part from the list of those that run.
func (c *Cluster) take(name string) *part {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parts[name]
	delete(c.parts, name)
	return p
}

// Ended waits for a part that ends by itself, and returns why.
func (c *Cluster) Ended(name string) error {
	p := c.take(name)
	<-p.done
	return p.err
}

// Logs waits until a part has logged a text.
func (c *Cluster) Logs(name, text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for !strings.Contains(c.Log(name), text) {
		select {
		case <-ctx.Done():
			c.t.Fatalf("%s does not log %q:\n%s", name, text, c.Log(name))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Log is what a part has logged.
func (c *Cluster) Log(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts[name].text()
}

func (p *part) text() string {
	if p.process != nil {
		return p.process.Log()
	}
	return p.log.String()
}

// ended is closed when the part has ended by itself.
func (p *part) ended() <-chan struct{} {
	if p.process != nil {
		return p.process.Ended()
	}
	return p.done
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
		case <-p.ended():
			c.t.Fatalf("labd ended: %v\n%s", p.err, p.text())
		case <-ctx.Done():
			c.t.Fatalf("labd does not answer: %v\n%s", err, p.text())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Add starts a custodian that is new in the roster, whose keys are in its folder, in the place of another that has been
// stopped: it gets that one's port, a certificate and a configuration, and every other daemon is told and started again.
func (c *Cluster) Add(t testing.TB, name, instead string) {
	t.Helper()
	ca, err := pki.LoadAuthority(c.Lab, filepath.Join(c.Dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.Dir, name)
	if err := ca.IssueTo(dir, pki.Name{Lab: c.Lab, Role: "custodian", Party: name}, pki.IssueOptions{Now: time.Now(), Hosts: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"custodian.yaml", "client.yaml", "roster.json"} {
		data, err := os.ReadFile(filepath.Join(c.Dir, instead, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Custodians[name] = c.Custodians[instead]
	delete(c.Custodians, instead)
	for part := range c.Custodians {
		if part != name {
			c.Stop(part)
			c.rename(t, filepath.Join(c.Dir, part, "custodian.yaml"), instead, name)
		}
	}
	c.Stop(Labd)
	c.rename(t, filepath.Join(c.Dir, Labd, "labd.yaml"), instead, name)
	for part := range c.Custodians {
		c.Begin(part)
	}
	c.Begin(Labd)
	c.Ready()
}

// rename puts one name for another in a configuration.
func (c *Cluster) rename(t testing.TB, path, from, to string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, bytes.ReplaceAll(data, []byte(from), []byte(to)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
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
