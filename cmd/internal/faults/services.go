package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/db"
	controlplane "yingzhou.dev/lab/sandbox/lab"
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

// traced is the environment with which a part writes down the points it passes.
func (l *lab) traced(part string) string {
	return failpoint.Trace + "=" + l.dir + "." + part + ".trace"
}

// traceServices runs a flow whole and counts the points that each part passes.
func (m *matrix) traceServices(ctx context.Context, f *flow) (passes map[string]map[failpoint.Point]int, err error) {
	l, err := m.bench.serve(ctx, f)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	env := map[string][]string{}
	for _, part := range parts() {
		env[part] = []string{l.traced(part)}
	}
	free, err := l.begin(ctx, f, env)
	if err != nil {
		return nil, err
	}
	args, err := f.command(ctx, l)
	if err != nil {
		return nil, err
	}
	r := l.reaching(ctx, nil, []string{l.traced(client)}, args...)
	passes = map[string]map[failpoint.Point]int{}
	for _, part := range append(parts(), client) {
		if passes[part], err = readTrace(l.dir + "." + part + ".trace"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := free(); err != nil {
		return nil, err
	}
	before, err := l.seen()
	if err == nil {
		err = f.after(ctx, l)
	}
	if err == nil {
		err = l.intact(ctx, before)
	}
	if err != nil {
		return nil, errors.Join(err, r.err())
	}
	return passes, nil
}

// begin starts every daemon, brings the lab to where the flow's command finds it, and returns what lets go of what is
// held there.
func (l *lab) begin(ctx context.Context, f *flow, env map[string][]string) (free func() error, err error) {
	free = func() error { return nil }
	var g *gate
	if f.hold != "" {
		if g, err = l.hold(f.hold, 1); err != nil {
			return nil, err
		}
		env = maps.Clone(env)
		env[labd] = append(slices.Clone(env[labd]), held(g))
	}
	if err := l.startAll(ctx, env); err != nil {
		return nil, err
	}
	if g != nil {
		if free, err = g.reached(ctx); err != nil {
			return nil, err
		}
	}
	if f.setup != nil {
		err = f.setup(ctx, l)
	}
	return free, err
}

// killsServices runs a flow whole with services, to learn which part passes which points, and makes a case of each.
func (m *matrix) killsServices(ctx context.Context, f *flow) ([]fault, error) {
	passes, err := m.traceServices(ctx, f)
	if err != nil {
		return nil, err
	}
	var out []fault
	for _, p := range failpoint.All() {
		all := map[string]int{}
		for part, trace := range passes {
			if trace[p] > 0 {
				all[part] = trace[p]
			}
		}
		if len(all) == 0 {
			continue
		}
		m.reached(served, f, p)
		if f.leaves != nil && f.leaves(p) {
			continue
		}
		for _, part := range m.which(p, all, passes) {
			times := []int{1}
			if n := all[part]; n > 2 && !m.quick && f.name == "job" {
				times = append(times, max(2, n/2)) // how many share a round, and how often a peer is asked, varies
			}
			for _, nth := range times {
				armed := fmt.Sprintf("%s:%d", p, nth)
				out = append(out, fault{name: fmt.Sprintf("services: %s, %s killed at %s", f.name, part, armed),
					try: func(ctx context.Context) error { return m.killServices(ctx, f, part, armed, "process") }})
				if ofAWorker(p) {
					out = append(out, fault{name: fmt.Sprintf("services: %s, in Docker, %s killed at %s", f.name, part, armed), try: func(ctx context.Context) error {
						if !dockerAnswers(ctx) {
							return fmt.Errorf("%w: no Docker daemon answers", errSkip)
						}
						return m.killServices(ctx, f, part, armed, "docker")
					}})
				}
			}
		}
	}
	return out, nil
}

// everyone stands for all three custodians, killed together.
const everyone = "every custodian"

// which chooses the parts that are killed at a point: of the custodians that pass it the leader, and all of them. Who of
// them records a release depends on who is first.
func (m *matrix) which(p failpoint.Point, passes map[string]int, all map[string]map[failpoint.Point]int) (out []string) {
	leads := func(part string) int { return all[part][failpoint.ReleaseLogged] }
	var bodies []string
	for _, part := range slices.Sorted(maps.Keys(passes)) {
		if slices.Contains(custodians, part) {
			bodies = append(bodies, part)
		} else {
			out = append(out, part)
		}
	}
	slices.SortStableFunc(bodies, func(a, b string) int { return leads(b) - leads(a) })
	switch {
	case len(bodies) == 0:
	case p == failpoint.ReleaseKept:
		out = append(out, everyone)
	case m.quick || len(bodies) == 1:
		out = append(out, bodies[0])
	default:
		out = append(out, bodies[0], everyone)
	}
	return out
}

// killServices runs a flow's command while one part is armed, starts the part again once it has been killed, and checks
// the lab.
func (m *matrix) killServices(ctx context.Context, f *flow, part, armed, isolation string) (err error) {
	l, err := m.bench.serve(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	isolated := []string{labd}
	if f.joint {
		isolated = append(isolated, custodians...)
	}
	for _, p := range isolated {
		if err := l.rewrite(l.config(p), `isolation: "process"`, fmt.Sprintf("isolation: %q", isolation)); err != nil {
			return err
		}
	}
	args, err := l.whileArmed(ctx, f, part, armed)
	if err != nil {
		return errors.Join(fmt.Errorf("%v: %w", args, err), l.logs())
	}
	return nil
}

// reaching runs a command, and again while it says that something cannot be reached, unless one of the parts whose ends are
// given is down: daemons that started a moment ago may have dialled each other too early, and dial again within 3 s.
func (l *lab) reaching(ctx context.Context, down []<-chan struct{}, env []string, args ...string) result {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(patience); ; {
		r := l.run(ctx, env, args...)
		if r.killed || r.code == 0 || !strings.Contains(r.errs, "cannot be reached") || time.Now().After(deadline) {
			return r
		}
		for _, d := range down {
			select {
			case <-d:
				return r
			default:
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return r
		}
	}
}

// logs is the ends of what the daemons have logged, as an error.
func (l *lab) logs() error {
	var out strings.Builder
	for _, part := range parts() {
		fmt.Fprintf(&out, "\n%s:\n%s", part, l.tail(part))
	}
	return errors.New(out.String())
}

func (l *lab) whileArmed(ctx context.Context, f *flow, part, at string) (args []string, err error) {
	arm := failpoint.Armed + "=" + at
	if p, _, _ := strings.Cut(at, ":"); ofAHost(part, failpoint.Point(p)) {
		return l.whileHostArmed(ctx, f, part, arm)
	}
	armed, env := []string{part}, map[string][]string{}
	if part == everyone {
		armed = custodians
	}
	for _, p := range armed {
		env[p] = []string{arm}
	}
	free, err := l.begin(ctx, f, env)
	if err != nil {
		return nil, err
	}
	if args, err = f.command(ctx, l); err != nil {
		return args, err
	}
	if part == client {
		if r := l.run(ctx, []string{arm}, args...); !r.killed {
			return args, fmt.Errorf("it was not killed: %w", r.err())
		}
		return args, l.goesOn(ctx, f, free)
	}
	ended := make(chan struct{})
	var r result
	var down []<-chan struct{}
	for _, p := range armed {
		down = append(down, l.services.parts[p].done)
	}
	go func() {
		defer close(ended)
		r = l.reaching(ctx, down, nil, args...)
	}()
	err = l.died(ctx, armed, ended)
	for _, p := range armed { // the power of all of them at once
		err = errors.Join(err, l.cut(p))
	}
	before, serr := l.seen()
	err = errors.Join(err, serr)
	for _, p := range armed {
		err = errors.Join(err, l.start(ctx, p))
	}
	<-ended // it has waited for the part, has gone on without it, or says that it is not there
	if err == nil {
		err = l.goesOnFrom(ctx, f, free, before)
	}
	if err != nil {
		return args, errors.Join(err, r.err())
	}
	return args, nil
}

// goesOn uses the lab again after a fault, and checks it.
func (l *lab) goesOn(ctx context.Context, f *flow, free func() error) error {
	before, err := l.seen()
	if err != nil {
		return err
	}
	return l.goesOnFrom(ctx, f, free, before)
}

func (l *lab) goesOnFrom(ctx context.Context, f *flow, free func() error, before seen) error {
	if err := free(); err != nil {
		return err
	}
	if err := f.after(ctx, l); err != nil {
		return err
	}
	return l.intact(ctx, before)
}

// abandoned lets labd find, as if minutes had gone by, that nobody goes on with a submission that broke off. Without one it
// does nothing.
func (l *lab) abandoned(ctx context.Context) error {
	if l.services == nil {
		return nil
	}
	jobs, err := l.jobs(ctx)
	if err != nil {
		return err
	}
	queued := slices.DeleteFunc(jobs, func(j sandbox.Job) bool { return j.State != sandbox.Queued })
	if len(queued) == 0 {
		return nil
	}
	if err := errors.Join(l.stop(labd), l.start(ctx, labd, failpoint.Shift+"=6m")); err != nil {
		return err
	}
	for _, j := range queued {
		if r := l.run(ctx, nil, "lab", "job", "watch", string(j.ID)); r.code == 0 || !strings.Contains(r.errs, "submit it again") {
			return fmt.Errorf("a job whose submission broke off does not end: %w", r.err())
		}
	}
	return errors.Join(l.stop(labd), l.start(ctx, labd))
}

// level has the custodians exchange their ledgers, as they do at each release, until all have the same charges. Who was
// away while a release went on learns of its charge at the next one.
func (l *lab) level(ctx context.Context) error {
	same := func() (bool, error) {
		var all []string
		for _, path := range l.glob(l.custodians() + "/state/ledger.jsonl") {
			lines, err := charges(path)
			if err != nil {
				return false, err
			}
			slices.Sort(lines)
			all = append(all, strings.Join(lines, "\n"))
		}
		return len(all) == len(custodians) && len(slices.Compact(all)) == 1, nil
	}
	for attempt := 0; ; attempt++ {
		ok, err := same()
		if ok || err != nil {
			return err
		}
		if attempt == 20 {
			return fmt.Errorf("the ledgers do not come to the same charges: %w", l.logs())
		}
		if _, err := l.ask(ctx, "0"); err != nil {
			return err
		}
	}
}

// charges are the lines of a ledger that charge something.
func charges(path string) (out []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var s canon.Signed
		var r release.Record
		if err := canon.Unmarshal([]byte(strings.TrimSuffix(line, "\n")), &s); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := s.Open(release.KindLedger, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if r.Charge != nil {
			out = append(out, line)
		}
	}
	return out, nil
}

// examineServices stops every daemon and checks the control plane's folder: every byte of the log, that it extends what
// was seen of it, and the blobs. Uploads that were never published are swept after two days, so labd comes back once as
// if those had gone by.
func (l *lab) examineServices(ctx context.Context, before seen) (named int, err error) {
	if err := l.stopAll(); err != nil {
		return 0, err
	}
	records, err := db.Open(ctx, filepath.Join(l.dir, labd, "lab.db"))
	if err != nil {
		return 0, err
	}
	blobs, err := store.Open(filepath.Join(l.dir, labd, "blobs"))
	if err != nil {
		return 0, errors.Join(err, records.Close())
	}
	all, err := controlplane.NamedBlobs(ctx, records)
	if err := errors.Join(err, records.Close()); err != nil {
		return 0, err
	}
	for d := range all {
		if err := blobs.Verify(ctx, d); err != nil {
			return 0, err
		}
	}
	stored, err := blobs.List()
	if err != nil {
		return 0, err
	}
	if len(stored) > len(all) {
		if err := l.sweep(ctx, blobs, len(all)); err != nil {
			return 0, err
		}
	}
	return len(all), l.examineLog(ctx, before)
}

// sweep runs labd two days later, until so many blobs are left.
func (l *lab) sweep(ctx context.Context, blobs *store.Store, want int) error {
	if err := errors.Join(l.start(ctx, witness), l.start(ctx, labd, failpoint.Shift+"=49h")); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		stored, err := blobs.List()
		if err != nil {
			return err
		}
		if len(stored) == want {
			return l.stopAll()
		}
		select {
		case <-tick.C:
		case <-wait.Done():
			return fmt.Errorf("%d blobs are stored, manifests name %d: %w", len(stored), want, wait.Err())
		}
	}
}

func (l *lab) examineLog(ctx context.Context, before seen) (err error) {
	dir := filepath.Join(l.dir, labd)
	var signed enclave.Signed
	data, err := os.ReadFile(filepath.Join(dir, "roster.json"))
	if err == nil {
		err = canon.Unmarshal(data, &signed)
	}
	if err != nil {
		return err
	}
	var roster operators.Roster
	if err := signed.Open(operators.KindRoster, &roster); err != nil {
		return err
	}
	keys, err := release.LogKeys(&roster)
	if err != nil {
		return err
	}
	if _, err := audit.Fsck(ctx, filepath.Join(dir, "log"), keys); err != nil {
		return err
	}
	secret, err := os.ReadFile(filepath.Join(dir, "log.key"))
	if err != nil {
		return err
	}
	signer, verifier, err := audit.NewLogSigner(strings.TrimSpace(string(secret)))
	if err != nil {
		return err
	}
	if secret, err = os.ReadFile(filepath.Join(l.dir, witness, "witness.key")); err != nil {
		return err
	}
	cosigner, err := audit.NewWitnessSigner(strings.TrimSpace(string(secret)))
	if err != nil {
		return err
	}
	w, err := audit.NewWitness(filepath.Join(l.dir, witness, "state"), cosigner, verifier)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	log, err := audit.Open(ctx, audit.Config{Dir: filepath.Join(dir, "log"), Signer: signer, Verifier: verifier, Witness: w, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close(context.WithoutCancel(ctx))) }()
	return consistent(ctx, log, before)
}
