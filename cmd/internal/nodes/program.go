package nodes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"yingzhou.dev/lab/cmd/internal/nodejob"
)

// Program is a Host behind the program nodehost: what holds a custodian's keys links nothing that speaks to a container
// engine. The two exchange arguments, which hold no secret, and the node's own streams.
type Program struct {
	Path       string // of nodehost
	Node       string // of the node's program
	Isolation  string // "docker", "process" or "" = the best there is
	Production bool
	Owner      string // absolute folder by which this custodian's nodes are told from others'

	mu       sync.Mutex
	identity *nodejob.Identity
}

func (p *Program) command(ctx context.Context, what, isolation string, args ...string) *exec.Cmd {
	all := append([]string{what, "-program", p.Node, "-isolation", isolation, "-owner", p.Owner, "-production=" + strconv.FormatBool(p.Production)}, args...)
	cmd := exec.CommandContext(ctx, p.Path, all...)
	// It is asked to end, and then removes its node.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 45 * time.Second
	return cmd
}

// Identify implements Host. The answer is kept: Run insists on this program, and on the isolation that was asked for.
func (p *Program) Identify(ctx context.Context) (nodejob.Identity, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.identity != nil {
		return *p.identity, nil
	}
	var id nodejob.Identity
	var out, said bytes.Buffer
	cmd := p.command(ctx, "identify", p.Isolation)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return id, failure(err, said.String())
	}
	if err := json.Unmarshal(out.Bytes(), &id); err != nil {
		return id, fmt.Errorf("reading what nodehost says of itself: %w", err)
	}
	p.identity = &id
	return id, nil
}

// Run implements Host.
func (p *Program) Run(ctx context.Context, run nodejob.Run) ([]byte, error) {
	id, err := p.Identify(ctx)
	if err != nil {
		return nil, err
	}
	if run.Program != id.Program {
		return nil, fmt.Errorf("asked for program %s, and this host has %s", run.Program.Short(), id.Program.Short())
	}
	isolation, _, _ := strings.Cut(id.Isolation, "/") // what was found at first is what is used
	isolation, _, _ = strings.Cut(isolation, " ")
	limits := run.Limits.OrDefault()
	cmd := p.command(ctx, "run", isolation, "-id", run.ID, "-want", run.Program.String(), "-inputs", run.Inputs, "-links", run.Links,
		"-memory", strconv.FormatInt(limits.MemoryMiB, 10), "-cpus", strconv.FormatFloat(limits.CPUs, 'g', -1, 64), "-time", limits.Time.String())
	cmd.Stdin = bytes.NewReader(run.Stdin)
	var out bytes.Buffer
	lines := &lineWriter{to: run.Progress}
	cmd.Stdout, cmd.Stderr = &out, lines
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState != nil && !cmd.ProcessState.Exited() { // it was killed, and could not look after its node
			err = errors.Join(failure(err, lines.last), p.remove(ctx, isolation, run.ID))
		} else {
			err = failure(err, lines.last)
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return out.Bytes(), nil
}

// remove removes a node that was left running: a container outlives who started it.
func (p *Program) remove(ctx context.Context, isolation, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second) // also when nobody waits for the node any more
	defer cancel()
	var said bytes.Buffer
	cmd := p.command(ctx, "remove", isolation, "-id", id)
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("removing a node that was left running: %w", failure(err, said.String()))
	}
	return nil
}

// failure is the last line of what nodehost said, or how it ended.
func failure(err error, said string) error {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	if last, ok := strings.CutPrefix(lines[len(lines)-1], "nodehost: "); ok {
		return errors.New(last)
	}
	return fmt.Errorf("nodehost: %w", err)
}

// lineWriter cuts a stream into lines. One that is longer than any that is meant is cut.
type lineWriter struct {
	to   func(string)
	rest []byte
	last string
}

const maxLine = 4 << 10

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 && len(w.rest) > maxLine {
			i = maxLine
		}
		if i < 0 {
			return len(p), nil
		}
		w.last = string(w.rest[:i])
		if w.to != nil && !strings.HasPrefix(w.last, "nodehost: ") {
			w.to(w.last)
		}
		w.rest = w.rest[min(i+1, len(w.rest)):]
	}
}

var _ Host = (*Program)(nil)
