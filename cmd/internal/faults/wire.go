package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
)

// Who leads the first release of a labd's life, and who does not.
const (
	leader = "custodian-cyber"
	other  = "custodian-notary"
)

// onTheWire is what happens to a lab of services besides the killing of its parts: cut wires, bodies that are away, clocks
// and disks of one machine alone, and people who change their minds.
func (m *matrix) onTheWire() []fault {
	job := flows()[0]
	pending := &flow{name: "submitted job", prepare: [][]string{submit(question, "--no-wait")}}
	spent := &flow{name: "refused job"}
	for _, f := range flows() {
		if f.name == spent.name {
			spent = f
		}
	}
	with := func(name string, f *flow, try func(context.Context, *lab) error) fault {
		return fault{name: "services: " + name, try: func(ctx context.Context) (err error) {
			l, err := m.bench.serve(ctx, f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.remove()) }()
			if err := try(ctx, l); err != nil {
				return errors.Join(err, l.logs())
			}
			return nil
		}}
	}
	out := []fault{
		with("wire between labd and a custodian cut before the release", job, cutBefore),
		with("wire between a custodian and labd cut before its charge is logged", job, cutFromLog),
		with("two custodians are away", job, twoStopped),
		with("compute node killed while it computes", jointly(), nodeKilled),
		with("custodian restored from an old copy of its folder", job, oldFolder),
		with("cancelling overtaken by the release", pending, cancelOvertaken),
		with("cancelling before the receipt's end", pending, cancelFirst),
		with("cancelling once the job is being opened", pending, cancelLate),
		with("cancelling races release, six times", job, cancelRaces),
		with("licence expires in the middle of a job", job, func(ctx context.Context, l *lab) error { return allShifted(ctx, l, "30000h") }),
		with("clock set back everywhere in the middle of a job", job, func(ctx context.Context, l *lab) error { return allShifted(ctx, l, "-100h") }),
		with("clock set back at one custodian", job, oneShifted),
		with("ledger's last line torn at one custodian", job, func(ctx context.Context, l *lab) error { return tornEnd(ctx, l, "state/ledger.jsonl") }),
		with("followed entries torn at one custodian", job, func(ctx context.Context, l *lab) error { return tornEnd(ctx, l, "state/log-entries") }),
		with("journal of refusals torn at one custodian", spent, tornRefusals),
		with("shares torn at one custodian", job, tornShare),
	}
	for _, file := range []string{leader + "/state/log-seen.json", witness + "/state/checkpoint.seen", labd + "/log/checkpoint.cosigned"} {
		out = append(out, with(file+" torn", job, func(ctx context.Context, l *lab) error { return tornWhole(ctx, l, file) }))
	}
	// Of the custodians that endorse, only who is first with it records the release (failpoint.ReleaseKept); each stores evidence.
	for _, cut := range []struct {
		when  string
		where string // who is held while the wire is cut
		at    failpoint.Point
		nth   int
	}{
		{"during the commit", leader, failpoint.ChargeStored, 1},
		{"during stage one", leader, failpoint.SharesLogged, 1},
		{"after a share was stored, before its answer", leader, failpoint.SharesStored, 1},
		{"between the stages", leader, failpoint.SharesLogged, 2},
		{"after an endorsement's evidence was stored, before its answer", leader, failpoint.EvidenceStored, 1},
		{"after all endorsements, before the answer", leader, failpoint.ReleaseGathers, 1},
		{"during the commit", other, failpoint.ChargeStored, 1},
		{"after a share was stored, before its answer", other, failpoint.SharesStored, 1},
		{"between the stages", other, failpoint.SharesLogged, 2},
		{"after an endorsement's evidence was stored, before its answer", other, failpoint.EvidenceStored, 1},
	} {
		from := labd
		if cut.where == other {
			from = leader
		}
		out = append(out, with(fmt.Sprintf("wire between %s and %s cut %s", from, cut.where, cut.when), job, func(ctx context.Context, l *lab) error {
			return cutAt(ctx, l, from, cut.where, cut.at, cut.nth)
		}))
	}
	for _, kib := range []uint64{0, 16, 64, 256} {
		out = append(out, with(fmt.Sprintf("disk of the log full with %d KiB left", kib), job, func(ctx context.Context, l *lab) error { return fullLog(ctx, l, kib) }))
	}
	out = append(out, with("disk of a custodian full once it has charged", job, fullAfterCharge))
	for _, kib := range []uint64{0, 4, 24, 300} {
		out = append(out, with(fmt.Sprintf("disk of a custodian full with %d KiB left", kib), job, func(ctx context.Context, l *lab) error { return fullState(ctx, l, kib) }))
	}
	return out
}

// wire puts a proxy between a caller and a daemon.
func (l *lab) wire(from, to string) (*proxy, error) {
	at := l.address(to)
	host, port, _ := strings.Cut(at, ":")
	between := fmt.Sprintf("%s:1%s", host, port)
	if err := l.rewrite(l.config(from), at, between); err != nil {
		return nil, err
	}
	return newProxy(between, at)
}

func (l *lab) config(part string) string {
	if slices.Contains(custodians, part) {
		return filepath.Join(l.dir, part, "custodian.yaml")
	}
	return filepath.Join(l.dir, part, part+".yaml")
}

// submitted runs the question in the background.
func (l *lab) submitted(ctx context.Context) <-chan result {
	out := make(chan result, 1)
	go func() { out <- l.run(ctx, nil, submit(question)...) }()
	return out
}

// whole checks that the job ended, was charged once, and left nothing.
func whole(ctx context.Context, l *lab, before seen) error {
	if err := jobEnds(ctx, l); err != nil {
		return err
	}
	return l.intact(ctx, before)
}

// cutBefore has labd lose a custodian's wire before it asks: another leads. With the wire back everybody has the charge.
func cutBefore(ctx context.Context, l *lab) (err error) {
	p, err := l.wire(labd, leader)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	p.sever()
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	if r := l.run(ctx, nil, submit(question)...); r.code != 0 {
		return r.err()
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	p.mend()
	return whole(ctx, l, before)
}

// cutAt cuts a wire while the custodian at its end stands at a point, so that the answer to what it is doing is lost, and
// lets it go on. Whoever asked has to ask again, over a wire that is there again.
func cutAt(ctx context.Context, l *lab, from, to string, point failpoint.Point, nth int) (err error) {
	p, err := l.wire(from, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	g, err := l.hold(point, nth)
	if err != nil {
		return err
	}
	if err := l.startAll(ctx, map[string][]string{to: {held(g)}}); err != nil {
		return err
	}
	ended := l.submitted(ctx)
	open, err := g.reached(ctx)
	if err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	p.sever()
	if err := open(); err != nil {
		return err
	}
	p.mend()
	if r := <-ended; r.code != 0 {
		return r.err()
	}
	return whole(ctx, l, before)
}

// cutFromLog cuts a custodian off from the log. What cannot be logged does not happen: the others go on without it.
func cutFromLog(ctx context.Context, l *lab) (err error) {
	p, err := l.wire(other, labd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	p.sever()
	if r := l.run(ctx, nil, submit(question)...); r.code != 0 {
		return r.err()
	}
	lines, err := charges(filepath.Join(l.dir, other, "state", "ledger.jsonl"))
	if err != nil {
		return err
	}
	for _, line := range lines {
		if strings.Contains(line, `"by":"`+other+`"`) {
			return fmt.Errorf("%s charged what it could not log: %s", other, line)
		}
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	p.mend()
	return whole(ctx, l, before)
}

// stage waits until what the lab says of its only job has certain words.
func (l *lab) stage(ctx context.Context, words ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := l.must(ctx, "lab", "job", "list", "--json")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(out, w) }) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the job does not come to say %q: %w: %s", words, ctx.Err(), out)
		}
	}
}

// twoStopped takes two custodians away: the job waits and says for what. It goes on by itself when one is back.
func twoStopped(ctx context.Context, l *lab) error {
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	if err := errors.Join(l.stop(leader), l.stop(other)); err != nil {
		return err
	}
	if _, err := l.must(ctx, submit(question, "--no-wait")...); err != nil {
		return err
	}
	if err := l.stage(ctx, "waiting to be tried again", leader, other); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := l.start(ctx, other); err != nil {
		return err
	}
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	if r := l.run(ctx, nil, "lab", "job", "watch", string(job.ID)); r.code != 0 {
		return r.err()
	}
	if err := l.start(ctx, leader); err != nil {
		return err
	}
	return whole(ctx, l, before)
}

// oldFolder puts a custodian's folder back to before a release. It merges its ledger from its peers before it signs
// anything.
func oldFolder(ctx context.Context, l *lab) error {
	folder, backup := filepath.Join(l.dir, leader), l.dir+".backup"
	if err := os.CopyFS(backup, os.DirFS(folder)); err != nil {
		return err
	}
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	if err := l.stop(leader); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(folder), os.CopyFS(folder, os.DirFS(backup)), l.start(ctx, leader)); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if _, err := l.must(ctx, submit(poor)...); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "0"); err != nil {
		return err
	}
	return errors.Join(l.charges(ctx, 2_000_000), l.intact(ctx, before))
}

// heldJob starts a lab whose prepared job labd holds at a point.
func heldJob(ctx context.Context, l *lab, p failpoint.Point, more ...*gate) (id string, open func() error, err error) {
	g, err := l.hold(p, 1)
	if err != nil {
		return "", nil, err
	}
	if err := l.startAll(ctx, map[string][]string{labd: {held(append(more, g)...)}}); err != nil {
		return "", nil, err
	}
	if open, err = g.reached(ctx); err != nil {
		return "", nil, err
	}
	job, err := l.onlyJob(ctx)
	return string(job.ID), open, err
}

// cancelOvertaken has a cancellation stop after its log entry while the job goes on to its release: the release stands, and
// whoever cancels hears so.
func cancelOvertaken(ctx context.Context, l *lab) error {
	g, err := l.hold(failpoint.CancelLogged, 1)
	if err != nil {
		return err
	}
	id, open, err := heldJob(ctx, l, failpoint.InputsStaged, g)
	if err != nil {
		return err
	}
	cancelled := make(chan result, 1)
	go func() { cancelled <- l.run(ctx, nil, "lab", "job", "cancel", id) }()
	late, err := g.reached(ctx)
	if err != nil {
		return err
	}
	if err := open(); err != nil {
		return err
	}
	if r := l.run(ctx, nil, "lab", "job", "watch", id); r.code != 0 {
		return r.err()
	}
	if err := late(); err != nil {
		return err
	}
	if r := <-cancelled; r.code == 0 {
		return fmt.Errorf("a released job was cancelled: %s", r.out)
	}
	before, err := l.seen()
	return errors.Join(err, cancelledOrReleased(ctx, l, sandbox.JobID(id)), l.intact(ctx, before))
}

// cancelFirst cancels a job that has its receipt and is not opened yet: it stays cancelled and costs nothing.
func cancelFirst(ctx context.Context, l *lab) error {
	id, open, err := heldJob(ctx, l, failpoint.ReceiptStored)
	if err != nil {
		return err
	}
	if _, err := l.must(ctx, "lab", "job", "cancel", id); err != nil {
		return err
	}
	if err := open(); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	job, err := l.onlyJob(ctx)
	if err != nil || job.State != sandbox.Cancelled {
		return fmt.Errorf("the job is %s: %w", job.State, err)
	}
	return errors.Join(cancelledOrReleased(ctx, l, sandbox.JobID(id)), l.intact(ctx, before))
}

func cancelLate(ctx context.Context, l *lab) error {
	id, open, err := heldJob(ctx, l, failpoint.OpeningStored)
	if err != nil {
		return err
	}
	r := l.run(ctx, nil, "lab", "job", "cancel", id)
	if err := open(); err != nil {
		return err
	}
	if r.code == 0 {
		return errors.New("a job that was being opened was cancelled")
	}
	before, err := l.seen()
	return errors.Join(err, jobEnds(ctx, l), l.intact(ctx, before))
}

// cancelRaces cancels jobs of one question at any moment of theirs. Each is cancelled or released; together they cost what
// one costs.
func cancelRaces(ctx context.Context, l *lab) error {
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	for range 6 {
		var job struct {
			ID sandbox.JobID `json:"job"`
		}
		if err := l.read(ctx, &job, submit(question, "--no-wait")...); err != nil {
			return err
		}
		c := l.run(ctx, nil, "lab", "job", "cancel", string(job.ID))
		w := l.run(ctx, nil, "lab", "job", "watch", string(job.ID))
		if (c.code == 0) == (w.code == 0) {
			return fmt.Errorf("cancelled and released, or neither: %w, %w", c.err(), w.err())
		}
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if _, err := l.must(ctx, submit(question)...); err != nil {
		return err
	}
	return errors.Join(l.charges(ctx, 1_000_000), l.intact(ctx, before))
}

// allShifted goes on with a charged job under clocks by which its authority is not valid: it is refused. Asked at the right
// time it is charged once.
func allShifted(ctx context.Context, l *lab, shift string) error {
	g, err := l.hold(failpoint.ChargeStored, 1)
	if err != nil {
		return err
	}
	if err := l.startAll(ctx, map[string][]string{leader: {held(g)}}); err != nil {
		return err
	}
	if _, err := l.must(ctx, submit(question, "--no-wait")...); err != nil {
		return err
	}
	if _, err := g.reached(ctx); err != nil {
		return err
	}
	if err := l.end(); err != nil { // the power of everybody
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	env := map[string][]string{}
	for _, part := range parts() {
		env[part] = []string{failpoint.Shift + "=" + shift}
	}
	if err := l.startAll(ctx, env); err != nil {
		return err
	}
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	if r := l.run(ctx, nil, "lab", "job", "watch", string(job.ID)); r.code == 0 || !strings.Contains(r.errs, "not authorised") {
		return fmt.Errorf("it was not refused: %w", r.err())
	}
	if err := errors.Join(l.stopAll(), l.startAll(ctx, nil)); err != nil {
		return err
	}
	return l.resumes(ctx, before)
}

// oneShifted sets the clock back at one custodian: by it the licence does not begin yet. The others release without it.
func oneShifted(ctx context.Context, l *lab) error {
	if err := l.startAll(ctx, map[string][]string{other: {failpoint.Shift + "=-100h"}}); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := errors.Join(l.stop(other), l.start(ctx, other)); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "0"); err != nil {
		return err
	}
	return errors.Join(l.charges(ctx, 1_000_000), l.intact(ctx, before))
}

// tornEnd cuts the end off a file to which a custodian appends. What it lacks it learns from others, and stored shares
// keep their bytes.
func tornEnd(ctx context.Context, l *lab, file string) error {
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	if err := l.stop(leader); err != nil {
		return err
	}
	if _, err := tear(filepath.Join(l.dir, leader, file), func(size int64) int64 { return size - 9 }); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := l.start(ctx, leader); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "0"); err != nil {
		return err
	}
	return errors.Join(l.charges(ctx, 1_000_000), l.intact(ctx, before))
}

// tornRefusals cuts the end off a journal of refusals: the line that was being written is gone, the ones before stay, and
// the next refusal follows them.
func tornRefusals(ctx context.Context, l *lab) error {
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	refuse := func() error {
		if r := l.run(ctx, nil, submit("SELECT COUNT(*) FROM health WHERE health <> 'poor'")...); r.code == 0 || !strings.Contains(r.errs, "budget") {
			return fmt.Errorf("it was not refused for its budget: %w", r.err())
		}
		return nil
	}
	if err := errors.Join(refuse(), refuse()); err != nil {
		return err
	}
	journal := filepath.Join(l.dir, leader, "state", "refusals.jsonl")
	lines, err := os.ReadFile(journal)
	if err != nil {
		return err
	}
	had := strings.Count(string(lines), "\n")
	if had == 0 {
		return fmt.Errorf("%s has no refusal", journal)
	}
	if err := l.stop(leader); err != nil {
		return err
	}
	if _, err := tear(journal, func(size int64) int64 { return size - 9 }); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := errors.Join(l.start(ctx, leader), refuse()); err != nil {
		return err
	}
	if lines, err = os.ReadFile(journal); err != nil {
		return err
	}
	for line := range strings.Lines(string(lines)) {
		if !strings.HasSuffix(line, "}\n") {
			return fmt.Errorf("%s has half a line: %q", journal, line)
		}
	}
	return errors.Join(l.charges(ctx, 3_000_000), l.intact(ctx, before))
}

// tornShare damages shares that left already: their custodian says so and takes no part until they are removed. The others
// release without it. Then it computes the same bytes.
func tornShare(ctx context.Context, l *lab) error {
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	shares := l.glob(leader + "/state/shares/*-1.json")
	if len(shares) != 1 {
		return fmt.Errorf("%q are stored", shares)
	}
	if _, err := tear(shares[0], half); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "0"); err != nil {
		return err
	}
	if log, err := os.ReadFile(l.logOf(leader)); err != nil || !strings.Contains(string(log), "damaged; remove the file") {
		return errors.Join(fmt.Errorf("%s does not say that its shares are damaged", leader), err)
	}
	if err := os.Remove(shares[0]); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "0"); err != nil {
		return err
	}
	return errors.Join(l.charges(ctx, 1_000_000), l.intact(ctx, before))
}

// fullAfterCharge fills a custodian's disk once it has charged: it cannot store its shares, so it gives none, and the
// others release without it.
func fullAfterCharge(ctx context.Context, l *lab) (err error) {
	grow, unmount, err := l.small(leader+"/state", 1024)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end(), unmount()) }()
	g, err := l.hold(failpoint.ChargeStored, 1)
	if err != nil {
		return err
	}
	if err := l.startAll(ctx, map[string][]string{leader: {held(g)}}); err != nil {
		return err
	}
	ended := l.submitted(ctx)
	open, err := g.reached(ctx)
	if err != nil {
		return err
	}
	filler := filepath.Join(l.dir, leader, "state", "more")
	if err := errors.Join(os.WriteFile(filler, nil, 0o600), grow(), fillInto(filler, 0)); err != nil {
		return err
	}
	if err := open(); err != nil {
		return err
	}
	if r := <-ended; r.code != 0 {
		return r.err()
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if len(l.glob(leader+"/state/shares/*")) > 0 {
		return fmt.Errorf("%s has shares on a full disk", leader)
	}
	if err := errors.Join(os.Remove(filler), l.stop(leader), l.start(ctx, leader)); err != nil {
		return err
	}
	return whole(ctx, l, before)
}

// tornWhole damages a file that is only ever replaced as a whole. Its daemon does not start, and says which file it is;
// with the file back nothing is lost.
func tornWhole(ctx context.Context, l *lab, file string) error {
	part, _, _ := strings.Cut(file, "/")
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := l.stop(part); err != nil {
		return err
	}
	mend, err := tear(filepath.Join(l.dir, file), half)
	if err != nil {
		return err
	}
	if err := l.start(ctx, part); err == nil || !strings.Contains(err.Error(), "ended") || !strings.Contains(err.Error(), filepath.Base(file)) {
		return fmt.Errorf("%s starts with %s torn, or does not say so: %w", part, file, err)
	}
	delete(l.services.parts, part)
	if err := errors.Join(mend(), l.start(ctx, part)); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "0"); err != nil {
		return err
	}
	return errors.Join(l.charges(ctx, 1_000_000), l.intact(ctx, before))
}

// small puts a folder on a file system of its own with nearly no space. grow gives it space again.
func (l *lab) small(folder string, kib uint64) (grow func() error, unmount func() error, err error) {
	dir := filepath.Join(l.dir, folder)
	aside := l.dir + ".aside"
	if err := os.Rename(dir, aside); err != nil {
		return nil, nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	switch err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,mode=700"); {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, nil, fmt.Errorf("%w: a small file system cannot be mounted here", errSkip)
	case err != nil:
		return nil, nil, err
	}
	unmount = func() error { return unix.Unmount(dir, 0) }
	if err := os.CopyFS(dir, os.DirFS(aside)); err != nil {
		return nil, nil, errors.Join(err, unmount())
	}
	filler, err := fill(dir, kib)
	if err != nil {
		return nil, nil, errors.Join(err, unmount())
	}
	return func() error { return os.Remove(filler) }, unmount, nil
}

// fullLog runs out of space where the log is: what cannot be logged does not happen. With space again the job goes on, or
// was never accepted.
func fullLog(ctx context.Context, l *lab, kib uint64) (err error) {
	grow, unmount, err := l.small(labd+"/log", kib)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end(), unmount()) }()
	if err := l.startAll(ctx, nil); err != nil {
		if !strings.Contains(err.Error(), "no space left") {
			return err
		}
		delete(l.services.parts, labd)
		if err := errors.Join(grow(), l.start(ctx, labd)); err != nil {
			return err
		}
		grow = func() error { return nil }
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Second) // it may well wait for ever
	r := l.run(short, nil, submit(question)...)
	cancel()
	if r.code > 0 && !strings.Contains(r.errs, "disk is full") && !strings.Contains(r.errs, "no space left on device") {
		return fmt.Errorf("it does not say that the disk is full: %w", r.err())
	}
	if err := grow(); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := l.revive(ctx); err != nil {
		return err
	}
	if err := l.resumes(ctx, before); err != nil {
		return errors.Join(err, r.err())
	}
	return nil
}

// revive starts again what ended for want of space, and labd, as an operator would who has made room.
func (l *lab) revive(ctx context.Context) error {
	for _, part := range parts() {
		if d := l.services.parts[part]; d != nil {
			select {
			case <-d.done:
				delete(l.services.parts, part)
			default:
				continue
			}
		}
		if err := l.start(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// fullState runs out of space where a custodian keeps its ledger and its shares: the others release without it. Once there
// is room it is restarted, as it asks for, and knows the charge.
func fullState(ctx context.Context, l *lab, kib uint64) (err error) {
	grow, unmount, err := l.small(leader+"/state", kib)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.end(), unmount()) }()
	if err := l.startAll(ctx, nil); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if err := errors.Join(grow(), l.stop(leader), l.start(ctx, leader)); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "0"); err != nil {
		return err
	}
	return errors.Join(l.charges(ctx, 1_000_000), l.intact(ctx, before))
}
