package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
)

// misfortunes are what happens to machines besides losing their power.
func (m *matrix) misfortunes() []fault {
	job := flows()[0]
	pending := &flow{name: "submitted job", prepare: [][]string{submit(question, "--no-wait")}}
	with := func(name string, f *flow, try func(context.Context, *lab) error) fault {
		return fault{name: name, try: func(ctx context.Context) (err error) {
			l, err := m.bench.copy(ctx, f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.remove()) }()
			return try(ctx, l)
		}}
	}
	out := []fault{
		with("ledger torn while it was written", job, tornLedger),
		with("stored shares torn", job, tornShares),
		with("database's journal torn", job, tornJournal),
		with("log's last entries torn", job, func(ctx context.Context, l *lab) error { return tornLog(ctx, l, "plane/log/tile/entries/*") }),
		with("log's checkpoint torn", job, func(ctx context.Context, l *lab) error { return tornLog(ctx, l, "plane/log/checkpoint.cosigned") }),
		with("clock set back in the middle of a job", job, func(ctx context.Context, l *lab) error { return wrongClock(ctx, l, "-100h") }),
		with("licence expires in the middle of a job", job, func(ctx context.Context, l *lab) error { return wrongClock(ctx, l, "30000h") }),
		with("custodian restored from an old backup", job, oldCustodian),
		with("job cancelled before it is opened", pending, cancelledInTime),
		with("job cancelled when it is being opened", job, cancelledTooLate),
		with("two custodians are away", job, twoAway),
		with("compute node killed while it computes", jointly(), nodeKilled),
	}
	for _, kib := range []uint64{64, 1200, 2048, 6000} {
		out = append(out, fault{name: fmt.Sprintf("disk full with %d KiB left", kib), try: func(ctx context.Context) error { return m.fullDisk(ctx, job, kib) }})
	}
	return out
}

// killed submits the question and is killed at a point.
func (l *lab) killed(ctx context.Context, p failpoint.Point) (seen, error) {
	if r := l.run(ctx, []string{failpoint.Armed + "=" + string(p)}, submit(question)...); !r.killed {
		return seen{}, fmt.Errorf("it was not killed: %w", r.err())
	}
	return l.seen()
}

// tear cuts a file in the middle and returns what puts it back.
func tear(path string, keep func(size int64) int64) (mend func() error, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.WriteFile(path, data, info.Mode())
	}, os.Truncate(path, keep(int64(len(data))))
}

func half(size int64) int64 { return size / 2 }

// tornLedger loses the end of a line that was written and not yet synced.
func tornLedger(ctx context.Context, l *lab) error {
	before, err := l.killed(ctx, failpoint.LedgerWritten)
	if err != nil {
		return err
	}
	torn := 0
	for _, path := range l.glob(l.custodians() + "/state/ledger.jsonl") {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() == 0 {
			continue
		}
		if _, err := tear(path, func(size int64) int64 { return size - 9 }); err != nil {
			return err
		}
		torn++
	}
	if torn != 1 { // killed at the first line of all
		return fmt.Errorf("%d ledgers have a line", torn)
	}
	return errors.Join(jobEnds(ctx, l), l.intact(ctx, before))
}

// tornShares damages shares that may have left already. Their custodian takes no part until they are removed, and the
// others release without it; then it computes the same bytes.
func tornShares(ctx context.Context, l *lab) error {
	before, err := l.killed(ctx, failpoint.SharesStored)
	if err != nil {
		return err
	}
	stored := l.glob(l.custodians() + "/state/shares/*-1.json")
	if len(stored) == 0 {
		return errors.New("no shares are stored")
	}
	if _, err := tear(stored[0], half); err != nil {
		return err
	}
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	r := l.run(ctx, nil, "lab", "job", "watch", string(job.ID), "--verbose")
	if r.code != 0 || !strings.Contains(r.errs, "damaged; remove the file") {
		return fmt.Errorf("it was not released, or damaged shares were not noticed: %w", r.err())
	}
	if err := os.Remove(stored[0]); err != nil {
		return err
	}
	return errors.Join(jobEnds(ctx, l), l.intact(ctx, before))
}

// tornJournal loses what the database had written since it was last closed: the whole job. It has been opened and
// charged, and is charged no second time.
func tornJournal(ctx context.Context, l *lab) error {
	before, err := l.killed(ctx, failpoint.ReleaseStored)
	if err != nil {
		return err
	}
	if _, err := tear(filepath.Join(l.dir, "plane", "lab.db-wal"), half); err != nil {
		return err
	}
	return l.resumes(ctx, before)
}

// resumes takes up whatever job there is, asks again and checks that all of it was charged once.
func (l *lab) resumes(ctx context.Context, before seen) error {
	if err := l.abandoned(ctx); err != nil {
		return err
	}
	jobs, err := l.jobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if !j.State.Ended() {
			l.run(ctx, nil, "lab", "job", "watch", string(j.ID)) // to a release or to an end with a reason
		}
	}
	if _, err := l.must(ctx, submit(question)...); err != nil {
		return err
	}
	if jobs, err = l.jobs(ctx); err != nil {
		return err
	}
	if i := slices.IndexFunc(jobs, func(j sandbox.Job) bool { return !j.State.Ended() }); i >= 0 {
		return fmt.Errorf("job %s stays %s", jobs[i].ID, jobs[i].State)
	}
	return errors.Join(l.charges(ctx, 1_000_000), l.intact(ctx, before))
}

// tornLog damages what the log has signed: nothing may be signed on top of it. With the file back the job goes on.
func tornLog(ctx context.Context, l *lab, pattern string) error {
	before, err := l.killed(ctx, failpoint.ChargeStored)
	if err != nil {
		return err
	}
	files := l.glob(pattern + ".p/*") // a bundle that is not full lies in a folder, one file for each number of entries
	if len(files) == 0 {
		files = l.glob(pattern)
	}
	files = slices.DeleteFunc(files, func(path string) bool { return temporary.MatchString(strings.TrimPrefix(path, l.dir)) }) // Tessera was writing when it was killed
	last := slices.MaxFunc(files, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(filepath.Base(a)), len(filepath.Base(b))), strings.Compare(a, b))
	})
	mend, err := tear(last, half)
	if err != nil {
		return err
	}
	job, err := l.onlyJob(ctx) // may fail already
	if err == nil {
		if r := l.run(ctx, nil, "lab", "job", "watch", string(job.ID)); r.code == 0 {
			return fmt.Errorf("a job was released with %s torn", last)
		}
	}
	if r := l.run(ctx, nil, "lab", "audit", "fsck"); r.code == 0 {
		return fmt.Errorf("fsck found nothing with %s torn", last)
	}
	if err := mend(); err != nil {
		return err
	}
	return errors.Join(jobEnds(ctx, l), l.intact(ctx, before))
}

// wrongClock goes on with a charged job under a clock by which its authority is not valid: it is refused, and is charged
// once when it is asked again at the right time.
func wrongClock(ctx context.Context, l *lab, shift string) error {
	before, err := l.killed(ctx, failpoint.ChargeStored)
	if err != nil {
		return err
	}
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	if r := l.run(ctx, []string{failpoint.Shift + "=" + shift}, "lab", "job", "watch", string(job.ID)); r.code == 0 || !strings.Contains(r.errs, "not authorised") {
		return fmt.Errorf("it was not refused: %w", r.err())
	}
	return l.resumes(ctx, before)
}

// oldCustodian puts a custodian's state back to before a release: it learns what it has charged from its peers, and its
// ledger is whole again before it signs anything.
func oldCustodian(ctx context.Context, l *lab) error {
	state := filepath.Join(l.dir, "custodians", "custodian-cyber", "state")
	backup := l.dir + ".backup"
	if err := os.CopyFS(backup, os.DirFS(state)); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(state), os.CopyFS(state, os.DirFS(backup))); err != nil {
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

func cancelledInTime(ctx context.Context, l *lab) error {
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	if r := l.run(ctx, []string{failpoint.Armed + "=" + string(failpoint.ReceiptStored)}, "lab", "job", "watch", string(job.ID)); !r.killed {
		return fmt.Errorf("it was not killed: %w", r.err())
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	if _, err := l.must(ctx, "lab", "job", "cancel", string(job.ID)); err != nil {
		return err
	}
	if r := l.run(ctx, nil, "lab", "job", "watch", string(job.ID)); r.code == 0 {
		return errors.New("a cancelled job was released")
	}
	return errors.Join(l.charges(ctx, 0), l.intact(ctx, before))
}

func cancelledTooLate(ctx context.Context, l *lab) error {
	before, err := l.killed(ctx, failpoint.ChargeStored)
	if err != nil {
		return err
	}
	job, err := l.onlyJob(ctx)
	if err != nil {
		return err
	}
	if r := l.run(ctx, nil, "lab", "job", "cancel", string(job.ID)); r.code == 0 {
		return errors.New("a job that was being opened was cancelled")
	}
	return errors.Join(jobEnds(ctx, l), l.intact(ctx, before))
}

func twoAway(ctx context.Context, l *lab) error {
	away := map[string]string{}
	for _, name := range []string{"custodian-cyber", "custodian-notary"} {
		path := filepath.Join(l.dir, "custodians", name)
		away[path] = l.dir + "." + name
		if err := os.Rename(path, away[path]); err != nil {
			return err
		}
	}
	r := l.run(ctx, nil, submit(question)...)
	if r.code == 0 || !strings.Contains(r.errs, "2 are needed") || !strings.Contains(r.errs, "still opening") {
		return fmt.Errorf("it does not say what it waits for: %w", r.err())
	}
	for path, to := range away {
		if err := os.Rename(to, path); err != nil {
			return err
		}
	}
	before, err := l.seen()
	return errors.Join(err, jobEnds(ctx, l), l.intact(ctx, before))
}

// fullDisk runs a job on a file system that has nearly no space. With space again it goes on.
func (m *matrix) fullDisk(ctx context.Context, f *flow, kib uint64) (err error) {
	l, err := m.bench.copy(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	disk := l.dir + ".disk"
	if err := os.Mkdir(disk, 0o700); err != nil {
		return err
	}
	switch err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=96m,mode=700"); {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: a small file system cannot be mounted here", errSkip)
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(disk, 0)) }()
	small := &lab{bench: m.bench, dir: filepath.Join(disk, "lab")}
	if err := os.CopyFS(small.dir, os.DirFS(l.dir)); err != nil {
		return err
	}
	filler, err := fill(disk, kib)
	if err != nil {
		return err
	}
	r := small.run(ctx, nil, submit(question)...)
	if r.code != 0 && !strings.Contains(r.errs, "no space left on device") && !strings.Contains(r.errs, "disk is full") {
		err = fmt.Errorf("it does not say that the disk is full: %w", r.err())
	}
	if err := errors.Join(err, os.Remove(filler)); err != nil {
		return err
	}
	before, err := small.seen()
	if err != nil {
		return err
	}
	return small.resumes(ctx, before)
}

// fill takes all space of a file system but so much.
func fill(dir string, leaveKiB uint64) (path string, err error) {
	path = filepath.Join(dir, "filler")
	return path, errors.Join(os.WriteFile(path, nil, 0o600), fillInto(path, leaveKiB<<10))
}

// fillInto has a file take all space of its file system but so many bytes.
func fillInto(path string, leave uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	size := int64(fs.Bavail)*fs.Bsize - int64(leave)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, max(size, 1)), f.Close())
}
