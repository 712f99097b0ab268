package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/internal/failpoint"
)

// bench has the programs, and labs to start from.
type bench struct {
	dir    string // holds everything
	schema string
	table  string

	mu     sync.Mutex
	labs   map[string]string // templates by name
	number int
}

// readTrace counts the points in a trace.
func readTrace(path string) (map[failpoint.Point]int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	passes := map[failpoint.Point]int{}
	for _, line := range strings.Fields(string(data)) {
		passes[failpoint.Point(line)]++
	}
	return passes, nil
}

func newBench(ctx context.Context) (b *bench, err error) {
	b = &bench{labs: map[string]string{}}
	if b.dir, err = os.MkdirTemp("", "faults-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	// The worker and the compute node are those that are shipped: a scenario approves their bytes. Custodians have nodes where
	// the programs lie beside the worker: in a folder of their own, for the flows that need them.
	build := []struct {
		tags     string
		to       string
		programs []string
	}{{"failpoint", b.dir, []string{"lab", "seal", "labd", "custodian", "witness"}}, {"", b.dir, []string{"worker"}},
		{"failpoint", b.beside(true), []string{"nodehost"}}, {"", b.beside(true), []string{"node"}}}
	for _, part := range build {
		args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", part.tags, "-o", part.to + string(filepath.Separator)}
		for _, p := range part.programs {
			args = append(args, "yingzhou.dev/lab/cmd/"+p)
		}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("building %v: %w: %s", part.programs, err, out)
		}
	}
	if err := os.Link(b.worker(false), b.worker(true)); err != nil {
		return b, err
	}
	if err := writeCare(b.dir); err != nil {
		return b, err
	}
	b.schema, b.table = filepath.Join(b.dir, "schema.json"), filepath.Join(b.dir, "table.csv")
	data, err := examples.Files.ReadFile("health/schema.json")
	if err != nil {
		return b, err
	}
	rows, err := hometest.Table(2000)
	if err != nil {
		return b, err
	}
	return b, errors.Join(os.WriteFile(b.schema, data, 0o600), os.WriteFile(b.table, rows, 0o600))
}

// beside is the folder of the worker, with the programs of compute nodes or without them.
func (b *bench) beside(nodes bool) string {
	if nodes {
		return filepath.Join(b.dir, "nodes")
	}
	return b.dir
}

func (b *bench) worker(nodes bool) string { return filepath.Join(b.beside(nodes), "worker") }

func (b *bench) close() error { return os.RemoveAll(b.dir) }

// template makes a lab once: at a stage, with commands run on it.
func (b *bench) template(ctx context.Context, f *flow) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if dir, ok := b.labs[f.name]; ok {
		return dir, nil
	}
	dir := filepath.Join(b.dir, "template-"+f.name)
	stage := fmt.Sprint("stage-", f.stage)
	if f.empty {
		b.labs[f.name] = dir
		return dir, os.MkdirAll(dir, 0o700)
	}
	from, ok := b.labs[stage]
	if !ok {
		from = filepath.Join(b.dir, stage)
		err := hometest.Make(ctx, from, hometest.Options{Stage: f.stage, ScenarioMicro: 3_000_000, Worker: filepath.Join(b.dir, "worker")})
		if err != nil {
			return "", err
		}
		b.labs[stage] = from
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return "", err
	}
	l := &lab{bench: b, dir: dir, joint: f.joint}
	for i, args := range f.prepare {
		var env []string
		dies := f.killed != "" && i == len(f.prepare)-1
		if dies {
			env = []string{failpoint.Armed + "=" + string(f.killed)}
		}
		if r := l.run(ctx, env, args...); r.killed != dies || !dies && r.code != 0 {
			return "", fmt.Errorf("preparing: %w", r.err())
		}
	}
	b.labs[f.name] = dir
	return dir, nil
}

// lab is a lab that something happens to.
type lab struct {
	*bench
	dir      string
	joint    bool // its custodians have compute nodes, and it is asked a joint question
	env      []string
	who      string    // folder of services that commands are run in; "" = of whoever's business each is
	services *services // nil: the lab is embedded in dir
}

// folder is a new one for a case.
func (b *bench) folder() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.number++
	return filepath.Join(b.dir, fmt.Sprintf("case-%d", b.number), "lab")
}

// copy makes an embedded lab from a template. remove it afterwards.
func (b *bench) copy(ctx context.Context, f *flow) (*lab, error) {
	from, err := b.template(ctx, f)
	if err != nil {
		return nil, err
	}
	dir := b.folder()
	return &lab{bench: b, dir: dir, joint: f.joint}, os.CopyFS(dir, os.DirFS(from))
}

func (l *lab) remove() error {
	return errors.Join(l.end(), os.RemoveAll(filepath.Dir(l.dir)))
}

// place says where the lab is to a command, and in services as whom: everybody has a folder of their own.
func (l *lab) place(args []string) []string {
	if l.services == nil {
		return []string{"LAB_DIR=" + l.dir, "LAB_ISOLATION=process", "LAB_WORKER=" + l.worker(l.joint)}
	}
	folder := l.who
	if folder == "" {
		folder = whose(args)
	}
	return []string{"LAB_CLIENT=" + filepath.Join(l.dir, folder)}
}

// whose folder a command is run in.
func whose(args []string) string {
	who := hometest.Analyst
	switch {
	case slices.Contains(args, "--as"):
		who = args[slices.Index(args, "--as")+1]
	case args[0] == "seal", args[1] == "dataset":
		who = hometest.Steward
	case args[1] == "key" && args[2] == "rotate": // its own people's business
		return leader
	case args[1] == "key":
		who = hometest.Steward
	case args[1] == "person":
		who = hometest.Official
	case args[1] == "audit":
		who = "zhao.min"
	}
	return filepath.Join("people", who)
}

// result is what a command said and how it ended.
type result struct {
	args      []string
	out, errs string
	code      int
	killed    bool
}

func (r result) err() error {
	return fmt.Errorf("%v: exit code %d, killed %v: %s", r.args, r.code, r.killed, r.errs)
}

// run runs a command of the lab to its end, whatever it is.
func (l *lab) run(ctx context.Context, env []string, args ...string) result {
	ctx, cancel := context.WithTimeout(ctx, 3*patience) // a command that hangs is a fault too
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(l.bench.dir, args[0]), args[1:]...)
	cmd.Dir, cmd.Env = l.bench.dir, slices.Concat(os.Environ(), l.place(args), l.env, env)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{args: args, out: out.String(), errs: errs.String(), code: -1}
	if cmd.ProcessState == nil {
		r.errs = err.Error()
		return r
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	r.killed = status.Signaled() && status.Signal() == syscall.SIGKILL && ctx.Err() == nil
	r.code = cmd.ProcessState.ExitCode()
	return r
}

// must runs a command that has to succeed.
func (l *lab) must(ctx context.Context, args ...string) (string, error) {
	r := l.run(ctx, nil, args...)
	if r.code != 0 {
		return r.out, r.err()
	}
	return r.out, nil
}

// read runs a command that has to succeed and reads the JSON it prints.
func (l *lab) read(ctx context.Context, into any, args ...string) error {
	out, err := l.must(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}
