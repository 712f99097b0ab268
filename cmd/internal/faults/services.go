package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
