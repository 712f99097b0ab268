package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
)

// flow is a command that is killed at every point that it passes, and what must hold when the lab has been used again.
// The command runs every part of the embedded lab in one process. A daemon's flow would start the others first and arm
// the one that it names.
type flow struct {
	name    string
	stage   hometest.Stage
	empty   bool       // starts without a lab
	prepare [][]string // run once on the template
	command func(l *lab) ([]string, error)
	after   func(ctx context.Context, l *lab) error
	leaves  func(p failpoint.Point) bool // points that another flow is enough for; nil = none
}

const (
	question = "SELECT health, COUNT(*) AS people, AVG(mdvis) AS visits FROM health GROUP BY health"
	poor     = "SELECT COUNT(*) FROM health WHERE health = 'poor'"
)

func submit(query string, flags ...string) []string {
	return append(append([]string{"lab", "job", "submit", "--scenario", hometest.Scenario}, flags...), query)
}

func always(args ...string) func(*lab) ([]string, error) {
	return func(*lab) ([]string, error) { return args, nil }
}

// ofTheLog are points that every command passes.
func ofTheLog(p failpoint.Point) bool {
	return strings.HasPrefix(string(p), "log.") || strings.HasPrefix(string(p), "witness.") || p == failpoint.EntryNoted
}

func flows() []*flow {
	return []*flow{
		{name: "job", command: always(submit(question)...), after: jobEnds},
		{name: "refused job", prepare: [][]string{submit("SELECT COUNT(*) FROM health WHERE health = 'good'"), submit("SELECT COUNT(*) FROM health WHERE health = 'fair'"),
			submit(poor)}, command: always(submit("SELECT COUNT(*) FROM health WHERE health <> 'poor'")...), after: jobIsRefused,
			leaves: func(p failpoint.Point) bool {
				return p != failpoint.RefusalNoted && p != failpoint.RefusalStored && p != failpoint.RefusalLogged && p != failpoint.EndLogged && p != failpoint.EndStored
			}},
		{name: "cancelled job", prepare: [][]string{submit(question, "--no-wait")}, command: func(l *lab) ([]string, error) {
			job, err := l.onlyJob(context.Background())
			return []string{"lab", "job", "cancel", string(job.ID), "--reason", "wrong year"}, err
		}, after: jobIsCancelled, leaves: ofTheLog},
		{name: "statement", command: always("lab", "scenario", "apply", "next", "--purpose", "p", "--epsilon", "1", "--until", "2030-01-01", "--use", "health: mdvis=aggregate"),
			after: func(ctx context.Context, l *lab) error { _, err := l.ask(ctx, "1"); return err }},
		{name: "sealing", stage: hometest.Sealed, command: func(l *lab) ([]string, error) {
			return []string{"seal", l.table, "--dataset", hometest.Dataset}, nil
		}, after: sealsAgain},
		{name: "registration", stage: hometest.Staffed, command: func(l *lab) ([]string, error) {
			return []string{"lab", "dataset", "register", l.schema}, nil
		}, after: registersAgain, leaves: ofTheLog},
		{name: "person", stage: hometest.Staffed, command: always("lab", "person", "add", "wu.di", "--role", "analyst", "--body", "崇明数科"), after: personIsThere, leaves: ofTheLog},
		{name: "making a lab", empty: true, command: func(l *lab) ([]string, error) { return []string{"lab", "init", l.dir}, nil }, after: labIsMade},
	}
}

// kills runs a flow whole, to learn which points it passes, and makes a case of each: of the first and of the last time.
func (m *matrix) kills(ctx context.Context, f *flow) ([]fault, error) {
	passes, err := m.trace(ctx, f)
	if err != nil {
		return nil, err
	}
	var out []fault
	for _, p := range failpoint.All() {
		n := passes[p]
		if n == 0 || f.leaves != nil && f.leaves(p) {
			continue
		}
		m.reached(p)
		times := []int{1}
		if n > 1 && !m.quick && f.name == "job" {
			last := n
			if ofTheLog(p) {
				last = n / 2 // how many appends share a round varies
			}
			times = append(times, max(2, last))
		}
		for _, nth := range times {
			armed := fmt.Sprintf("%s:%d", p, nth)
			out = append(out, fault{name: f.name + ", killed at " + armed, try: func(ctx context.Context) error { return m.kill(ctx, f, armed, nil) }})
			if strings.HasPrefix(string(p), "worker.") || p == failpoint.WorkerEnded {
				out = append(out, fault{name: f.name + ", in Docker, killed at " + armed, try: func(ctx context.Context) error {
					if !dockerAnswers(ctx) {
						return fmt.Errorf("%w: no Docker daemon answers", errSkip)
					}
					return m.kill(ctx, f, armed, []string{"LAB_ISOLATION=docker"})
				}})
			}
		}
	}
	return out, nil
}

func (m *matrix) kill(ctx context.Context, f *flow, armed string, env []string) (err error) {
	l, err := m.bench.copy(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	l.env = env
	args, err := f.command(l)
	if err != nil {
		return err
	}
	if r := l.run(ctx, []string{failpoint.Armed + "=" + armed}, args...); !r.killed {
		return fmt.Errorf("it was not killed: %w", r.err())
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := f.after(ctx, l); err != nil {
		return err
	}
	return l.intact(ctx, before)
}

// onlyJob finds the lab's only job; none is an empty one.
func (l *lab) onlyJob(ctx context.Context) (job sandbox.Job, err error) {
	jobs, err := l.jobs(ctx)
	if err != nil || len(jobs) == 0 {
		return job, err
	}
	if len(jobs) > 1 {
		return job, fmt.Errorf("one command made %d jobs", len(jobs))
	}
	return jobs[0], nil
}

// jobs lists the jobs, the newest first.
func (l *lab) jobs(ctx context.Context) (jobs []sandbox.Job, err error) {
	var views []struct {
		ID     sandbox.JobID `json:"job"`
		State  sandbox.State `json:"state"`
		Reason string        `json:"reason"`
	}
	if err := l.read(ctx, &views, "lab", "job", "list"); err != nil {
		return nil, err
	}
	for _, v := range views {
		jobs = append(jobs, sandbox.Job{ID: v.ID, State: v.State, Reason: v.Reason})
	}
	return jobs, nil
}

// ask submits the question and returns its table. charged is what the dataset must be charged for it.
func (l *lab) ask(ctx context.Context, charged string) (string, error) {
	var res struct {
		Job     string `json:"job"`
		Charged string `json:"charged_epsilon"`
	}
	if err := l.read(ctx, &res, submit(question)...); err != nil {
		return "", err
	}
	if res.Charged != charged {
		return "", fmt.Errorf("charged ε %s, want %s", res.Charged, charged)
	}
	return l.must(ctx, "lab", "release", "get", res.Job, "--format", "csv")
}

// jobEnds takes the job up and compares what it releases with what the same question gives when asked again: the same
// numbers, without another charge.
func jobEnds(ctx context.Context, l *lab) error {
	table, err := l.finish(ctx)
	if err != nil {
		return err
	}
	again, err := l.ask(ctx, "0")
	if err != nil {
		return err
	}
	if table != again {
		return fmt.Errorf("asked again, the numbers differ:\n%s\n%s", table, again)
	}
	return l.charges(1_000_000)
}

// finish takes an interrupted job up, or asks again where nothing had been promised, and returns the released table.
func (l *lab) finish(ctx context.Context) (string, error) {
	job, err := l.onlyJob(ctx)
	if err != nil {
		return "", err
	}
	if job.ID == "" {
		return l.ask(ctx, "1")
	}
	if r := l.run(ctx, nil, "lab", "job", "watch", string(job.ID)); r.code != 0 {
		now, err := l.onlyJob(ctx)
		if err != nil || job.State != sandbox.Queued || now.State != sandbox.Failed || !strings.Contains(r.errs, "submit it again") {
			return "", fmt.Errorf("job was %s, is %s: %w", job.State, now.State, errors.Join(r.err(), err))
		}
		return l.ask(ctx, "1")
	}
	return l.must(ctx, "lab", "release", "get", string(job.ID), "--format", "csv")
}

// jobIsRefused checks that the fourth job, which the budget is not enough for, ends without being charged.
func jobIsRefused(ctx context.Context, l *lab) error {
	jobs, err := l.jobs(ctx)
	if err != nil {
		return err
	}
	last := jobs[0]
	r := l.run(ctx, nil, "lab", "job", "watch", string(last.ID))
	if jobs, err = l.jobs(ctx); err != nil {
		return err
	}
	if now := jobs[0]; now.State != sandbox.Refused || !strings.Contains(now.Reason+r.errs, "budget") || len(jobs) != 4 {
		return fmt.Errorf("%d jobs, the last was %s and is %s: %w", len(jobs), last.State, now.State, r.err())
	}
	return l.charges(3_000_000)
}

func jobIsCancelled(ctx context.Context, l *lab) error {
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	if job.State != sandbox.Cancelled {
		if _, err := l.must(ctx, "lab", "job", "cancel", string(job.ID)); err != nil {
			return err
		}
	}
	if r := l.run(ctx, nil, "lab", "job", "watch", string(job.ID)); r.code == 0 {
		return errors.New("a cancelled job was released")
	}
	_, err = l.ask(ctx, "1")
	return err
}

func sealsAgain(ctx context.Context, l *lab) error {
	var sealed struct{ Version int }
	if err := l.read(ctx, &sealed, "seal", l.table, "--dataset", hometest.Dataset); err != nil {
		return err
	}
	if sealed.Version != 2 && sealed.Version != 3 { // 3 if the first had been published
		return fmt.Errorf("sealed as version %d", sealed.Version)
	}
	return nil
}

// already runs a command again that may have come to its end before.
func (l *lab) already(ctx context.Context, done string, args ...string) error {
	if r := l.run(ctx, nil, args...); r.code != 0 && !strings.Contains(r.errs, done) {
		return r.err()
	}
	return nil
}

func registersAgain(ctx context.Context, l *lab) error {
	if err := l.already(ctx, "it is registered already", "lab", "dataset", "register", l.schema); err != nil {
		return err
	}
	_, err := l.must(ctx, "seal", l.table, "--dataset", hometest.Dataset)
	return err
}

func personIsThere(ctx context.Context, l *lab) error {
	if err := l.already(ctx, "the name belongs to analyst", "lab", "person", "add", "wu.di", "--role", "analyst", "--body", "崇明数科"); err != nil {
		return err
	}
	out, err := l.must(ctx, "lab", "person", "list")
	if err == nil && strings.Count(out, "wu.di") != 1 {
		err = fmt.Errorf("the roster has\n%s", out)
	}
	return err
}

func labIsMade(ctx context.Context, l *lab) error {
	if err := l.already(ctx, "there is a lab already", "lab", "init", l.dir); err != nil {
		return err
	}
	_, err := l.must(ctx, "lab", "person", "add", hometest.Steward, "--role", "steward", "--body", hometest.Agency)
	return err
}

// reached notes that a flow is killed at a point.
func (m *matrix) reached(p failpoint.Point) {
	m.bench.mu.Lock()
	defer m.bench.mu.Unlock()
	if !slices.Contains(m.bench.points, p) {
		m.bench.points = append(m.bench.points, p)
	}
}

// missed lists the points at which no flow is killed.
func (m *matrix) missed() []failpoint.Point {
	return slices.DeleteFunc(failpoint.All(), func(p failpoint.Point) bool { return slices.Contains(m.bench.points, p) })
}

// trace runs a flow whole and counts the points that it passes.
func (m *matrix) trace(ctx context.Context, f *flow) (passes map[failpoint.Point]int, err error) {
	l, err := m.bench.copy(ctx, f)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	args, err := f.command(l)
	if err != nil {
		return nil, err
	}
	path := l.dir + ".trace"
	r := l.run(ctx, []string{failpoint.Trace + "=" + path}, args...)
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
	return readTrace(path)
}
