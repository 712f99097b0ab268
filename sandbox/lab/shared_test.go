package lab_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// What another process on the same store and log left behind when it died, this one ends without being started again.

func TestStatementsOfALostProcess(t *testing.T) {
	w := ready(t)
	k, err := lab.NewKeeper(t.Context(), w.lab)
	w.check(err)
	decision := func(reason string) enclave.Signed {
		return w.sign("o1", operators.KindDecision, operators.Decision{Subject: w.scenario, Verdict: operators.Approve, Reason: reason, By: "o1", Made: w.at()})
	}
	logged, not := decision("logged"), decision("not logged")
	for _, s := range []enclave.Signed{logged, not} {
		w.check(w.store.KeepPending(t.Context(), s, w.now))
	}
	_, err = w.log.Append(t.Context(), enclave.Entry{Type: enclave.EntryStatement, Subject: logged.Digest(), By: "o1", At: w.at()})
	w.check(err)
	has := func(s enclave.Signed) bool {
		st, err := w.lab.Statements(t.Context())
		w.check(err)
		for _, have := range st.All {
			if have.Digest() == s.Digest() {
				return true
			}
		}
		return false
	}
	before := w.entries(enclave.EntryStatement)
	w.check(k.Settle(t.Context()))
	if !has(logged) || has(not) {
		t.Errorf("stored: the logged one %t, the other %t", has(logged), has(not))
	}
	if got := w.entries(enclave.EntryStatement); got != before+1 {
		t.Errorf("%d entries of statements, want the %d before and the lost process's", got, before)
	}
	if p, err := w.store.Pending(t.Context()); err != nil || len(p) != 1 || p[0].Signed.Digest() != not.Digest() {
		t.Errorf("pending %v, %v", p, err) // its process may be about to log it
	}
	w.now = w.now.Add(25 * time.Hour)
	w.check(k.Settle(t.Context()))
	if p, err := w.store.Pending(t.Context()); err != nil || len(p) != 0 || has(not) {
		t.Errorf("a day later: pending %v, %v", p, err)
	}
}

func TestSubmissionOfALostProcess(t *testing.T) {
	for name, logged := range map[string]bool{"before its entry": false, "after its entry": true} {
		t.Run(name, func(t *testing.T) {
			w := ready(t)
			id := sandbox.NewJobID(w.now)
			req := lab.Request{ID: id, Analyst: "analyst", Scenario: w.scenario, Query: query}
			w.check(w.store.CreateJob(t.Context(), sandbox.Job{ID: id, Operator: "op", Analyst: "analyst", Scenario: w.scenario, Query: query, State: sandbox.Queued, Created: w.now, Updated: w.now}))
			p, err := w.lab.Prepare(t.Context(), req)
			w.check(err)
			signed := w.sign("analyst", enclave.KindPlan, p.Plan)
			if logged {
				_, err := w.log.Append(t.Context(), enclave.Entry{Type: enclave.EntryPlan, Subject: signed.Digest(), By: "analyst", Job: string(id), At: w.at()})
				w.check(err)
			}
			sign := func(*lab.Prepared) (enclave.Signed, error) { return signed, nil }
			job, err := w.lab.Submit(t.Context(), req, sign)
			if err != nil || job.ID != id || job.State != sandbox.Planned {
				t.Fatalf("job %+v, %v", job, err)
			}
			if n := w.entries(enclave.EntryPlan); n != 1 {
				t.Errorf("%d entries of the plan, want 1", n)
			}
			if job, err = w.lab.Run(t.Context(), id, nil); err != nil || job.State != sandbox.Released {
				t.Errorf("job is %s: %v", job.State, err)
			}
			if again, err := w.lab.Submit(t.Context(), req, sign); err != nil || again.State != sandbox.Released {
				t.Errorf("asked again: %s, %v", again.State, err)
			}
			req.Query += " -- another"
			if _, err := w.lab.Submit(t.Context(), req, sign); !errors.Is(err, sandbox.ErrConflict) {
				t.Errorf("another query under the same ID: %v", err)
			}
		})
	}
}

// TestStepOfALostProcess: the entry is in the log and was not noted, so whoever repeats the step must not write another.
func TestStepOfALostProcess(t *testing.T) {
	w := ready(t)
	ks := w.keysetAs("steward", "e", "agency")
	_, err := w.log.Append(t.Context(), enclave.Entry{Type: enclave.EntryKeyset, Subject: ks.Digest(), By: "steward", At: w.at()})
	w.check(err)
	w.check(w.lab.RegisterKeyset(t.Context(), ks))
	have, err := w.store.Entries(t.Context(), sandbox.EntryFilter{Subject: ks.Digest()})
	if err != nil || len(have) != 1 {
		t.Errorf("entries of one keyset: %v, %v; want 1", have, err)
	}
	_, cp, err := w.log.Checkpoint(t.Context())
	if err != nil || have[0].Index != cp.Size-1 {
		t.Errorf("it is at %d of %d: %v", have[0].Index, cp.Size, err)
	}
}

// TestEndOfALostProcess: a job's end was logged by a process that stopped before the store had it. Whoever ends the job again
// logs no second end.
func TestEndOfALostProcess(t *testing.T) {
	w := ready(t)
	w.check(w.store.CreateJob(t.Context(), sandbox.Job{ID: sandbox.NewJobID(w.now), Operator: "operator", Analyst: "analyst", Scenario: w.scenario, Query: query,
		State: sandbox.Queued, Created: sandbox.Instant(w.now), Updated: sandbox.Instant(w.now)}))
	jobs, err := w.store.Jobs(t.Context(), sandbox.JobFilter{})
	w.check(err)
	_, err = w.log.Append(t.Context(), enclave.Entry{Type: enclave.EntryFailure, Subject: w.scenario, By: "lab", Job: string(jobs[0].ID), Reason: string(sandbox.Fail), At: w.at()})
	w.check(err)
	w.now = w.now.Add(time.Hour)
	if n, err := w.lab.Abandon(t.Context()); err != nil || n != 1 {
		t.Errorf("%d jobs are ended, %v", n, err)
	}
	if n := w.entries(enclave.EntryFailure); n != 1 {
		t.Errorf("the log has %d ends of one job", n)
	}
}

// TestTidyRemovesWhatEndedElsewhere: inputs that were staged here for jobs that another process brought to their end.
func TestTidyRemovesWhatEndedElsewhere(t *testing.T) {
	w := ready(t)
	ended, err := w.submit(query)
	w.check(err)
	_, err = w.lab.Run(t.Context(), ended.ID, nil)
	w.check(err)
	waiting, err := w.submit(query + " -- waits")
	w.check(err)
	for _, name := range []string{string(ended.ID), string(waiting.ID), "else"} {
		w.check(os.MkdirAll(filepath.Join(w.dir, "tmp", name), 0o755))
	}
	w.check(w.lab.Tidy(t.Context()))
	left, err := os.ReadDir(filepath.Join(w.dir, "tmp"))
	w.check(err)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if len(names) != 2 || !slices.Contains(names, string(waiting.ID)) || !slices.Contains(names, "else") {
		t.Errorf("left are %v, want the inputs of %s, which waits, and what is no job's", names, waiting.ID)
	}
}
