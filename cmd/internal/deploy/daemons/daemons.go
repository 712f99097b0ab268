// Package daemons starts the programs of a lab that was laid out on this machine, and ends them, gently or not: for tests
// and for the load.
package daemons

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a running daemon.
type Process struct {
	Name string

	cmd   *exec.Cmd
	log   buffer
	ended chan struct{}
	err   error // of Wait; read it after ended
}

// Start runs a program of a folder by its configuration file. It does not wait until the daemon answers. When ctx ends
// the process is killed.
func Start(ctx context.Context, name, program, config string) (*Process, error) {
	p := &Process{Name: name, ended: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, program, "-config", config)
	p.cmd.Dir = filepath.Dir(config)
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() { // ends with the process, for which End and Kill wait
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// PID is the process's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is what it has logged.
func (p *Process) Log() string { return p.log.String() }

// Ended is closed when the process has ended, by whatever cause.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// patience is how long a daemon has to end in order: more than it gives its own calls.
const patience = time.Minute

// End asks the process to end in order, and waits.
func (p *Process) End() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		<-p.ended
		return fmt.Errorf("%s had ended before: %w", p.Name, errors.Join(err, p.err))
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.Kill()
		return fmt.Errorf("%s did not end in %v", p.Name, patience)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended: %w", p.Name, p.err)
	}
	return nil
}

// Kill ends the process as a loss of power would, and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // one that has ended needs none
	<-p.ended
}

// buffer is a log that is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *buffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *buffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
