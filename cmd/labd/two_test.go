package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/client"
	"yingzhou.dev/lab/sandbox/db/pgtest"
	"yingzhou.dev/lab/sandbox/lab"
)

// shared is a lab of two labds over one PostgreSQL, and who asks it.
type shared struct {
	*clustertest.Cluster
	t     *testing.T
	asked atomic.Int64
	done  atomic.Int64

	mu   sync.Mutex
	jobs []sandbox.JobID
	said map[string]bool // stages that watchers read
}

const (
	sharedJobs = 40 // that the budget is for
	// of one job. Each asks with another ε: a question of its own.
	sharedMicro = 17_000_000 / sharedJobs
)

func startShared(t *testing.T, server *pgtest.Server) *shared {
	t.Helper()
	s := &shared{t: t, said: map[string]bool{}}
	s.Cluster = clustertest.StartWith(t, clustertest.Options{Labds: 2,
		Options: hometest.Options{Database: server.Database(t), Rows: 200, ScenarioMicro: 18_000_000, JobMicro: sharedMicro},
		Edit: func(yaml string) string { // few at once, so that one does not take all
			return strings.Replace(yaml, "worker: {", "worker: {at_once: 2, ", 1) + "limits: {per_second: 1000, burst: 2000}\n"
		}})
	for name := range s.Labds {
		s.serves(name)
	}
	return s
}

// serves waits until a labd says so.
func (s *shared) serves(name string) {
	s.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !strings.Contains(s.Log(name), `"msg":"serving"`) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not serve:\n%s", name, s.Log(name))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask submits n jobs, one after another, and watches each to its release. One client is one connection, to either labd.
// While nobody answers it asks again, under the same ID.
func (s *shared) ask(r *desk.Remote, n int) error {
	id, err := r.Identity(hometest.Analyst)
	if err != nil {
		return err
	}
	scenario, _, err := r.Scenario(s.t.Context(), hometest.Scenario)
	if err != nil {
		return err
	}
	patiently := func(do func() error) error {
		for {
			if err := do(); !errors.Is(err, client.ErrUnavailable) || s.t.Context().Err() != nil {
				return err
			}
		}
	}
	for range n {
		i := s.asked.Add(1)
		req := lab.Request{ID: sandbox.NewJobID(time.Now()), Analyst: hometest.Analyst, Scenario: scenario, EpsilonMicro: sharedMicro - i,
			Query: fmt.Sprintf("SELECT health, COUNT(*) FROM health GROUP BY health -- %d", i)}
		err := patiently(func() error {
			_, err := r.Submit(s.t.Context(), req, func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
			return err
		})
		if err != nil {
			return fmt.Errorf("submitting job %d: %w", i, err)
		}
		s.mu.Lock()
		s.jobs = append(s.jobs, req.ID)
		s.mu.Unlock()
		var last sandbox.Job
		err = patiently(func() (err error) {
			last, err = r.Run(s.t.Context(), req.ID, func(j sandbox.Job) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.said[j.Stage] = true
			})
			return err
		})
		if err != nil || last.State != sandbox.Released {
			return fmt.Errorf("job %s is %s: %w", req.ID, last.State, err)
		}
		s.done.Add(1)
	}
	return nil
}

// until waits for what the askers bring about, unless they fail first.
func (s *shared) until(failed <-chan struct{}, met func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for !met() {
		select {
		case <-failed:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("it did not come to that; %d jobs were released", s.done.Load())
		}
	}
}

// drove counts the jobs that a labd brought to their release.
func drove(log string) int { return strings.Count(log, `"msg":"job ended"`) }

// log reads the whole log as the auditor does, and the keys that verify it; then everything ends.
func (s *shared) log() (enclave.LogKeys, []enclave.Entry) {
	s.t.Helper()
	r := s.Person("zhao.min")
	info, err := r.Info(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	keys, err := audit.ParseKeys(info.Roster.Log, info.Roster.Witness)
	if err != nil {
		s.t.Fatal(err)
	}
	_, cp, err := r.Checkpoint(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var out []enclave.Entry
	for rec, err := range r.Entries(s.t.Context(), 0, cp.Size) {
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, rec.Entry)
	}
	for name := range s.Labds {
		s.Stop(name)
	}
	for name := range s.Custodians {
		s.Stop(name)
	}
	return keys, out
}

// once checks that every job was released once and charged once by each custodian, and that the log is whole and extends
// what was seen of it. It ends all daemons.
func (s *shared) once(seen ...enclave.Checkpoint) {
	s.t.Helper()
	logged, released := map[string]int{}, map[enclave.Digest]string{}
	dir := filepath.Join(s.Dir, "labd", "log")
	jobs, err := s.Person(hometest.Analyst).Jobs(s.t.Context(), sandbox.JobFilter{})
	if err != nil {
		s.t.Fatal(err)
	}
	keys, read := s.log()
	report, err := audit.Fsck(s.t.Context(), dir, keys)
	if err != nil || report.Uncosigned != 0 {
		s.t.Errorf("the log: %+v, %v", report, err)
	}
	for _, cp := range seen {
		if _, err := audit.Extends(dir, keys, cp); err != nil {
			s.t.Errorf("the log that was seen with %d entries: %v", cp.Size, err)
		}
	}
	for _, e := range read {
		switch e.Type {
		case enclave.EntryPlan:
			logged[e.Type+" of "+e.Job]++
		case enclave.EntryRelease: // announced before it is stored: again if whoever asked for it was lost in between
			released[e.Subject] = e.Job
		case enclave.EntryCharge:
			logged[e.Type+" of "+e.Job+" by "+e.By]++
		}
	}
	for _, j := range jobs {
		if logged[enclave.EntryPlan+" of "+string(j.ID)] == 0 || released[j.Release] != string(j.ID) {
			s.t.Errorf("job %s: its plan or release %s is not in the log", j.ID, j.Release.Short())
		}
		if j.State != sandbox.Released {
			s.t.Errorf("job %s is %s: %s", j.ID, j.State, j.Reason)
		}
	}
	if len(jobs) != len(s.jobs) {
		s.t.Errorf("%d jobs are on record, %d were submitted", len(jobs), len(s.jobs))
	}
	for what, n := range logged {
		if n != 1 {
			s.t.Errorf("%d entries: %s", n, what)
		}
	}
	charged := 0
	for name := range s.Custodians {
		data, err := os.ReadFile(filepath.Join(s.Dir, name, "state", "ledger.jsonl"))
		if err != nil {
			s.t.Fatal(err)
		}
		own := 0
		for line := range bytes.Lines(data) {
			var signed canon.Signed
			var r release.Record
			if err := canon.Unmarshal(bytes.TrimSuffix(line, []byte("\n")), &signed); err != nil {
				s.t.Fatal(err)
			}
			if err := signed.Open(release.KindLedger, &r); err != nil {
				s.t.Fatal(err)
			}
			if r.Charge != nil && r.By == name {
				own++
			}
		}
		if own > len(s.jobs) {
			s.t.Errorf("%s charged %d times for %d jobs", name, own, len(s.jobs))
		}
		charged += own
	}
	if least := 2 * len(s.jobs); charged < least {
		s.t.Errorf("custodians charged %d times in all, want at least %d: a quorum for each job", charged, least)
	}
}

// TestTwoControlPlanesAndTheLossOfOne: both drive jobs; one is killed in the middle of many, and comes back.
func TestTwoControlPlanesAndTheLossOfOne(t *testing.T) {
	if testing.Short() {
		t.Skip("its daemons are programs of their own, which a race detector here does not see")
	}
	s := startShared(t, pgtest.Start(t))
	auditor := s.Person("zhao.min")
	checkpoint := func() enclave.Checkpoint {
		t.Helper()
		_, cp, err := auditor.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	const clients, each = 6, 4
	var people []*desk.Remote
	for range clients {
		people = append(people, s.Person(hometest.Analyst))
	}
	var g errgroup.Group
	failed := make(chan struct{})
	var once sync.Once
	for _, r := range people {
		g.Go(func() error {
			err := s.ask(r, each)
			if err != nil {
				once.Do(func() { close(failed) })
			}
			return err
		})
	}
	s.until(failed, func() bool { return drove(s.Log("labd-2")) > 0 && drove(s.Log(clustertest.Labd)) > 0 })
	before := checkpoint()
	lost := s.Kill("labd-2") // in the midst of whatever it does
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	alone := drove(s.Log(clustertest.Labd))
	after := checkpoint()
	s.Begin("labd-2")
	s.serves("labd-2")
	for range 2 { // until the one that came back has had one
		var g errgroup.Group
		for _, r := range people {
			g.Go(func() error { return s.ask(r, 1) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if drove(s.Log("labd-2")) > 0 {
			break
		}
	}
	t.Logf("labd-2 drove %d jobs before it was killed and %d afterwards; labd %d until then, %d in all", drove(lost), drove(s.Log("labd-2")), alone, drove(s.Log(clustertest.Labd)))
	if drove(lost) == 0 || alone == 0 || drove(s.Log("labd-2")) == 0 {
		t.Error("the two did not share the work")
	}
	s.once(before, after)
}

// TestTwoControlPlanesWithoutTheirDatabase: PostgreSQL is stopped in the middle of jobs and comes back. Jobs wait, say so,
// and go on.
func TestTwoControlPlanesWithoutTheirDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("its daemons are programs of their own, which a race detector here does not see")
	}
	server := pgtest.Start(t)
	server.Own()
	s := startShared(t, server)
	var g errgroup.Group
	failed := make(chan struct{})
	var once sync.Once
	for range 4 {
		r := s.Person(hometest.Analyst)
		g.Go(func() error {
			err := s.ask(r, 2)
			if err != nil {
				once.Do(func() { close(failed) })
			}
			return err
		})
	}
	s.until(failed, func() bool { return s.done.Load() >= 2 })
	server.Stop()
	waits := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.said["waiting: the lab's metadata is unreachable"]
	}
	for deadline := time.Now().Add(time.Minute); !waits() && time.Now().Before(deadline); {
		select {
		case <-failed:
			deadline = time.Now()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if !waits() {
		t.Error("nobody who watches was told that the jobs wait")
	}
	server.Run()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	s.once()
}
