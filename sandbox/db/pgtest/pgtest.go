// Package pgtest gives tests a PostgreSQL of their own: a throw-away cluster in a temporary folder that listens on a
// socket there and nowhere else. It runs the programs of Debian's package postgresql, as an unprivileged user where the
// tests run as root, which the server refuses to.
//
// LAB_POSTGRES names the folder of the programs, or a running server by its URL (postgres://…). Without it the programs
// are looked for where Debian puts them. Tests are skipped, with the reason, where there is nothing.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a PostgreSQL server in which tests make databases.
type Server struct {
	tb      testing.TB
	admin   string // URL of the database that others are made from
	bin     string // folder of the programs; empty for a server that is not ours
	dir     string
	run     *running
	counter int
}

// running is a started server process.
type running struct {
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it has
	output bytes.Buffer  // read it after ended
}

// Start starts a server, or connects to the one that LAB_POSTGRES names, until the test ends. It skips the test where
// neither is to be had.
func Start(tb testing.TB) *Server {
	tb.Helper()
	where := os.Getenv("LAB_POSTGRES")
	if strings.Contains(where, "://") {
		return &Server{tb: tb, admin: where}
	}
	bin, err := programs(where)
	if err != nil {
		tb.Skip(err)
	}
	// Not tb.TempDir: the name of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "pg-")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, bin: bin, dir: dir}
	tb.Cleanup(func() {
		s.Stop()
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	if err := s.initialize(); err != nil {
		tb.Fatalf("making a PostgreSQL cluster with the programs in %s: %v", bin, err)
	}
	s.Run()
	return s
}

// programs finds the folder that has initdb and postgres.
func programs(named string) (string, error) {
	folders := []string{named}
	if named == "" {
		found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
		if err != nil {
			return "", err
		}
		slices.Reverse(found) // the newest version first
		folders = found
	}
	for _, dir := range folders {
		if errors.Join(stat(dir, "initdb"), stat(dir, "postgres")) == nil {
			return dir, nil
		}
	}
	if named != "" {
		return "", fmt.Errorf("LAB_POSTGRES=%s is neither a folder with initdb and postgres nor the URL of a server", named)
	}
	return "", errors.New("no PostgreSQL here: install Debian's package postgresql, or name a folder of its programs or a server in LAB_POSTGRES")
}

func stat(dir, name string) error {
	_, err := os.Stat(filepath.Join(dir, name))
	return err
}

// attributes makes a child run as somebody who is not root, and end with this process.
func attributes() (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return attr, nil
	}
	return nil, errors.New("this is root, and there is no user postgres or nobody to run the server as")
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) initialize() error {
	attr, err := attributes()
	if err != nil {
		return err
	}
	if attr.Credential != nil {
		if err := os.Chown(s.dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(s.tb.Context(), filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "lab", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	cmd.Dir, cmd.SysProcAttr = s.dir, attr
	attr.Pdeathsig = 0 // the thread that starts it may end before
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	s.admin = (&url.URL{Scheme: "postgres", User: url.User("lab"), Path: "/postgres", RawQuery: url.Values{"host": {s.dir}}.Encode()}).String()
	return nil
}

// Run starts a stopped server and returns when it answers.
func (s *Server) Run() {
	s.tb.Helper()
	s.Own()
	attr, err := attributes()
	if err != nil {
		s.tb.Fatal(err)
	}
	r := &running{ended: make(chan struct{})}
	r.cmd = exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "max_connections=200")
	r.cmd.Dir, r.cmd.SysProcAttr = s.dir, attr
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	started := make(chan error)
	go func() {
		// Pdeathsig follows the thread that started the child, so that one has to stay.
		runtime.LockOSThread()
		defer close(r.ended)
		err := r.cmd.Start()
		started <- err
		if err == nil {
			r.cmd.Wait() // how it ended shows in its output
		}
	}()
	if err := <-started; err != nil {
		s.tb.Fatalf("starting postgres: %v", err)
	}
	s.run = r
	if err := s.answers(); err != nil {
		s.tb.Fatal(err)
	}
}

// answers waits until the server takes connections.
func (s *Server) answers() error {
	ctx, cancel := context.WithTimeout(s.tb.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := pgx.Connect(ctx, s.admin)
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case <-tick.C:
		case <-s.run.ended:
			return fmt.Errorf("postgres ended: %s", &s.run.output)
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

// Own skips the test if the server is not ours to stop.
func (s *Server) Own() {
	s.tb.Helper()
	if s.bin == "" {
		s.tb.Skip("the server that LAB_POSTGRES names is not stopped for a test: name a folder of programs instead")
	}
}

// Stop shuts the server down: connections break, what was committed stays.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Kill ends the server as a power cut would (but for the disk's cache): the next start recovers from its log.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

func (s *Server) end(sig syscall.Signal) {
	if s.run == nil {
		return
	}
	if err := s.run.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Errorf("stopping postgres: %v", err)
	}
	<-s.run.ended
	s.run = nil
}

// Database makes an empty database and returns its URL. It goes when the test ends.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	s.counter++
	name := fmt.Sprintf("lab_%d_%d", os.Getpid(), s.counter)
	s.exec(tb, "CREATE DATABASE "+name+" TEMPLATE template0")
	if s.bin == "" {
		tb.Cleanup(func() { s.exec(tb, "DROP DATABASE "+name+" WITH (FORCE)") })
	}
	u, err := url.Parse(s.admin)
	if err != nil {
		tb.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func (s *Server) exec(tb testing.TB, statement string) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context()) // also when the test has ended
	c, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, statement); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}
