package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"yingzhou.dev/lab/cmd/internal/deploy"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/internal/failpoint"
)

// Parts of a lab of services. Custodians have their names in the roster; the client is whoever runs the command.
const (
	labd    = "labd"
	witness = "witness"
	client  = "client"
)

// custodians are those that every lab is made with.
var custodians = []string{"custodian-bureau", "custodian-cyber", "custodian-notary"}

// ports are the same in every lab, in deploy's order: labs differ by their address on loopback.
var ports = []int{7443, 7444, 7445, 7446, 7447, 7448, 7449, 7450}

// laidHost is the address that templates are laid out with.
const laidHost = "127.0.0.1"

// patience bounds how long anything may take that is about to happen.
const patience = 2 * time.Minute

// services are the daemons of a lab, each an operating system's process with its own folder.
type services struct {
	host  string // of this lab's daemons
	parts map[string]*daemon
}

// daemon is one that was started.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// killed reports whether it was, by itself or by somebody else.
func (d *daemon) killed() bool {
	status := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status.Signaled() && status.Signal() == syscall.SIGKILL
}

// laid makes a template as lab deploy lays it out, from that of the embedded lab.
func (b *bench) laid(ctx context.Context, f *flow) (string, error) {
	from, err := b.template(ctx, f)
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	dir := filepath.Join(b.dir, "laid-"+f.name)
	if _, ok := b.labs[dir]; ok {
		return dir, nil
	}
	moved := dir + ".moved"
	if err := os.CopyFS(moved, os.DirFS(from)); err != nil {
		return "", err
	}
	if _, err := deploy.Lay(ctx, moved, dir, deploy.Options{Host: laidHost, Ports: ports, Worker: b.worker(f.joint), Isolation: "process", Now: time.Now()}); err != nil {
		return "", err
	}
	// Whoever adds people needs the root key, which stays where the lab was made.
	official := filepath.Join(dir, "people", hometest.Official)
	config, err := os.OpenFile(filepath.Join(official, "client.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	_, err = config.WriteString("root_key: root.key\n")
	if err := errors.Join(err, config.Close(), os.Rename(filepath.Join(moved, "people", "root.key"), filepath.Join(official, "root.key"))); err != nil {
		return "", err
	}
	b.labs[dir] = dir
	return dir, os.RemoveAll(moved)
}

// serve makes a lab of services from a template, at an address of its own. Nothing of it is started.
func (b *bench) serve(ctx context.Context, f *flow) (*lab, error) {
	from, err := b.laid(ctx, f)
	if err != nil {
		return nil, err
	}
	dir := b.folder()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return nil, err
	}
	l := &lab{bench: b, joint: f.joint}
	return l, l.moveTo(dir)
}

// moveTo makes the lab one of services whose folders are in dir, with an address of its own.
func (l *lab) moveTo(dir string) error {
	var n int
	if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(dir)), "case-%d", &n); err != nil {
		return err
	}
	l.dir, l.services = dir, &services{host: fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%128, n/250+1, n%250+1), parts: map[string]*daemon{}}
	for _, path := range append(l.glob("*/*.yaml"), l.glob("people/*/client.yaml")...) {
		if err := l.rewrite(path, laidHost+":", l.services.host+":"); err != nil {
			return err
		}
	}
	return nil
}

// rewrite replaces words of a configuration, of which there must be some.
func (l *lab) rewrite(path, old, new string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Contains(data, []byte(old)) {
		return fmt.Errorf("%s has no %q", path, old)
	}
	return os.WriteFile(path, bytes.ReplaceAll(data, []byte(old), []byte(new)), 0o600)
}

// parts lists the daemons in the order in which they are started.
func parts() []string { return slices.Concat([]string{witness}, custodians, []string{labd}) }

// address is where a daemon listens.
func (l *lab) address(part string) string {
	i := slices.Index([]string{labd, witness, custodians[0], custodians[1], custodians[2]}, part)
	return fmt.Sprintf("%s:%d", l.services.host, ports[i])
}

// start starts a daemon and waits until it serves or has ended.
func (l *lab) start(ctx context.Context, part string, env ...string) error {
	program := part
	if slices.Contains(custodians, part) {
		program = "custodian"
	}
	log, err := os.OpenFile(l.logOf(part), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d := &daemon{cmd: exec.Command(filepath.Join(l.bench.dir, program), "-config", filepath.Join(l.dir, part, program+".yaml")), done: make(chan struct{})}
	d.cmd.Env, d.cmd.Stderr = slices.Concat(os.Environ(), l.env, env), log
	if err := d.cmd.Start(); err != nil {
		return err
	}
	l.services.parts[part] = d
	go func() {
		defer close(d.done)
		_ = d.cmd.Wait() // how it ended is read from its state
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if conn, err := net.Dial("tcp", l.address(part)); err == nil {
			return conn.Close()
		}
		select {
		case <-d.done:
			if d.killed() {
				return nil
			}
			return fmt.Errorf("%s ended: %v: %s", part, d.cmd.ProcessState, l.tail(part))
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w: %s", part, ctx.Err(), l.tail(part))
		}
	}
}

// startAll starts every daemon, each with its own part of the environment.
func (l *lab) startAll(ctx context.Context, env map[string][]string) error {
	for _, part := range parts() {
		if err := l.start(ctx, part, env[part]...); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) logOf(part string) string { return l.dir + "." + part + ".log" }

// tail is the end of what a daemon has logged.
func (l *lab) tail(part string) string {
	data, err := os.ReadFile(l.logOf(part))
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "")
}

// stop ends a daemon in order.
func (l *lab) stop(part string) error {
	d := l.services.parts[part]
	if d == nil {
		return nil
	}
	delete(l.services.parts, part)
	select {
	case <-d.done:
		if d.killed() {
			return nil
		}
	default:
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
	}
	select {
	case <-d.done:
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("%s ended with %v: %s", part, d.cmd.ProcessState, l.tail(part))
		}
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s does not end: %s", part, l.tail(part)), l.cut(part))
	}
}

// cut kills a daemon.
func (l *lab) cut(part string) error {
	d := l.services.parts[part]
	if d == nil {
		return nil
	}
	delete(l.services.parts, part)
	err := d.cmd.Process.Kill()
	<-d.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// stopAll ends every daemon in order.
func (l *lab) stopAll() (err error) {
	for _, part := range slices.Backward(parts()) {
		err = errors.Join(err, l.stop(part))
	}
	return err
}

// end kills whatever still runs.
func (l *lab) end() (err error) {
	if l.services == nil {
		return nil
	}
	for _, part := range slices.Collect(maps.Keys(l.services.parts)) {
		err = errors.Join(err, l.cut(part))
	}
	return err
}

// died waits until one of the parts was killed. After the command that was to bring it about has ended, little time is
// left for that.
func (l *lab) died(ctx context.Context, armed []string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	first := make(chan string, len(armed))
	for _, part := range armed {
		d := l.services.parts[part]
		go func() {
			<-d.done
			first <- part
		}()
	}
	var late <-chan time.Time
	for {
		select {
		case part := <-first:
			if d := l.services.parts[part]; !d.killed() {
				return fmt.Errorf("%s was not killed, it ended: %v: %s", part, d.cmd.ProcessState, l.tail(part))
			}
			return nil
		case <-ended:
			ended, late = nil, time.After(10*time.Second)
		case <-late:
			return fmt.Errorf("the command has ended and none of %q was killed", armed)
		case <-ctx.Done():
			return fmt.Errorf("none of %q was killed: %w", armed, ctx.Err())
		}
	}
}

// gate is a place at which a part waits until it is let go.
type gate struct{ at, fifo string }

// hold makes a gate at a point, passed for the nth time. env has a part wait there.
func (l *lab) hold(p failpoint.Point, nth int) (*gate, error) {
	at := fmt.Sprintf("%s:%d", p, nth)
	g := &gate{at: at, fifo: l.dir + "." + at + ".fifo"}
	return g, syscall.Mkfifo(g.fifo, 0o600)
}

// held is the environment that has a part wait at gates.
func held(gates ...*gate) string {
	var all []string
	for _, g := range gates {
		all = append(all, g.at+"@"+g.fifo)
	}
	return failpoint.Held + "=" + strings.Join(all, ",")
}

// reached waits until somebody is at the gate. open lets it go on.
func (g *gate) reached(ctx context.Context) (open func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(g.fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.ENXIO) { // nobody reads yet
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("nobody comes to %s: %w", g.at, ctx.Err())
		}
	}
}
