package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
)

// world is a form of the lab in which everything is tried: embedded in one folder and one process, or served by daemons.
type world string

const (
	embedded world = "embedded"
	served   world = "services"
)

// flow is a command that is killed at every point that it passes, and what must hold when the lab has been used again. In
// the embedded lab the command runs every part; of services each part is killed at the points that it passes itself.
type flow struct {
	name    string
	in      world // "" = both
	stage   hometest.Stage
	empty   bool                                    // starts without a lab
	joint   bool                                    // the custodians have compute nodes, and asking means a joint question
	prepare [][]string                              // run once on the template, embedded
	killed  failpoint.Point                         // where the last of these is killed, if it is
	hold    failpoint.Point                         // services: where labd holds the prepared job when the command comes
	setup   func(ctx context.Context, l *lab) error // services: what happens before the command
	command func(ctx context.Context, l *lab) ([]string, error)
	after   func(ctx context.Context, l *lab) error
	points  []failpoint.Point            // that it is there for: some flow that names a point must pass it
	leaves  func(p failpoint.Point) bool // points that another flow is enough for; nil = none
}

const (
	question = "SELECT health, COUNT(*) AS people, AVG(mdvis) AS visits FROM health GROUP BY health"
	poor     = "SELECT COUNT(*) FROM health WHERE health = 'poor'"
)

func submit(query string, flags ...string) []string {
	return append(append([]string{"lab", "job", "submit", "--scenario", hometest.Scenario}, flags...), query)
}

// question is how this lab is asked.
func (l *lab) question() []string {
	if l.joint {
		return jointQuestion
	}
	return submit(question)
}

func always(args ...string) func(context.Context, *lab) ([]string, error) {
	return func(context.Context, *lab) ([]string, error) { return args, nil }
}

// ofTheLog are points that every command passes.
func ofTheLog(p failpoint.Point) bool {
	return strings.HasPrefix(string(p), "log.") || strings.HasPrefix(string(p), "witness.") || p == failpoint.EntryNoted
}

// ofAWorker are points at which a worker's process or container may be there.
func ofAWorker(p failpoint.Point) bool {
	return strings.HasPrefix(string(p), "worker.") || p == failpoint.WorkerEnded
}

// but leaves everything but some points.
func but(points ...failpoint.Point) func(failpoint.Point) bool {
	return func(p failpoint.Point) bool { return !slices.Contains(points, p) }
}

func flows() []*flow {
	return append([]*flow{
		{name: "job", command: always(submit(question)...), after: jobEnds, points: []failpoint.Point{
			failpoint.JobCreated, failpoint.PlanLogged, failpoint.PlanStored, failpoint.JobStarted, failpoint.InputsStaged, failpoint.TaskWritten, failpoint.TaskStarted,
			failpoint.TaskWaited, failpoint.TaskRemoved, failpoint.WorkerEnded, failpoint.ReceiptLogged, failpoint.ReceiptStored, failpoint.OpeningStored,
			failpoint.BlobCopied, failpoint.BlobChecked, failpoint.LeavesKept, failpoint.LogFollowed, failpoint.ChargeLogged, failpoint.LedgerWritten,
			failpoint.ChargeStored, failpoint.SharesLogged, failpoint.SharesStored, failpoint.ReleaseLogged, failpoint.EvidenceStored, failpoint.ReleaseKept,
			failpoint.ReleaseGathers, failpoint.GateAnswered, failpoint.ReleaseIndexed, failpoint.ReleaseStored,
			failpoint.EntryNoted, failpoint.LogIntegrated, failpoint.LogSigned, failpoint.WitnessRemembers, failpoint.LogWitnessed, failpoint.LogStored}},
		{name: "refused job", prepare: [][]string{submit("SELECT COUNT(*) FROM health WHERE health = 'good'"), submit("SELECT COUNT(*) FROM health WHERE health = 'fair'"),
			submit(poor)}, command: always(submit("SELECT COUNT(*) FROM health WHERE health <> 'poor'")...), after: jobIsRefused,
			points: refusal, leaves: but(refusal...)},
		{name: "job that was running", prepare: [][]string{submit(question)}, killed: failpoint.TaskStarted, command: takeUp, after: func(ctx context.Context, l *lab) error {
			before, err := l.seen()
			return errors.Join(err, l.resumes(ctx, before))
		}, points: []failpoint.Point{failpoint.JobRestarted}, leaves: but(failpoint.JobRestarted)},
		{name: "cancelled job", prepare: [][]string{submit(question, "--no-wait")}, hold: failpoint.InputsStaged, command: func(ctx context.Context, l *lab) ([]string, error) {
			job, err := l.onlyJob(ctx)
			return []string{"lab", "job", "cancel", string(job.ID), "--reason", "wrong year"}, err
		}, after: jobIsCancelled, points: []failpoint.Point{failpoint.CancelLogged, failpoint.CancelStored}, leaves: but(failpoint.CancelLogged, failpoint.CancelStored)},
		{name: "statement", command: always(application...), after: appliesAgain,
			points: []failpoint.Point{failpoint.StatementPending, failpoint.StatementLogged, failpoint.StatementStored}},
		{name: "sealing", stage: hometest.Sealed, command: func(_ context.Context, l *lab) ([]string, error) {
			return []string{"seal", l.table, "--dataset", hometest.Dataset}, nil
		}, after: sealsAgain, points: []failpoint.Point{failpoint.BlobStored, failpoint.BlobsStored, failpoint.ManifestLogged, failpoint.ManifestStored}},
		{name: "registration", stage: hometest.Staffed, command: func(_ context.Context, l *lab) ([]string, error) {
			return []string{"lab", "dataset", "register", l.schema}, nil
		}, after: registersAgain, leaves: ofTheLog, points: []failpoint.Point{failpoint.DatasetKeyStored, failpoint.SchemaStored, failpoint.KeysetKept,
			failpoint.PieceStored, failpoint.KeysetLogged, failpoint.KeysetStored}},
		{name: "person", stage: hometest.Staffed, command: always(newPerson...), after: personIsThere, leaves: ofTheLog,
			points: []failpoint.Point{failpoint.RosterLogged, failpoint.RosterStored, failpoint.RosterKept, failpoint.IdentityStored}},
		{name: "job under a new roster", in: served, setup: func(ctx context.Context, l *lab) error {
			_, err := l.must(ctx, newPerson...)
			return err
		}, command: always(submit(question)...), after: jobEnds, points: []failpoint.Point{failpoint.RosterKept}, leaves: but(failpoint.RosterKept)},
		{name: "making a lab", in: embedded, empty: true, command: func(_ context.Context, l *lab) ([]string, error) { return []string{"lab", "init", l.dir}, nil }, after: labIsMade,
			points: []failpoint.Point{failpoint.IdentityStored, failpoint.LabNamed}},
		{name: "laying out", in: embedded, command: func(_ context.Context, l *lab) ([]string, error) { return l.deploy(), nil }, after: isLaidOut,
			points: []failpoint.Point{failpoint.MoveBegun, failpoint.MoveMade, failpoint.MoveEnded}, leaves: ofTheLog},
	}, append(lifecycle(), jointly())...)
}

var (
	application = []string{"lab", "scenario", "apply", "next", "--purpose", "p", "--epsilon", "1", "--until", "2030-01-01", "--use", "health: mdvis=aggregate"}

	newPerson = []string{"lab", "person", "add", "wu.di", "--role", "analyst", "--body", "崇明数科"}
	refusal   = []failpoint.Point{failpoint.RefusalNoted, failpoint.RefusalStored, failpoint.RefusalLogged, failpoint.EndLogged, failpoint.EndStored}
)

// kills runs a flow whole, to learn which points it passes, and makes a case of each: of the first and of the last time.
func (m *matrix) kills(ctx context.Context, f *flow) ([]fault, error) {
	passes, err := m.trace(ctx, f)
	if err != nil {
		return nil, err
	}
	var out []fault
	for _, p := range failpoint.All() {
		n := passes[p]
		if n > 0 {
			m.reached(embedded, f, p)
		}
		if n == 0 || f.leaves != nil && f.leaves(p) {
			continue
		}
		times := []int{1}
		if n > 1 && !m.quick && f.name == "job" {
			last := n
			if ofTheLog(p) || p == failpoint.LeavesKept || p == failpoint.LogFollowed {
				last = n / 2 // how many entries share a round, and are read at once, varies
			}
			times = append(times, max(2, last))
		}
		for _, nth := range times {
			armed := fmt.Sprintf("%s:%d", p, nth)
			out = append(out, fault{name: f.name + ", killed at " + armed, try: func(ctx context.Context) error { return m.kill(ctx, f, armed, nil) }})
			if ofAWorker(p) {
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
	args, err := f.command(ctx, l)
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
	if err := l.read(ctx, &res, l.question()...); err != nil {
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
	if strings.Count(table, "\n") < 3 {
		return fmt.Errorf("fewer than two cells were released:\n%s", table)
	}
	return l.charges(ctx, 1_000_000)
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
	if err := l.abandoned(ctx); err != nil {
		return "", err
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
	return l.charges(ctx, 3_000_000)
}

func jobIsCancelled(ctx context.Context, l *lab) error {
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	if l.services != nil { // labd drives it on by itself: whichever is first
		return cancelledOrReleased(ctx, l, job.ID)
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

// cancelledOrReleased waits for the end of a job that was to be cancelled: it is one or the other, never both, and only a
// release costs anything.
func cancelledOrReleased(ctx context.Context, l *lab, id sandbox.JobID) error {
	r := l.run(ctx, nil, "lab", "job", "watch", string(id))
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	_, release := l.must(ctx, "lab", "release", "get", string(id), "--format", "csv")
	switch {
	case job.State == sandbox.Cancelled && r.code != 0 && release != nil:
		if _, err := l.ask(ctx, "1"); err != nil { // nothing was charged for the cancelled one
			return err
		}
	case job.State == sandbox.Released && r.code == 0 && release == nil:
	default:
		return fmt.Errorf("the job is %s: %w", job.State, errors.Join(r.err(), release))
	}
	return l.charges(ctx, 1_000_000)
}

// takeUp goes on with the job that there is. labd does so by itself, once it is started, and is asked the same meanwhile.
func takeUp(ctx context.Context, l *lab) ([]string, error) {
	if l.services != nil {
		return submit(question), nil
	}
	job, err := l.onlyJob(ctx)
	return []string{"lab", "job", "watch", string(job.ID)}, err
}

// appliesAgain checks that the log and the lab have the same applications, whatever became of the one that was cut off, and
// that another is taken.
func appliesAgain(ctx context.Context, l *lab) error {
	if _, err := l.ask(ctx, "1"); err != nil { // custodians insist that they are shown every statement
		return err
	}
	for again := range 2 {
		var list []struct {
			Scenario enclave.Digest `json:"scenario"`
			Body     struct {
				Name string `json:"name"`
			} `json:"body"`
		}
		if err := l.read(ctx, &list, "lab", "scenario", "list"); err != nil {
			return err
		}
		logged, err := l.entries(ctx, enclave.EntryStatement)
		if err != nil {
			return err
		}
		logged = slices.DeleteFunc(logged, func(e entry) bool { return e.By != hometest.Analyst })
		found := map[string]int{}
		for _, s := range list {
			found[s.Body.Name]++
			if !slices.ContainsFunc(logged, func(e entry) bool { return e.Subject == s.Scenario }) {
				return fmt.Errorf("scenario %q is there, and the log has no entry of it", s.Body.Name)
			}
		}
		if len(list) != len(logged) || found[hometest.Scenario] != 1 || found["next"] < again {
			return fmt.Errorf("the lab has the scenarios %v, and the log has %d applications", found, len(logged))
		}
		if again == 1 {
			break
		}
		if _, err := l.must(ctx, application...); err != nil {
			return err
		}
	}
	return l.charges(ctx, 1_000_000)
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
	if err := l.already(ctx, "the name belongs to analyst", newPerson...); err != nil {
		return err
	}
	out, err := l.must(ctx, "lab", "person", "list")
	if err == nil && strings.Count(out, "wu.di") != 1 {
		err = fmt.Errorf("the roster has\n%s", out)
	}
	return err
}

// deploy lays the lab out beside its folder.
func (l *lab) deploy() []string {
	return []string{"lab", "deploy", "--to", l.dir + ".out", "--worker", filepath.Join(l.bench.dir, "worker")}
}

// isLaidOut ends what was cut off. The lab is then in the new folder alone, and works from there.
func isLaidOut(ctx context.Context, l *lab) error {
	if err := l.already(ctx, "is there already", l.deploy()...); err != nil {
		return err
	}
	if r := l.run(ctx, nil, "lab", "job", "list"); r.code == 0 {
		return errors.New("the lab can still be opened where it was")
	}
	if left := l.glob("../*.laying"); len(left) > 0 {
		return fmt.Errorf("left behind: %q", left)
	}
	if err := l.moveTo(l.dir + ".out"); err != nil {
		return err
	}
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	_, err := l.ask(ctx, "1")
	return err
}

func labIsMade(ctx context.Context, l *lab) error {
	if err := l.already(ctx, "there is a lab already", "lab", "init", l.dir); err != nil {
		return err
	}
	_, err := l.must(ctx, "lab", "person", "add", hometest.Steward, "--role", "steward", "--body", hometest.Agency)
	return err
}

// trace runs a flow whole and counts the points that it passes.
func (m *matrix) trace(ctx context.Context, f *flow) (passes map[failpoint.Point]int, err error) {
	l, err := m.bench.copy(ctx, f)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	args, err := f.command(ctx, l)
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
