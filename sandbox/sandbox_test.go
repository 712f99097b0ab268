package sandbox_test

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

var start = time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)

func TestJobIDsSortByAgeAndParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64Range(0, 1<<35-2).Draw(t, "earlier")
		b := rapid.Int64Range(a+1, 1<<35-1).Draw(t, "later")
		early, late := sandbox.NewJobID(time.Unix(a, 0)), sandbox.NewJobID(time.Unix(b, 0))
		if early >= late {
			t.Fatalf("%s of second %d does not sort before %s of second %d", early, a, late, b)
		}
		if got := early.Made().Unix(); got != a {
			t.Fatalf("%s was made at %d, reads %d", early, a, got)
		}
	})
}

func FuzzParseJobID(f *testing.F) {
	for _, s := range []string{string(sandbox.NewJobID(start)), "", "job-", "job-0000000000000000", "job-000000000000000O", "job-00000000000000001", "JOB-0000000000000000", "job-00000000000000é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := sandbox.ParseJobID(s)
		if err != nil {
			return
		}
		if string(id) != s {
			t.Errorf("%q parses as %q", s, id)
		}
		if n := len(strings.TrimPrefix(s, "job-")); n != 16 {
			t.Errorf("%q has %d characters", s, n)
		}
		id.Made()
	})
}

func TestNewJobIDsDiffer(t *testing.T) {
	seen := map[sandbox.JobID]bool{}
	for range 10_000 {
		seen[sandbox.NewJobID(start)] = true
	}
	if len(seen) != 10_000 {
		t.Errorf("%d IDs of 10000 are distinct", len(seen))
	}
}

func TestTransitionTable(t *testing.T) {
	from := map[sandbox.State]map[sandbox.Event]bool{}
	for _, tr := range sandbox.Transitions() {
		if !slices.Contains(sandbox.States(), tr.From) || !slices.Contains(sandbox.States(), tr.To) {
			t.Errorf("%v names an unknown state", tr)
		}
		if from[tr.From] == nil {
			from[tr.From] = map[sandbox.Event]bool{}
		}
		if from[tr.From][tr.Event] {
			t.Errorf("%s by %s is in the table twice", tr.From, tr.Event)
		}
		from[tr.From][tr.Event] = true
	}
	reached := map[sandbox.State]bool{sandbox.Queued: true}
	for range sandbox.States() {
		for _, tr := range sandbox.Transitions() {
			reached[tr.To] = reached[tr.To] || reached[tr.From]
		}
	}
	for _, s := range sandbox.States() {
		if !reached[s] {
			t.Errorf("nothing leads to %s", s)
		}
		ended := slices.Contains([]sandbox.State{sandbox.Released, sandbox.Refused, sandbox.Failed, sandbox.Cancelled}, s)
		if s.Ended() != ended {
			t.Errorf("%s: ended = %v", s, s.Ended())
		}
		if !ended && !from[s][sandbox.Fail] {
			t.Errorf("%s cannot fail", s)
		}
		if want := slices.Contains([]sandbox.State{sandbox.Queued, sandbox.Planned, sandbox.Running, sandbox.Computed}, s); s.CanCancel() != want {
			t.Errorf("%s: can cancel = %v", s, s.CanCancel())
		}
	}
	if _, err := sandbox.Next(sandbox.Opening, sandbox.Cancel); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("cancelling an opening job gives %v", err)
	}
}

func TestArchitectureShowsTheDiagram(t *testing.T) {
	doc, err := os.ReadFile("../docs/ARCHITECTURE.md")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("docs/ARCHITECTURE.md is not written")
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "```mermaid\n"+sandbox.Diagram()+"```") {
		t.Errorf("docs/ARCHITECTURE.md lacks this diagram, in a mermaid block:\n%s", sandbox.Diagram())
	}
}

func newJob() sandbox.Job {
	return sandbox.Job{ID: sandbox.NewJobID(start), Operator: "op", Analyst: "li", Scenario: enclave.Digest{1}, Query: "SELECT COUNT(*) FROM d",
		State: sandbox.Queued, Created: start, Updated: start}
}

func TestCheckRefusesJobs(t *testing.T) {
	if err := newJob().Check(); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*sandbox.Job){
		"bad ID":          func(j *sandbox.Job) { j.ID = "1" },
		"no operator":     func(j *sandbox.Job) { j.Operator = "" },
		"no scenario":     func(j *sandbox.Job) { j.Scenario = enclave.Digest{} },
		"negative budget": func(j *sandbox.Job) { j.EpsilonMicro = -1 },
		"ahead":           func(j *sandbox.Job) { j.State = sandbox.Released },
		"with a release":  func(j *sandbox.Job) { j.Release = enclave.Digest{1} },
		"nanoseconds":     func(j *sandbox.Job) { j.Created = start.Add(1); j.Updated = j.Created },
		"two times":       func(j *sandbox.Job) { j.Updated = start.Add(time.Second) },
	} {
		j := newJob()
		if spoil(&j); !errors.Is(j.Check(), sandbox.ErrInvalid) {
			t.Errorf("%s: %v", what, j.Check())
		}
	}
}

func TestApply(t *testing.T) {
	at := start.Add(time.Minute)
	plan := sandbox.Change{From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{2}, At: at}
	j, moved, err := newJob().Apply(plan)
	if err != nil || !moved || j.State != sandbox.Planned || j.Plan != plan.Plan || !j.Updated.Equal(at) {
		t.Fatalf("planning gives %+v, %v, %v", j, moved, err)
	}
	if again, moved, err := j.Apply(plan); err != nil || moved || again != j {
		t.Errorf("planning the same again gives moved %v, %v", moved, err)
	}
	other := plan
	other.Plan = enclave.Digest{3}
	if _, moved, err := j.Apply(other); !errors.Is(err, sandbox.ErrConflict) || moved {
		t.Errorf("planning otherwise gives moved %v, %v", moved, err)
	}
	for range 2 {
		if j, moved, err = j.Apply(sandbox.Change{From: sandbox.Planned, Event: sandbox.Start, Isolation: "docker", At: at}); err != nil || !moved {
			t.Fatalf("starting gives %v, %v", moved, err)
		}
		if j, moved, err = j.Apply(sandbox.Change{From: sandbox.Running, Event: sandbox.Restart, Reason: "worker died", At: at}); err != nil || !moved {
			t.Fatalf("restarting gives %v, %v", moved, err)
		}
	}
	if j.Attempts != 2 || j.State != sandbox.Planned {
		t.Errorf("after two attempts the job is %s with %d", j.State, j.Attempts)
	}
	if _, _, err := j.Apply(sandbox.Change{From: sandbox.Queued, Event: sandbox.Cancel, At: at}); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("a caller with an old view gets %v", err)
	}
}

func TestChangesBringTheirResults(t *testing.T) {
	at := start.Add(time.Minute)
	for what, c := range map[string]sandbox.Change{
		"no plan":               {From: sandbox.Queued, Event: sandbox.Plan, At: at},
		"a receipt too early":   {From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{1}, Receipt: enclave.Digest{1}, At: at},
		"refusal, no reason":    {From: sandbox.Queued, Event: sandbox.Refuse, At: at},
		"cancelled with a plan": {From: sandbox.Queued, Event: sandbox.Cancel, Plan: enclave.Digest{1}, At: at},
		"planned with a reason": {From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{1}, Reason: "x", At: at},
		"planned in isolation":  {From: sandbox.Queued, Event: sandbox.Plan, Plan: enclave.Digest{1}, Isolation: "x", At: at},
		"no time":               {From: sandbox.Queued, Event: sandbox.Cancel},
	} {
		if _, _, err := newJob().Apply(c); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A job moved by any events ends only in states that the table reaches, and repeating its last change never moves it.
func TestApplyFollowsTheTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := newJob()
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			tr := rapid.SampledFrom(sandbox.Transitions()).Draw(t, "transition")
			c := sandbox.Change{From: tr.From, Event: tr.Event, At: start.Add(time.Hour)}
			switch tr.Event {
			case sandbox.Plan:
				c.Plan = enclave.Digest{2}
			case sandbox.Compute:
				c.Receipt = enclave.Digest{3}
			case sandbox.Release:
				c.Release = enclave.Digest{4}
			case sandbox.Refuse, sandbox.Fail:
				c.Reason = "because"
			}
			after, moved, err := j.Apply(c)
			if moved != (j.State == tr.From) || moved && (err != nil || after.State != tr.To) || !moved && after != j {
				t.Fatalf("a %s job under %v gives %s, %v, %v", j.State, tr, after.State, moved, err)
			}
			if again, moved, err := after.Apply(c); after.State == tr.To && (err != nil && moved || again != after) {
				t.Fatalf("repeating %v gives %v, %v", tr, moved, err)
			}
			j = after
		}
	})
}

func TestMergeSigned(t *testing.T) {
	signed := func(by ...string) enclave.Signed {
		s := enclave.Signed{Kind: "k", Body: []byte("{}")}
		for _, b := range by {
			s.Sigs = append(s.Sigs, canon.Signature{By: b, Sig: []byte(b)})
		}
		return s
	}
	for _, c := range []struct {
		name            string
		stored, offered enclave.Signed
		want            enclave.Signed
		replaced        bool
		err             error
	}{
		{"same", signed("a", "b"), signed("b", "a"), signed("a", "b"), false, nil},
		{"fewer", signed("a", "b"), signed("b"), signed("a", "b"), false, nil},
		{"more", signed("a"), signed("b", "a"), signed("b", "a"), true, nil},
		{"others", signed("a"), signed("b"), signed("a"), false, sandbox.ErrConflict},
		{"another body", signed("a"), enclave.Signed{Kind: "k", Body: []byte("[]")}, signed("a"), false, sandbox.ErrInvalid},
	} {
		got, replaced, err := sandbox.MergeSigned(c.stored, c.offered)
		if diff := cmp.Diff(c.want, got); diff != "" || replaced != c.replaced || !errors.Is(err, c.err) {
			t.Errorf("%s: replaced %v, %v, (-want +got)\n%s", c.name, replaced, err, diff)
		}
	}
}
