// Package battery attacks a back end of package runner as a worker would, and says what each attack came to. Tests run it
// on every back end as it is, with each line of hardening removed, and with all of them removed, so that a probe which
// could not succeed anywhere, a line that nothing needs and a hole that nothing covers all show; `lab node check` runs it
// on a node before the node is trusted with jobs.
//
// The attacker is the program in hostile. What its probes may touch is said there: nothing but the machine itself, by
// loopback, and nothing that is not undone.
//
// docs/ISOLATION.md has the results and what they do not show.
package battery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/battery/internal/answer"
)

// Outcome is what a probe came to.
type Outcome struct {
	Probe  string `json:"probe"`
	Worked bool   `json:"worked"`
	How    string `json:"how"` // what stopped it
}

// Result is an outcome, judged.
type Result struct {
	Probe   Probe
	Outcome Outcome
	Escaped bool
}

// String says what came of it, for a table.
func (r Result) String() string {
	switch {
	case r.Escaped:
		return "GOT OUT"
	case !r.Outcome.Worked:
		return "contained: " + r.Outcome.How
	case r.Probe.Known != "":
		return "not hidden: " + r.Probe.Known
	case r.Probe.GVisor != "":
		return "inside gVisor: " + r.Probe.GVisor
	}
	return "answered by gVisor's kernel"
}

// Report is one run of the battery.
type Report struct {
	Isolation runner.Isolation
	Results   []Result // in the order of Probes; those that were left out are missing
}

// Escapes are the probes that got out.
func (r *Report) Escapes() (out []Result) {
	for _, x := range r.Results {
		if x.Escaped {
			out = append(out, x)
		}
	}
	return out
}

// Worked are the names of the probes that did what they tried, escape or not.
func (r *Report) Worked() map[string]bool {
	out := map[string]bool{}
	for _, x := range r.Results {
		if x.Outcome.Worked {
			out[x.Probe.Name] = true
		}
	}
	return out
}

// Config is what to attack, and how.
type Config struct {
	Runner  runner.Runner
	Hostile string // path of the attacker's program
	ID      string // begins the tasks' IDs; they are unique in a Runner as long as this is
	// Alone says which of the probes that take a sandbox each, and seconds, are run; nil means all.
	Alone func(Probe) bool
	// Unbounded leaves deadline and output open, as nothing but a test would.
	Unbounded bool
	TempDir   string // for inputs; empty = the system's
	LinkDir   string // sockets that the attacker is given, as Task.LinkDir; empty = none
}

// Limits under which probes run.
func (c Config) limits() runner.Limits {
	l := runner.Limits{CPUs: 2, MemoryMiB: 64, Pids: 32, TmpMiB: 4, OutputBytes: 256 << 10, Deadline: 30 * time.Second}
	if c.Unbounded {
		l.Deadline, l.OutputBytes = time.Minute, 1<<30
	}
	return l
}

// patience is how long a probe that never ends is watched when there is no deadline to end it.
const patience = 1500 * time.Millisecond

// Run attacks. The error says that the battery could not be run, not that something got out.
func Run(ctx context.Context, c Config) (_ *Report, err error) {
	report := &Report{}
	if report.Isolation, err = c.Runner.Probe(ctx); err != nil {
		return nil, fmt.Errorf("running the battery: %w", err)
	}
	image, _, err := c.Runner.Prepare(ctx, c.Hostile, enclave.Digest{})
	if err != nil {
		return nil, fmt.Errorf("running the battery: %w", err)
	}
	dir, err := inputs(c.TempDir)
	if err != nil {
		return nil, fmt.Errorf("running the battery: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &run{Config: c, image: image, input: filepath.Join(dir, "in"), isolation: report.Isolation, outcomes: map[string]Outcome{}}
	if err := b.together(ctx); err != nil {
		return nil, fmt.Errorf("running the battery: %w", err)
	}
	for _, p := range Probes() {
		if p.Alone && (c.Alone == nil || c.Alone(p)) {
			if err := b.alone(ctx, p); err != nil {
				return nil, fmt.Errorf("running probe %q: %w", p.Name, err)
			}
		}
	}
	for _, p := range Probes() {
		if o, ok := b.outcomes[p.Name]; ok {
			report.Results = append(report.Results, Result{p, o, b.escaped(p, o)})
			delete(b.outcomes, p.Name)
		} else if !p.Alone && !strings.Contains(p.Rare, "amd64") {
			return nil, fmt.Errorf("running the battery: probe %q was not tried", p.Name)
		}
	}
	for name := range b.outcomes {
		return nil, fmt.Errorf("running the battery: the attacker tried %q, which is not in the table", name)
	}
	return report, nil
}

// run is one run in progress.
type run struct {
	Config
	image     string
	input     string
	isolation runner.Isolation
	outcomes  map[string]Outcome
	n         int
}

// escaped judges. An answer of gVisor's kernel is not one of the host's.
func (b *run) escaped(p Probe, o Outcome) bool {
	return o.Worked && p.Known == "" && (!p.Surface && p.GVisor == "" || !b.isolation.Has("kernel-gvisor"))
}

// inputs makes a folder with an input and a program among the inputs, below a folder that only its owner may enter.
func inputs(temp string) (string, error) {
	dir, err := os.MkdirTemp(temp, "battery-")
	if err != nil {
		return "", err
	}
	in := filepath.Join(dir, "in")
	err = errors.Join(os.Mkdir(in, 0o755), os.Chmod(in, 0o755), os.WriteFile(filepath.Join(in, "data"), []byte("sealed bytes"), 0o444),
		os.WriteFile(filepath.Join(in, "tool"), answer.Program(), 0o755))
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

func (b *run) task(args ...string) runner.Task {
	b.n++
	return runner.Task{ID: fmt.Sprintf("%s-%d", b.ID, b.n), Image: b.image, Args: args, InputDir: b.input, Limits: b.limits(), LinkDir: b.LinkDir,
		Labels: map[string]string{"battery": b.ID}}
}

// together runs the probes that share a sandbox, beside listeners that they should not reach.
func (b *run) together(ctx context.Context) (err error) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer tcp.Close()
	name := fmt.Sprintf("battery-%s-%d", b.ID, os.Getpid())
	local, err := net.Listen("unix", "@"+name)
	if err != nil {
		return err
	}
	defer local.Close()
	task := b.task("probes", strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port), name)
	res, err := runner.Run(ctx, b.Runner, task)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(res.Stdout) {
		var o Outcome
		if err := json.Unmarshal(line, &o); err != nil {
			return fmt.Errorf("the attacker's output: %w", err)
		}
		b.outcomes[o.Probe] = o
	}
	return res.Err() // its last words are the probe at which it ended
}

// alone runs a probe of which a sandbox may die.
func (b *run) alone(ctx context.Context, p Probe) error {
	task := b.task(p.Name)
	l := &task.Limits
	endless := p.Name == "slow-output" || p.Name == "never-ending" || p.Name == "ignored-signals"
	switch {
	case p.Name == "processors":
		return b.processors(ctx)
	case (p.Name == "processes" || p.Name == "threads") && b.isolation.Has("kernel-gvisor"):
		task.Args = append(task.Args, strconv.Itoa(3*runner.MinGVisorPids))
	case endless && !b.Unbounded:
		l.Deadline = 500 * time.Millisecond
	}
	watch := ctx
	if endless && b.Unbounded {
		var cancel context.CancelFunc
		watch, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	var mu sync.Mutex
	last := ""
	task.Progress = func(line string) { mu.Lock(); defer mu.Unlock(); last = line }
	res, err := runner.Run(watch, b.Runner, task)
	if err != nil && (ctx.Err() != nil || res.Killed != runner.Cancelled) {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	o := Outcome{Probe: p.Name}
	switch {
	case res.Killed == runner.Cancelled:
		o.Worked = true
	case res.Killed != "":
		o.How = "killed: " + res.Killed
	case res.Exit == 0:
		o.Worked = true
	default:
		o.How = fmt.Sprintf("exit %d", res.Exit)
		if len(last) > 0 && len(last) < 12 { // an errno
			o.How = last
		}
	}
	if o.Worked {
		o.How = ""
	}
	b.outcomes[p.Name] = o
	return nil
}

// processors lets four threads spin where a quarter of a processor is allowed, and sees how much they got: from outside
// if the back end can, since a kernel of the sandbox's own may count otherwise.
func (b *run) processors(ctx context.Context) error {
	const allowed = 0.25
	task := b.task("processors")
	task.Limits.CPUs = allowed
	spinning := make(chan struct{})
	var once sync.Once
	task.Progress = func(string) { once.Do(func() { close(spinning) }) }
	meter, metered := b.Runner.(runner.Meter)
	if !metered {
		res, err := runner.Run(ctx, b.Runner, task)
		if err != nil {
			return err
		}
		used, err := strconv.ParseFloat(string(res.Stdout), 64)
		if err != nil {
			return fmt.Errorf("the attacker's output: %w: %w", err, res.Err())
		}
		b.outcomes[task.Args[0]] = throttled(used, allowed)
		return nil
	}
	h, err := b.Runner.Start(ctx, task)
	if err != nil {
		return err
	}
	defer func() { _ = b.Runner.Remove(context.WithoutCancel(ctx), h) }()
	select {
	case <-spinning:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	from, start := time.Duration(0), time.Now()
	if from, err = meter.CPUTime(ctx, h); err != nil {
		return err
	}
	tick := time.NewTimer(700 * time.Millisecond)
	defer tick.Stop()
	select {
	case <-tick.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	to, err := meter.CPUTime(ctx, h)
	if err != nil {
		return err
	}
	b.outcomes[task.Args[0]] = throttled((to-from).Seconds()/time.Since(start).Seconds(), allowed)
	return b.Runner.Remove(ctx, h)
}

func throttled(used, allowed float64) Outcome {
	o := Outcome{Probe: "processors", Worked: used > 1.6*allowed}
	if !o.Worked {
		o.How = "throttled"
	}
	return o
}
