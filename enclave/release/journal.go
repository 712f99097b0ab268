package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// Refused is one line of a custodian's journal of refusals: its own record, written before anybody else is told, which
// needs neither the log nor a peer. The same refusal then goes into the ledger and the log as far as those can be
// written: a ledger that may be behind must not number a record, and a log that was forked cannot be appended to.
type Refused struct {
	Plan     enclave.Digest `json:"plan,omitzero"`   // that it was asked about
	Keyset   enclave.Digest `json:"keyset,omitzero"` // whose piece was refused
	Job      string         `json:"job,omitempty"`
	Rule     string         `json:"rule"`
	Text     string         `json:"text"`
	Evidence []string       `json:"evidence,omitempty"` // two checkpoints of a forked log, as they were signed
	At       enclave.Time   `json:"at"`
}

// journal is an append-only file of Refused in canonical form, one a line.
type journal struct {
	path string

	mu sync.Mutex
	f  *os.File
	n  int64
}

func openJournal(dir string) (*journal, error) {
	j := &journal{path: filepath.Join(dir, "refusals.jsonl")}
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	whole := bytes.LastIndexByte(data, '\n') + 1 // the rest was being written when the power went
	j.n = int64(bytes.Count(data[:whole], []byte("\n")))
	if j.f, err = os.OpenFile(j.path, os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	if err := errors.Join(j.f.Truncate(int64(whole)), seekEnd(j.f), durable.SyncDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("opening journal: %w", err), j.f.Close())
	}
	return j, nil
}

func (j *journal) write(r Refused) error {
	line, err := canon.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing journal: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err = j.f.Write(append(line, '\n')); err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing journal: %w", err)
	}
	j.n++
	return nil
}

func (j *journal) count() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.n
}

func (j *journal) close() error { return j.f.Close() }

// ReadJournal reads the journal in a custodian's folder, oldest first.
func ReadJournal(dir string) ([]Refused, error) {
	data, err := os.ReadFile(filepath.Join(dir, "refusals.jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	var out []Refused
	for i, line := range bytes.Split(data[:bytes.LastIndexByte(data, '\n')+1], []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var r Refused
		if err := canon.Unmarshal(line, &r); err != nil {
			return out, fmt.Errorf("reading journal: line %d: %w", i+1, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// note writes a refusal to the journal. What cannot be written is reported and changes nothing: a refusal stands.
func (c *Custodian) note(ctx context.Context, r Refused) {
	if err := c.journal.write(r); err != nil {
		c.cfg.Logger.ErrorContext(ctx, "refusal not recorded in the journal", "custodian", c.Name(), "rule", r.Rule, "error", err)
	}
}

// recordTime bounds the time for putting a refusal on record with others, in which the custodian does nothing else.
const recordTime = 15 * time.Second

// refused records a refusal in the journal, the ledger and the log, and returns it with this custodian's name. No record
// can turn the refusal into an approval, so their failure is reported and no more. A peer's refusal that passes through
// here is the peer's to record.
func (c *Custodian) refused(ctx context.Context, b *enclave.Bundle, err error) error {
	return c.record(ctx, b.Plan.Digest(), jobOf(b), err)
}

func (c *Custodian) record(ctx context.Context, plan enclave.Digest, job string, err error) error {
	var r *Refusal
	if !errors.As(err, &r) || r.Custodian != "" && r.Custodian != c.Name() {
		return fmt.Errorf("custodian %q: %w", c.Name(), err)
	}
	r.Custodian = c.Name()
	now := canon.At(c.cfg.Clock())
	rec := Record{Type: recordRefusal, Plan: plan, Job: job, Reason: r.Rule.Error(), At: now}
	line := Refused{Plan: rec.Plan, Job: rec.Job, Rule: rec.Reason, Text: r.Error(), At: now}
	var split *refusal.SplitViewError
	if errors.As(err, &split) {
		line.Evidence = []string{split.Seen, split.Offered}
	}
	c.note(ctx, line)
	failpoint.Hit(failpoint.RefusalNoted)
	c.cfg.Logger.WarnContext(ctx, "refused", "custodian", c.Name(), "job", rec.Job, "plan", rec.Plan, "rule", rec.Reason, "text", r.Text)
	// A refusal must be on record even if the caller has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	subject := plan
	lerr := c.settle(ctx)
	if lerr == nil { // a ledger that may be behind must not number a record
		var signed canon.Signed
		if signed, lerr = c.ledger.append(rec); lerr == nil {
			subject = signed.Digest()
		}
	}
	if lerr != nil {
		c.cfg.Logger.ErrorContext(ctx, "refusal not recorded in the ledger", "custodian", c.Name(), "error", lerr)
	}
	failpoint.Hit(failpoint.RefusalStored)
	entry := enclave.Entry{Type: enclave.EntryRefusal, Subject: subject, By: c.Name(), Job: rec.Job, Reason: rec.Reason, At: now}
	if _, lerr := c.cfg.Log.Append(ctx, entry); lerr != nil {
		c.cfg.Logger.ErrorContext(ctx, "refusal not announced in the log", "custodian", c.Name(), "error", lerr)
	}
	failpoint.Hit(failpoint.RefusalLogged)
	return r
}

func jobOf(b *enclave.Bundle) string {
	var r enclave.Receipt
	if b.Receipt.Open(enclave.KindReceipt, &r) != nil {
		return ""
	}
	return r.Job
}
