// Package dbtest is the conformance suite of sandbox.Store.
package dbtest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

// Open makes an empty store. reopen gives the same records as another process would find them; both stay open until the
// test ends and close themselves.
type Open func(t *testing.T) (store sandbox.Store, reopen func() sandbox.Store)

// Run checks one implementation.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, open Open)
	}{
		{"statements", statements},
		{"pending", pending},
		{"artefacts", artefacts},
		{"datasets", datasets},
		{"jobs", jobs},
		{"job list", jobList},
		{"job moves", jobMoves},
		{"job race", jobRace},
		{"odd texts", oddTexts},
		{"releases", releases},
		{"log entries", entries},
		{"settings", settings},
		{"atomic", atomic},
		{"nothing there", nothing},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open) })
	}
}

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// Signed makes an envelope with a signature per name. They do not verify; records do not ask.
func Signed(kind, body string, by ...string) enclave.Signed {
	s := enclave.Signed{Kind: kind, Body: []byte(body)}
	for _, b := range by {
		s.Sigs = append(s.Sigs, canon.Signature{By: b, Sig: []byte("by " + b)})
	}
	return s
}

// Job makes a job that can be created.
func Job(operator string, at time.Time) sandbox.Job {
	return sandbox.Job{ID: sandbox.NewJobID(at), Operator: operator, Analyst: "li", Scenario: enclave.Digest{1},
		Query: "SELECT COUNT(*) FROM 供水", EpsilonMicro: 100_000, State: sandbox.Queued, Created: at, Updated: at}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s gives %v, want %v", what, err, want)
	}
}

func same[T any](t *testing.T, what string, want T) func(got T, err error) {
	return func(got T, err error) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", what, err, diff)
		}
	}
}

func statements(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	a, b := Signed("license", `{"a":1}`, "wang"), Signed("scenario", `{"b":1}`, "li")
	first, err := s.AppendStatement(ctx, a, noon)
	must(t, err)
	second, err := s.AppendStatement(ctx, b, noon.Add(time.Second))
	must(t, err)
	if again, err := s.AppendStatement(ctx, a, noon.Add(time.Hour)); err != nil || again != first || second <= first || first < 1 {
		t.Errorf("places are %d and %d, and %d again, %v", first, second, again, err)
	}
	want := []sandbox.Statement{{Seq: first, Signed: a, Recorded: noon}, {Seq: second, Signed: b, Recorded: noon.Add(time.Second)}}
	same(t, "statements", want)(reopen().Statements(ctx, 0))
	same(t, "later statements", want[1:])(s.Statements(ctx, first))
	_, err = s.AppendStatement(ctx, Signed("", `{}`, "x"), noon)
	wants(t, "a statement of no kind", err, sandbox.ErrInvalid)
	_, err = s.AppendStatement(ctx, Signed("license", `{}`), noon)
	wants(t, "a statement without signatures", err, sandbox.ErrInvalid)
}

func pending(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	a, b := Signed("license", `{"a":1}`, "wang"), Signed("scenario", `{"b":1}`, "li")
	must(t, s.KeepPending(ctx, a, noon))
	must(t, s.KeepPending(ctx, b, noon.Add(time.Second)))
	must(t, s.KeepPending(ctx, Signed("license", `{"a":1}`, "li"), noon)) // the first is replaced, not merged: it is on its way still
	a = Signed("license", `{"a":1}`, "li")
	same(t, "pending", []sandbox.Statement{{Signed: a, Recorded: noon}, {Signed: b, Recorded: noon.Add(time.Second)}})(reopen().Pending(ctx))
	same[[]sandbox.Statement](t, "statements", nil)(s.Statements(ctx, 0))
	wants(t, "keeping nothing", s.KeepPending(ctx, enclave.Signed{}, noon), sandbox.ErrInvalid)
	_, err := s.AppendStatement(ctx, a, noon)
	must(t, err)
	same(t, "pending after one is stored", []sandbox.Statement{{Signed: b, Recorded: noon.Add(time.Second)}})(reopen().Pending(ctx))
	must(t, s.DropPending(ctx, b.Kind, b.Digest()))
	must(t, s.DropPending(ctx, b.Kind, b.Digest()))
	same[[]sandbox.Statement](t, "pending after the other is dropped", nil)(reopen().Pending(ctx))
}

func artefacts(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	const body = `{"job":"x"}`
	one, both := Signed("release", body, "c1"), Signed("release", body, "c2", "c1")
	d, err := s.PutArtefact(ctx, one, noon)
	must(t, err)
	if d != one.Digest() {
		t.Errorf("artefact is filed under %s", d)
	}
	same(t, "artefact", one)(s.Artefact(ctx, "release", d))
	_, err = s.PutArtefact(ctx, Signed("release", body, "c3"), noon)
	wants(t, "an envelope with other signatures", err, sandbox.ErrConflict)
	same(t, "artefact after a conflict", one)(s.Artefact(ctx, "release", d))
	_, err = s.PutArtefact(ctx, both, noon)
	must(t, err)
	_, err = s.PutArtefact(ctx, one, noon)
	must(t, err)
	same(t, "artefact with more signatures", both)(reopen().Artefact(ctx, "release", d))

	plan := Signed("plan", body, "lab") // same bytes, another kind: another artefact
	_, err = s.PutArtefact(ctx, plan, noon)
	must(t, err)
	other := Signed("release", `{"job":"a"}`, "c1")
	_, err = s.PutArtefact(ctx, other, noon)
	must(t, err)
	same(t, "releases in order", []enclave.Signed{both, other})(s.Artefacts(ctx, "release"))
	same(t, "plans", []enclave.Signed{plan})(s.Artefacts(ctx, "plan"))
	_, err = s.Artefact(ctx, "receipt", d)
	wants(t, "an artefact under another kind", err, sandbox.ErrNotFound)
}

func datasets(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	k, m1, m2 := enclave.Digest{1}, enclave.Digest{2}, enclave.Digest{3}
	wants(t, "publishing without a keyset", s.Publish(ctx, "water", enclave.Digest{}, m1), sandbox.ErrNotFound)
	for range 2 {
		must(t, s.BindKeyset(ctx, "water", k))
	}
	wants(t, "a second keyset", s.BindKeyset(ctx, "water", enclave.Digest{9}), sandbox.ErrConflict)
	wants(t, "no name", s.BindKeyset(ctx, "", k), sandbox.ErrInvalid)
	same(t, "unpublished dataset", sandbox.Dataset{Name: "water", Keyset: k})(s.Dataset(ctx, "water"))
	for range 2 {
		must(t, s.Publish(ctx, "water", enclave.Digest{}, m1))
	}
	wants(t, "publishing over an unseen version", s.Publish(ctx, "water", enclave.Digest{}, m2), sandbox.ErrConflict)
	must(t, s.Publish(ctx, "water", m1, m2))
	wants(t, "going back", s.Publish(ctx, "water", enclave.Digest{}, m1), sandbox.ErrConflict)
	must(t, s.BindKeyset(ctx, "air", k))
	same(t, "datasets", []sandbox.Dataset{{Name: "air", Keyset: k}, {Name: "water", Keyset: k, Manifest: m2}})(reopen().Datasets(ctx))
}

func jobs(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	j := Job("op", noon.Add(123_456*time.Microsecond))
	for range 2 {
		must(t, s.CreateJob(ctx, j))
	}
	same(t, "job", j)(reopen().Job(ctx, j.ID))
	other := j
	other.Query = "SELECT 1"
	wants(t, "another request under the same ID", s.CreateJob(ctx, other), sandbox.ErrConflict)
	other.State = sandbox.Released
	wants(t, "a job that begins at its end", s.CreateJob(ctx, other), sandbox.ErrInvalid)

	p := sandbox.Progress{State: sandbox.Queued, Stage: "checking the licence", Percent: 40, At: noon.Add(time.Minute)}
	must(t, s.ReportJob(ctx, j.ID, p))
	j.Stage, j.Percent, j.Updated = p.Stage, p.Percent, p.At
	same(t, "reported job", j)(s.Job(ctx, j.ID))
	p.State = sandbox.Running
	wants(t, "progress of another state", s.ReportJob(ctx, j.ID, p), sandbox.ErrConflict)
	p.Percent = 101
	wants(t, "more than all", s.ReportJob(ctx, j.ID, p), sandbox.ErrInvalid)
}

func jobList(t *testing.T, open Open) {
	s, _ := open(t)
	ctx := t.Context()
	var all []sandbox.Job // newest first
	for i := range 6 {
		j := Job([]string{"a", "b"}[i%2], noon.Add(time.Duration(i)*time.Second))
		if i >= 4 {
			j.Scenario = enclave.Digest{2}
		}
		must(t, s.CreateJob(ctx, j))
		if i == 0 {
			moved, _, err := s.MoveJob(ctx, j.ID, sandbox.Change{From: sandbox.Queued, Event: sandbox.Cancel, At: noon})
			must(t, err)
			j = moved
		}
		all = append([]sandbox.Job{j}, all...)
	}
	for _, c := range []struct {
		name   string
		filter sandbox.JobFilter
		want   []sandbox.Job
	}{
		{"all", sandbox.JobFilter{}, all},
		{"operator", sandbox.JobFilter{Operator: "a"}, []sandbox.Job{all[1], all[3], all[5]}},
		{"scenario", sandbox.JobFilter{Scenario: enclave.Digest{2}}, all[:2]},
		{"state", sandbox.JobFilter{States: []sandbox.State{sandbox.Cancelled, sandbox.Failed}}, all[5:]},
		{"page", sandbox.JobFilter{Before: all[1].ID, Limit: 2}, all[2:4]},
		{"together", sandbox.JobFilter{Operator: "a", States: []sandbox.State{sandbox.Queued}, Before: all[1].ID, Limit: 5}, all[3:4]},
		{"none", sandbox.JobFilter{Operator: "a' OR 1=1 --"}, nil},
	} {
		same(t, c.name, c.want)(s.Jobs(ctx, c.filter))
	}
}

func jobMoves(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	j := Job("op", noon)
	must(t, s.CreateJob(ctx, j))
	changes := []sandbox.Change{
		{From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{2}},
		{From: sandbox.Planned, Event: sandbox.Start, Isolation: "docker"},
		{From: sandbox.Running, Event: sandbox.Restart, Reason: "worker died"},
		{From: sandbox.Planned, Event: sandbox.Start, Isolation: "docker, gVisor"},
		{From: sandbox.Running, Event: sandbox.Compute, Receipt: enclave.Digest{3}},
		{From: sandbox.Computed, Event: sandbox.Open},
		{From: sandbox.Opening, Event: sandbox.Release, Release: enclave.Digest{4}},
	}
	var steps []sandbox.Step
	for i, c := range changes {
		c.At = noon.Add(time.Duration(i+1) * time.Second)
		want, _, err := j.Apply(c)
		must(t, err)
		after, moved, err := s.MoveJob(ctx, j.ID, c)
		if diff := cmp.Diff(want, after); err != nil || !moved || diff != "" {
			t.Fatalf("%s: moved %v, %v (-want +got)\n%s", c.Event, moved, err, diff)
		}
		if again, moved, err := s.MoveJob(ctx, j.ID, c); err != nil || moved || again != after {
			t.Errorf("%s again: moved %v, %v", c.Event, moved, err)
		}
		same(t, string(c.Event), after)(s.Job(ctx, j.ID))
		steps = append(steps, sandbox.Step{From: c.From, Event: c.Event, To: after.State, Reason: c.Reason, At: c.At})
		j = after
	}
	same(t, "steps", steps)(reopen().Steps(ctx, j.ID))
	_, _, err := s.MoveJob(ctx, j.ID, sandbox.Change{From: sandbox.Opening, Event: sandbox.Fail, Reason: "late", At: noon})
	wants(t, "failing a released job", err, sandbox.ErrConflict)
	same(t, "released job", j)(s.Job(ctx, j.ID))
	same(t, "its steps", steps)(s.Steps(ctx, j.ID))
}

// What a worker says at its end goes into a reason, whatever bytes it is made of; a custodian's entry is noted whatever it
// holds. A query that is not text is refused.
func oddTexts(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	j := Job("op", noon)
	for _, query := range []string{"SELECT '\x00'", "SELECT '\xff'"} {
		odd := j
		odd.Query = query
		wants(t, fmt.Sprintf("query %q", query), s.CreateJob(ctx, odd), sandbox.ErrInvalid)
	}
	must(t, s.CreateJob(ctx, j))
	must(t, s.ReportJob(ctx, j.ID, sandbox.Progress{State: sandbox.Queued, Stage: "a\x00b\xff", At: noon}))
	after, _, err := s.MoveJob(ctx, j.ID, sandbox.Change{From: sandbox.Queued, Event: sandbox.Fail, Reason: "died: \x00\xfe", At: noon})
	must(t, err)
	if want := "died: \uFFFD\uFFFD"; after.Reason != want {
		t.Errorf("reason is %q, want %q", after.Reason, want)
	}
	same(t, "failed job", after)(reopen().Job(ctx, j.ID))
	e := sandbox.LoggedEntry{Entry: enclave.Entry{Type: "a\x00", Subject: enclave.Digest{1}, By: "c1", Job: "b\x00", At: canon.At(noon)}}
	must(t, s.NoteEntry(ctx, 0, e.Entry))
	same(t, "entry", []sandbox.LoggedEntry{e})(s.Entries(ctx, sandbox.EntryFilter{}))
}

// Of many that start a job at the same time, one does; of a start and a cancellation, one wins and the other hears it.
func jobRace(t *testing.T, open Open) {
	s, _ := open(t)
	ctx := t.Context()
	for range 5 {
		j := Job("op", noon)
		must(t, s.CreateJob(ctx, j))
		_, _, err := s.MoveJob(ctx, j.ID, sandbox.Change{From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{2}, At: noon})
		must(t, err)
		const racers = 8
		var g errgroup.Group
		moved := make([]bool, racers)
		for i := range racers {
			c := sandbox.Change{From: sandbox.Planned, Event: sandbox.Start, At: noon}
			if i%4 == 3 {
				c = sandbox.Change{From: sandbox.Planned, Event: sandbox.Cancel, Reason: fmt.Sprint(i), At: noon}
			}
			g.Go(func() (err error) {
				_, moved[i], err = s.MoveJob(ctx, j.ID, c)
				if errors.Is(err, sandbox.ErrConflict) {
					return nil
				}
				return err
			})
		}
		must(t, g.Wait())
		n := 0
		for _, m := range moved {
			if m {
				n++
			}
		}
		steps, err := s.Steps(ctx, j.ID)
		if n != 1 || len(steps) != 2 || err != nil {
			t.Errorf("%d of %d racers moved the job, in %d steps, %v", n, racers, len(steps), err)
		}
	}
}

func releases(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	j := Job("op", noon)
	r := sandbox.SealedRelease{Job: j.ID, Release: enclave.Digest{5}, Table: []byte("sealed"), Made: noon}
	wants(t, "a release of no job", s.PutRelease(ctx, r), sandbox.ErrNotFound)
	must(t, s.CreateJob(ctx, j))
	must(t, s.PutRelease(ctx, r))
	retry := r
	retry.Table = []byte("sealed anew")
	must(t, s.PutRelease(ctx, retry))
	same(t, "release", r)(reopen().Release(ctx, j.ID))
	retry.Release = enclave.Digest{6}
	wants(t, "a second release", s.PutRelease(ctx, retry), sandbox.ErrConflict)
	retry.Table = nil
	wants(t, "a release without a table", s.PutRelease(ctx, retry), sandbox.ErrInvalid)
}

func entries(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	at := canon.At(noon)
	want := []sandbox.LoggedEntry{
		{Index: 0, Entry: enclave.Entry{Type: enclave.EntryPlan, Subject: enclave.Digest{1}, By: "lab", Job: "job-1", At: at}},
		{Index: 3, Entry: enclave.Entry{Type: enclave.EntryShare, Subject: enclave.Digest{1}, By: "c1", Job: "job-1", At: at}},
		{Index: 9, Entry: enclave.Entry{Type: enclave.EntryRefusal, Subject: enclave.Digest{2}, By: "lab", Reason: "no licence", At: at}},
	}
	for _, i := range []int{2, 0, 1, 0} { // any order; again is no error
		must(t, s.NoteEntry(ctx, want[i].Index, want[i].Entry))
	}
	wants(t, "another entry at an index", s.NoteEntry(ctx, 3, want[0].Entry), sandbox.ErrConflict)
	wants(t, "an entry about nothing", s.NoteEntry(ctx, 4, enclave.Entry{Type: "x", At: at}), sandbox.ErrInvalid)
	wants(t, "a negative index", s.NoteEntry(ctx, -1, want[0].Entry), sandbox.ErrInvalid)
	same(t, "entries", want)(reopen().Entries(ctx, sandbox.EntryFilter{}))
	same(t, "by subject", want[:2])(s.Entries(ctx, sandbox.EntryFilter{Subject: enclave.Digest{1}}))
	same(t, "by job and type", want[1:2])(s.Entries(ctx, sandbox.EntryFilter{Job: "job-1", Type: enclave.EntryShare}))
}

func settings(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	must(t, s.SetSetting(ctx, "a", []byte("1")))
	must(t, s.SetSetting(ctx, "a", []byte("2")))
	must(t, s.SetSetting(ctx, "empty", nil))
	same(t, "setting", []byte("2"))(reopen().Setting(ctx, "a"))
	if v, err := s.Setting(ctx, "empty"); err != nil || len(v) != 0 {
		t.Errorf("an empty setting gives %q, %v", v, err)
	}
}

func atomic(t *testing.T, open Open) {
	s, reopen := open(t)
	ctx := t.Context()
	j, stop := Job("op", noon), errors.New("stop")
	write := func(r sandbox.Records) {
		must(t, r.CreateJob(ctx, j))
		must(t, r.SetSetting(ctx, "a", []byte("1")))
		same(t, "own write", j)(r.Job(ctx, j.ID))
	}
	wants(t, "a failed transaction", s.Atomic(ctx, func(r sandbox.Records) error { write(r); return stop }), stop)
	_, err := s.Job(ctx, j.ID)
	wants(t, "a job of a failed transaction", err, sandbox.ErrNotFound)
	must(t, s.Atomic(ctx, func(r sandbox.Records) error {
		write(r)
		// A method that fails does not end the transaction, and leaves nothing of its own.
		wants(t, "a release of another job", r.PutRelease(ctx, sandbox.SealedRelease{Job: "x", Release: enclave.Digest{1}, Table: []byte("x"), Made: noon}), sandbox.ErrNotFound)
		return nil
	}))
	same(t, "job", j)(reopen().Job(ctx, j.ID))

	var g errgroup.Group // increments are not lost
	for range 20 {
		g.Go(func() error {
			return s.Atomic(ctx, func(r sandbox.Records) error {
				v, err := r.Setting(ctx, "n")
				if err != nil && !errors.Is(err, sandbox.ErrNotFound) {
					return err
				}
				return r.SetSetting(ctx, "n", append(v, '1'))
			})
		})
	}
	must(t, g.Wait())
	if v, err := s.Setting(ctx, "n"); len(v) != 20 || err != nil {
		t.Errorf("20 increments give %d, %v", len(v), err)
	}
}

func nothing(t *testing.T, open Open) {
	s, _ := open(t)
	ctx := t.Context()
	for what, get := range map[string]func() error{
		"artefact": func() error { _, err := s.Artefact(ctx, "plan", enclave.Digest{1}); return err },
		"dataset":  func() error { _, err := s.Dataset(ctx, "x"); return err },
		"job":      func() error { _, err := s.Job(ctx, "x"); return err },
		"release":  func() error { _, err := s.Release(ctx, "x"); return err },
		"setting":  func() error { _, err := s.Setting(ctx, "x"); return err },
		"move": func() error {
			_, _, err := s.MoveJob(ctx, "x", sandbox.Change{From: sandbox.Queued, Event: sandbox.Cancel, At: noon})
			return err
		},
		"report": func() error { return s.ReportJob(ctx, "x", sandbox.Progress{State: sandbox.Queued, At: noon}) },
	} {
		wants(t, what, get(), sandbox.ErrNotFound)
	}
	list, err := s.Jobs(ctx, sandbox.JobFilter{})
	if len(list) != 0 || err != nil {
		t.Errorf("an empty store lists %d jobs, %v", len(list), err)
	}
}
