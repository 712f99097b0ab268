package lab_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/db"
	"yingzhou.dev/lab/sandbox/lab"
)

// The log's storage writes to the process's standard error unless told otherwise before the first log opens.
func TestMain(m *testing.M) {
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// world is a control plane over a real store and log, with a worker, a gate and inputs that a test can make fail.
type world struct {
	t        *testing.T
	dir      string
	now      time.Time
	keys     map[string]ed25519.PrivateKey
	roster   enclave.Signed
	store    *db.DB
	log      *audit.Log
	lab      *lab.Lab
	scenario enclave.Digest

	logDown    bool
	logDownFor string // entries of this type cannot be written
	destroyer  lab.Destroyer
	worker     fakeWorker
	queue      lab.Admission
	gate       fakeGate
	stage      error
	have       bool // blobs have arrived
	holds      int  // of the blob store
	published  enclave.Digest
}

type signer struct {
	name string
	key  ed25519.PrivateKey
}

func (s signer) Name() string { return s.name }
func (s signer) Sign(kind string, body []byte) (canon.Signature, error) {
	return canon.Sign(kind, body, s.name, s.key), nil
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) at() canon.Time { return canon.At(w.now) }

func (w *world) sign(by, kind string, v any) enclave.Signed {
	w.t.Helper()
	s, err := canon.Seal(kind, v, by, w.keys[by])
	w.check(err)
	return s
}

// newKey makes a party's key and returns the public half.
func (w *world) newKey(name string) ed25519.PublicKey {
	w.t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	w.check(err)
	w.keys[name] = priv
	return pub
}

func (w *world) rootKey() ed25519.PublicKey { return w.keys["root"].Public().(ed25519.PublicKey) }

var approved = canon.Sum([]byte("worker"))

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), keys: map[string]ed25519.PrivateKey{}, have: true}
	w.worker = fakeWorker{w: w, digest: approved}
	w.gate.w = w
	logKey, witnessKey, err := audit.GenerateKeys("test.lab/log")
	w.check(err)
	roster := operators.Roster{Lab: "test", Serial: 1, Quorum: 2, Log: logKey.Public, Witness: witnessKey.Public, Made: w.at()}
	for _, p := range []operators.Party{{Name: "root"}, {Name: "o1", Role: operators.RoleOfficial, Body: "bureau"}, {Name: "o2", Role: operators.RoleOfficial, Body: "bureau"},
		{Name: "steward", Role: operators.RoleSteward, Body: "agency"}, {Name: "other", Role: operators.RoleSteward, Body: "other agency"},
		{Name: "analyst", Role: operators.RoleAnalyst, Body: "op"}, {Name: "rival", Role: operators.RoleAnalyst, Body: "rival"},
		{Name: "lab", Role: operators.RoleLab, Body: "bureau"}, {Name: "node", Role: operators.RoleNode, Body: "dc"},
		{Name: "ca", Role: operators.RoleCustodian, Body: "a"}, {Name: "cb", Role: operators.RoleCustodian, Body: "b"}, {Name: "cc", Role: operators.RoleCustodian, Body: "c"}} {
		if p.Verify = w.newKey(p.Name); p.Name != "root" {
			roster.Parties = append(roster.Parties, p)
		}
	}
	w.roster = w.sign("root", operators.KindRoster, roster)
	signer, verifier, err := audit.NewLogSigner(logKey.Secret)
	w.check(err)
	cosigner, err := audit.NewWitnessSigner(witnessKey.Secret)
	w.check(err)
	witness, err := audit.NewWitness(filepath.Join(w.dir, "witness"), cosigner, verifier)
	w.check(err)
	w.log, err = audit.Open(t.Context(), audit.Config{Dir: filepath.Join(w.dir, "log"), Signer: signer, Verifier: verifier, Witness: witness})
	w.check(err)
	t.Cleanup(func() { w.log.Close(context.Background()); witness.Close() })
	w.check(os.Mkdir(filepath.Join(w.dir, "tmp"), 0o700))
	w.openStore()
	t.Cleanup(func() { w.store.Close() })
	w.check(w.lab.PutRoster(t.Context(), w.roster))
	return w
}

// openStore opens the database and the control plane, as after a restart.
func (w *world) openStore() {
	w.t.Helper()
	var err error
	w.store, err = db.Open(w.t.Context(), filepath.Join(w.dir, "lab.db"))
	w.check(err)
	w.lab, err = lab.New(w.t.Context(), lab.Config{Store: w.store, Log: fakeLog{w.log, w}, Gate: &w.gate, Inputs: fakeInputs{w}, Worker: &w.worker, Admission: w.queue, Destroyer: w.destroyer,
		Lab: signer{"lab", w.keys["lab"]}, Node: signer{"node", w.keys["node"]}, RootKey: w.keys["root"].Public().(ed25519.PublicKey),
		TempDir: filepath.Join(w.dir, "tmp"), Blobs: arrived{w}, Clock: func() time.Time { return w.now }})
	w.check(err)
}

// arrived is a store whose blobs are all there, or none. It counts who holds it.
type arrived struct{ w *world }

func (a arrived) Has(enclave.Digest) bool { return a.w.have }
func (a arrived) Hold() (func(), error)   { a.w.holds++; return func() { a.w.holds-- }, nil }

func (w *world) restart() {
	w.t.Helper()
	w.check(w.store.Close())
	w.openStore()
}

type fakeLog struct {
	*audit.Log
	w *world
}

var errLogDown = errors.New("the log is down")

func (l fakeLog) Append(ctx context.Context, e ...enclave.Entry) ([]enclave.LogProof, error) {
	if l.w.logDown || l.w.logDownFor != "" && e[0].Type == l.w.logDownFor {
		return nil, errLogDown
	}
	return l.Log.Append(ctx, e...)
}

type fakeInputs struct{ w *world }

func (i fakeInputs) Stage(_ context.Context, _ *enclave.Keyset, _ enclave.Digest, _ *enclave.Layout, _ []int, _ string) error {
	return i.w.stage
}

// fakeWorker answers as the real one would, without computing.
type fakeWorker struct {
	w      *world
	digest enclave.Digest
	answer func(*enclave.TaskResult)
	err    error
	runs   int
	last   lab.WorkerTask
	before func() // called first
	cut    bool   // the first answer is of an adopted worker and lacks its beginning
}

func (f *fakeWorker) Identify(context.Context) (enclave.Digest, error) { return f.digest, nil }

func (f *fakeWorker) Run(_ context.Context, t lab.WorkerTask, progress func(int64)) (lab.WorkerResult, error) {
	f.runs++
	f.last = t
	if f.before != nil {
		f.before()
	}
	if f.err != nil {
		return lab.WorkerResult{}, f.err
	}
	data, err := os.ReadFile(filepath.Join(t.Dir, enclave.TaskName))
	if err != nil {
		return lab.WorkerResult{}, err
	}
	var task enclave.Task
	if err := canon.Unmarshal(data, &task); err != nil {
		return lab.WorkerResult{}, err
	}
	_, terms, err := task.Plan.Expand(&task.Manifest)
	if err != nil {
		return lab.WorkerResult{}, err
	}
	progress(50)
	res := enclave.TaskResult{Plan: canon.DigestOf(task.Plan), Terms: int64(len(terms)), Output: canon.Sum([]byte("output"))}
	if f.answer != nil {
		f.answer(&res)
	}
	if f.cut && f.runs == 1 {
		return lab.WorkerResult{Output: canon.MustMarshal(res)[10:], Adopted: true}, nil
	}
	return lab.WorkerResult{Output: canon.MustMarshal(res), Isolation: "fake", Started: f.w.now, Ended: f.w.now}, nil
}

type fakeGate struct {
	w       *world
	err     error
	refused bool
	asked   []*enclave.Bundle
}

func (g *fakeGate) Release(ctx context.Context, b *enclave.Bundle, step func(string)) (*lab.Outcome, error) {
	g.asked = append(g.asked, b)
	step("commit")
	if g.err != nil {
		return nil, g.err
	}
	rel := g.w.sign("ca", enclave.KindRelease, enclave.Release{Plan: b.Plan.Digest(), Receipt: b.Receipt.Digest(), Custodians: []string{}, Made: g.w.at()})
	proofs, err := g.w.log.Append(ctx, enclave.Entry{Type: enclave.EntryRelease, Subject: rel.Digest(), By: "ca", At: g.w.at()})
	if err != nil {
		return nil, err
	}
	return &lab.Outcome{Release: rel, Table: []byte("sealed"), Proof: proofs[0]}, nil
}

func (g *fakeGate) Refused(err error) (string, bool) { return "a custodian said no", g.refused }

func (w *world) keyset() enclave.Signed { return w.keysetAs("steward", "d", "agency") }

func (w *world) keysetAs(by, dataset, owner string) enclave.Signed {
	return w.sign(by, enclave.KindKeyset, enclave.Keyset{Dataset: dataset, Owner: owner, Params: enclave.DefaultParams, Custodians: []string{"ca", "cb", "cc"}, Quorum: 2,
		Pieces: []enclave.Piece{{Without: []int{0}}, {Without: []int{1}}, {Without: []int{2}}}, EntityRows: 1, BudgetMicro: 9_000_000, Epoch: 1, By: by, Made: w.at()})
}

func (w *world) manifest(ks enclave.Signed, by string, change func(*enclave.Manifest)) enclave.Signed {
	m := enclave.Manifest{Dataset: "d", Version: 1, Keyset: ks.Digest(), Owner: "agency", RowsBound: 1024, By: by, Made: w.at(),
		Columns: []enclave.Column{{Name: "town", Type: enclave.TypeCategory, Domain: []string{"a", "b"}, Uses: []operators.Use{operators.UseFilter, operators.UseGroup}}},
		Layouts: []enclave.Layout{{Name: "cube", Kind: enclave.Cube, Axes: [][]string{{"town"}}, Vectors: []enclave.Vector{{Name: "n", Blob: canon.Sum([]byte("b")), Bytes: 1, Chunks: 1}}}}}
	if change != nil {
		change(&m)
	}
	return w.sign(by, enclave.KindManifest, m)
}

func (w *world) state(by, kind string, v any) enclave.Digest {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	s := w.sign(by, kind, v)
	w.check(w.lab.Announce(w.t.Context(), enclave.Entry{Type: enclave.EntryStatement, Subject: s.Digest(), By: by, At: w.at()}))
	_, err := w.store.AppendStatement(w.t.Context(), s, w.now)
	w.check(err)
	return s.Digest()
}

// ready has a dataset published and a scenario approved.
func ready(t *testing.T) *world {
	w := newWorld(t)
	ks := w.keyset()
	w.check(w.lab.RegisterKeyset(t.Context(), ks))
	m := w.manifest(ks, "steward", nil)
	w.check(w.lab.Publish(t.Context(), m))
	w.published = m.Digest()
	w.state("o1", operators.KindLicense, operators.License{Operator: "op", NotBefore: w.at(), NotAfter: canon.At(w.now.AddDate(1, 0, 0)), SecurityReview: "r", Agreement: "a", By: "o1", Made: w.at()})
	use := operators.DatasetUse{Dataset: "d", Columns: []operators.ColumnUse{{Column: "town", Uses: []operators.Use{operators.UseFilter, operators.UseGroup}}}}
	w.scenario = w.state("analyst", operators.KindScenario, operators.Scenario{Name: "s", Operator: "op", Purpose: "p", Datasets: []operators.DatasetUse{use}, EpsilonMicro: 5_000_000,
		JobEpsilonMicro: 1_000_000, MinCohort: 10, MarginMilli: 2000, Workers: []enclave.Digest{approved}, NotAfter: canon.At(w.now.AddDate(0, 6, 0)), By: "analyst", Made: w.at()})
	w.state("steward", operators.KindConsent, operators.Consent{Scenario: w.scenario, Use: use, EpsilonMicro: 5_000_000, By: "steward", Made: canon.At(w.now.Add(time.Second))})
	for _, o := range []string{"o1", "o2"} {
		w.state(o, operators.KindDecision, operators.Decision{Subject: w.scenario, Verdict: operators.Approve, Reason: "r", By: o, Made: canon.At(w.now.Add(time.Second))})
	}
	w.now = w.now.Add(time.Second)
	return w
}

const query = "SELECT town, COUNT(*) FROM d GROUP BY town"

func (w *world) submit(q string) (sandbox.Job, error) {
	w.t.Helper()
	return w.lab.Submit(w.t.Context(), lab.Request{Analyst: "analyst", Scenario: w.scenario, Query: q}, func(p *lab.Prepared) (enclave.Signed, error) {
		return canon.Seal(enclave.KindPlan, p.Plan, "analyst", w.keys["analyst"])
	})
}

func (w *world) entries(kind string) int {
	w.t.Helper()
	have, err := w.store.Entries(w.t.Context(), sandbox.EntryFilter{Type: kind})
	w.check(err)
	return len(have)
}

func TestJobRunsToItsRelease(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	var states []string
	job, err = w.lab.Run(t.Context(), job.ID, func(j sandbox.Job) {
		if s := string(j.State); len(states) == 0 || states[len(states)-1] != s {
			states = append(states, s)
		}
	})
	w.check(err)
	if want := "planned running computed opening released"; strings.Join(states, " ") != want {
		t.Errorf("states %v, want %s", states, want)
	}
	b := w.gate.asked[0]
	if len(b.Statements) != 5 || len(b.Keysets) != 1 || b.Plan.Digest() != job.Plan {
		t.Errorf("the dossier has %d statements and %d keysets", len(b.Statements), len(b.Keysets))
	}
	for _, p := range b.Proofs {
		if _, _, err := p.Check(w.log.Keys()); err != nil {
			t.Error(err)
		}
	}
	sealed, err := w.lab.SealedTable(t.Context(), job.ID)
	if err != nil || string(sealed.Table) != "sealed" {
		t.Errorf("sealed table %q, %v", sealed.Table, err)
	}
	if again, err := w.lab.Run(t.Context(), job.ID, nil); err != nil || again.State != sandbox.Released || w.worker.runs != 1 || len(w.gate.asked) != 1 {
		t.Errorf("running a released job again: %v, %v", again.State, err)
	}
	if left, _ := os.ReadDir(filepath.Join(w.dir, "tmp")); len(left) != 0 {
		t.Errorf("%d input folders were left behind", len(left))
	}
}

func TestJobIsTakenUpFromEveryState(t *testing.T) {
	w := ready(t)
	for _, stop := range []sandbox.State{sandbox.Planned, sandbox.Running, sandbox.Computed, sandbox.Opening} {
		t.Run(string(stop), func(t *testing.T) {
			job, err := w.submit(query)
			w.check(err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			func() {
				defer func() { recover() }() // stands for the death of the process in the middle of watch
				w.lab.Run(ctx, job.ID, func(j sandbox.Job) {
					if j.State == stop {
						panic("killed")
					}
				})
			}()
			w.restart()
			w.check(w.lab.Sweep(t.Context()))
			unfinished, err := w.lab.Unfinished(t.Context())
			if err != nil || len(unfinished) != 1 || unfinished[0].ID != job.ID {
				t.Fatalf("unfinished jobs: %v, %v", unfinished, err)
			}
			if job, err = w.lab.Run(t.Context(), job.ID, nil); err != nil || job.State != sandbox.Released {
				t.Errorf("job is %s, %v", job.State, err)
			}
			if left, _ := os.ReadDir(filepath.Join(w.dir, "tmp")); len(left) != 0 {
				t.Errorf("%d input folders were left behind", len(left))
			}
		})
	}
}

// fakeQueue has a job wait behind two others, and counts what is taken and given back.
type fakeQueue struct {
	need     lab.Need
	err      error
	held     int
	released int
}

func (q *fakeQueue) Admit(_ context.Context, n lab.Need, ahead func(int)) (func(), error) {
	q.need = n
	if q.err != nil {
		return nil, q.err
	}
	for _, jobs := range []int{2, 1, 0} {
		ahead(jobs)
	}
	q.held++
	return func() { q.released++ }, nil
}

func TestJobWaitsItsTurn(t *testing.T) {
	w := ready(t)
	q := &fakeQueue{}
	w.queue = q
	w.restart()
	job, err := w.submit(query)
	w.check(err)
	var stages []string
	if job, err = w.lab.Run(t.Context(), job.ID, func(j sandbox.Job) {
		if j.State == sandbox.Planned && j.Stage != "" {
			stages = append(stages, j.Stage)
		}
	}); err != nil || job.State != sandbox.Released {
		t.Fatalf("job is %s, %v", job.State, err)
	}
	if want := []string{"waiting for a worker, 2 before it", "waiting for a worker, 1 before it"}; !slices.Equal(stages, want) {
		t.Errorf("watchers saw %q", stages)
	}
	if q.need.Operator != job.Operator || q.need.Job != job.ID || q.need.CPUs <= 0 || q.need.MemoryMiB < 64 {
		t.Errorf("asked for %+v", q.need)
	}
	if q.held != 1 || q.released != 1 {
		t.Errorf("taken %d times, given back %d times", q.held, q.released)
	}
	if w.worker.last.Need != q.need {
		t.Errorf("the worker was given %+v, admitted was %+v", w.worker.last.Need, q.need)
	}
}

func TestJobTooLargeForTheNode(t *testing.T) {
	w := ready(t)
	w.queue = &fakeQueue{err: &lab.TooLargeError{Need: lab.Need{CPUs: 1, MemoryMiB: 3000}, CPUs: 2, MemoryMiB: 1024}}
	w.restart()
	job, err := w.submit(query)
	w.check(err)
	if job, err = w.lab.Run(t.Context(), job.ID, nil); err == nil || job.State != sandbox.Refused || !strings.Contains(job.Reason, "needs 1 processors and 3000 MiB") {
		t.Errorf("job is %s for %q, %v", job.State, job.Reason, err)
	}
}

// TestInterruptedWorker leaves the job where it was, and the next run drives it on.
func TestInterruptedWorker(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.worker.err = fmt.Errorf("%w: the daemon was restarted", lab.ErrInterrupted)
	if job, err = w.lab.Run(t.Context(), job.ID, nil); !errors.Is(err, lab.ErrInterrupted) || job.State != sandbox.Running {
		t.Errorf("job is %s, %v", job.State, err)
	}
	w.worker.err = nil
	if job, err = w.lab.Run(t.Context(), job.ID, nil); err != nil || job.State != sandbox.Released || job.Attempts != 2 {
		t.Errorf("job is %s after %d attempts, %v", job.State, job.Attempts, err)
	}
}

// TestLeftWorker keeps the inputs of a worker that goes on without this process, and no others.
func TestLeftWorker(t *testing.T) {
	w := ready(t)
	for left, why := range map[bool]error{true: lab.ErrLeft, false: errors.New("stopped")} {
		job, err := w.submit(query)
		w.check(err)
		ctx, cancel := context.WithCancel(t.Context())
		w.worker.err, w.worker.before = fmt.Errorf("%w: the process ends", why), cancel
		if job, err = w.lab.Run(ctx, job.ID, nil); !errors.Is(err, why) || job.State != sandbox.Running {
			t.Errorf("job is %s, %v", job.State, err)
		}
		_, err = os.Stat(filepath.Join(w.dir, "tmp", string(job.ID), enclave.TaskName))
		if (err == nil) != left {
			t.Errorf("left %t: inputs: %v", left, err)
		}
		w.worker.err, w.worker.before = nil, nil
		w.restart()
		w.check(w.lab.Sweep(t.Context()))
		if job, err = w.lab.Run(t.Context(), job.ID, nil); err != nil || job.State != sandbox.Released {
			t.Errorf("taken up, job is %s, %v", job.State, err)
		}
		if names, err := os.ReadDir(filepath.Join(w.dir, "tmp")); err != nil || len(names) > 0 {
			t.Errorf("left %v, %v", names, err)
		}
	}
}

// TestAdoptedAnswerThatIsCut has the worker answer again.
func TestAdoptedAnswerThatIsCut(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.worker.cut = true
	if job, err = w.lab.Run(t.Context(), job.ID, nil); err != nil || job.State != sandbox.Released || w.worker.runs != 2 {
		t.Errorf("job is %s after %d workers, %v", job.State, w.worker.runs, err)
	}
}

func TestRefusedJobIsRecordedAndLogged(t *testing.T) {
	w := ready(t)
	before := w.entries(enclave.EntryRefusal)
	job, err := w.submit("SELECT MAX(town) FROM d WHERE nobody = 1")
	if !lab.IsRefusal(err) || job.State != sandbox.Refused {
		t.Fatalf("job is %s, %v", job.State, err)
	}
	stored, err := w.lab.Job(t.Context(), job.ID)
	if err != nil || !strings.Contains(stored.Reason, "nobody") || w.entries(enclave.EntryRefusal) != before+1 {
		t.Errorf("recorded %+v, %v", stored, err)
	}
	if _, err := w.lab.Run(t.Context(), job.ID, nil); err == nil {
		t.Error("a refused job ran")
	}
	if _, err := w.submit("SELECT COUNT(*) FROM elsewhere"); !lab.IsRefusal(err) {
		t.Errorf("an unknown dataset gives %v", err)
	}
}

func TestPlanMustBeSignedByTheAnalystWhoAsks(t *testing.T) {
	w := ready(t)
	for name, sign := range map[string]func(p *lab.Prepared) (enclave.Signed, error){
		"by another": func(p *lab.Prepared) (enclave.Signed, error) {
			return canon.Seal(enclave.KindPlan, p.Plan, "rival", w.keys["rival"])
		},
		"another plan": func(p *lab.Prepared) (enclave.Signed, error) {
			p.Plan.MinCohort = 1
			other := *p.Plan
			other.Limit = 7
			return canon.Seal(enclave.KindPlan, other, "analyst", w.keys["analyst"])
		},
		"not at all": func(p *lab.Prepared) (enclave.Signed, error) { return enclave.Signed{}, errors.New("declined") },
	} {
		job, err := w.lab.Submit(t.Context(), lab.Request{Analyst: "analyst", Scenario: w.scenario, Query: query}, sign)
		if err == nil || job.State != sandbox.Failed || strings.Contains(job.Reason, "%!") {
			t.Errorf("%s: job is %s, %v", name, job.State, err)
		}
	}
	if _, err := w.lab.Submit(t.Context(), lab.Request{Analyst: "o1", Scenario: w.scenario, Query: query}, nil); !lab.IsRefusal(err) {
		t.Errorf("an official's job gives %v", err)
	}
}

func TestNothingHappensWithoutTheLog(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.logDown = true
	if _, err := w.submit(query); !errors.Is(err, errLogDown) {
		t.Errorf("submitting gives %v", err)
	}
	if _, err := w.lab.Cancel(t.Context(), job.ID, "analyst", ""); !errors.Is(err, errLogDown) {
		t.Errorf("cancelling gives %v", err)
	}
	if err := w.lab.Publish(t.Context(), w.manifest(w.keyset(), "steward", func(m *enclave.Manifest) { m.Version, m.Previous = 2, w.published })); err == nil {
		t.Error("a version was published")
	}
	if j, err := w.lab.Run(t.Context(), job.ID, nil); !errors.Is(err, errLogDown) || j.State != sandbox.Running {
		t.Errorf("running gives %s, %v", j.State, err)
	}
	w.logDown = false
	if j, err := w.lab.Run(t.Context(), job.ID, nil); err != nil || j.State != sandbox.Released {
		t.Errorf("after the log is back: %s, %v", j.State, err)
	}
}

func TestUnapprovedWorkerDoesNotStart(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.worker.digest = canon.Sum([]byte("another"))
	job, err = w.lab.Run(t.Context(), job.ID, nil)
	if job.State != sandbox.Refused || w.worker.runs != 0 || !strings.Contains(err.Error(), approved.String()) || !strings.Contains(err.Error(), w.worker.digest.String()) {
		t.Errorf("job is %s: %v", job.State, err)
	}
}

func TestWorkerFaultsEndTheJob(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"fails":                 func(w *world) { w.worker.err = errors.New("out of memory") },
		"answers another plan":  func(w *world) { w.worker.answer = func(r *enclave.TaskResult) { r.Plan[0]++ } },
		"answers fewer terms":   func(w *world) { w.worker.answer = func(r *enclave.TaskResult) { r.Terms-- } },
		"inputs cannot be read": func(w *world) { w.stage = enclave.ErrBlob },
	} {
		t.Run(name, func(t *testing.T) {
			w := ready(t)
			job, err := w.submit(query)
			w.check(err)
			spoil(w)
			job, err = w.lab.Run(t.Context(), job.ID, nil)
			if err == nil || job.State != sandbox.Failed || w.entries(enclave.EntryReceipt) != 0 || w.entries(enclave.EntryFailure) != 1 {
				t.Errorf("job is %s, %v", job.State, err)
			}
		})
	}
}

func TestCustodiansAnswerDecides(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	w.gate.err = errors.New("two custodians cannot be reached")
	if j, err := w.lab.Run(t.Context(), job.ID, nil); err == nil || j.State != sandbox.Opening {
		t.Errorf("without a quorum the job is %s, %v", j.State, err)
	}
	if _, err := w.lab.Cancel(t.Context(), job.ID, "analyst", ""); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("an opening job was cancelled: %v", err)
	}
	w.gate.refused = true
	if j, err := w.lab.Run(t.Context(), job.ID, nil); err == nil || j.State != sandbox.Refused || j.Reason != "a custodian said no" {
		t.Errorf("after a refusal the job is %s (%s), %v", j.State, j.Reason, err)
	}
}

func TestCancel(t *testing.T) {
	w := ready(t)
	job, err := w.submit(query)
	w.check(err)
	if _, err := w.lab.Cancel(t.Context(), job.ID, "rival", ""); err == nil {
		t.Error("another operator's analyst cancelled the job")
	}
	if job, err = w.lab.Cancel(t.Context(), job.ID, "analyst", "wrong year"); err != nil || job.State != sandbox.Cancelled || w.entries(enclave.EntryCancel) != 1 {
		t.Errorf("job is %s, %v", job.State, err)
	}
	if _, err := w.lab.Run(t.Context(), job.ID, nil); err == nil || w.worker.runs != 0 {
		t.Errorf("a cancelled job ran: %v", err)
	}
}

func TestCatalogueRefusals(t *testing.T) {
	w := ready(t)
	ctx := t.Context()
	d, err := w.lab.Dataset(ctx, "d")
	w.check(err)
	all, err := w.lab.Datasets(ctx)
	if err != nil || len(all) != 1 || all[0].ManifestDigest != w.published {
		t.Errorf("catalogue %+v, %v", all, err)
	}
	other := w.keysetAs("other", "d", "other agency")
	if err := w.lab.RegisterKeyset(ctx, other); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("another agency took the name: %v", err)
	}
	for name, s := range map[string]enclave.Signed{
		"by an analyst":          w.keysetAs("analyst", "e", "op"),
		"for another body":       w.keysetAs("steward", "e", "other agency"),
		"signed by someone else": {Kind: enclave.KindKeyset, Body: other.Body, Sigs: w.sign("steward", enclave.KindKeyset, struct{}{}).Sigs},
	} {
		if err := w.lab.RegisterKeyset(ctx, s); err == nil {
			t.Errorf("keyset %s was registered", name)
		}
	}
	ks := w.keyset()
	second := func(m *enclave.Manifest) { m.Version, m.Previous, m.Keyset = 2, w.published, d.KeysetDigest }
	for name, s := range map[string]enclave.Signed{
		"by another agency": w.manifest(ks, "other", second),
		"of version 3":      w.manifest(ks, "steward", func(m *enclave.Manifest) { second(m); m.Version = 3 }),
		"after nothing":     w.manifest(ks, "steward", func(m *enclave.Manifest) { second(m); m.Previous = enclave.Digest{} }),
		"under another key": w.manifest(ks, "steward", func(m *enclave.Manifest) { second(m); m.Keyset = canon.Sum([]byte("x")) }),
		"of nothing known":  w.manifest(ks, "steward", func(m *enclave.Manifest) { second(m); m.Dataset = "e" }),
	} {
		if err := w.lab.Publish(ctx, s); err == nil {
			t.Errorf("manifest %s was published", name)
		}
	}
	next := w.manifest(ks, "steward", second)
	w.have = false
	if err := w.lab.Publish(ctx, next); !errors.Is(err, enclave.ErrNotFound) {
		t.Errorf("published without its blobs: %v", err)
	}
	if w.have = true; w.holds != 0 {
		t.Errorf("%d publications hold the blob store for ever", w.holds)
	}
	for range 2 { // a repeated call changes nothing
		w.check(w.lab.Publish(ctx, next))
	}
	if n := w.entries(enclave.EntryManifest); n != 2 {
		t.Errorf("%d manifest entries in the log, want 2", n)
	}
}

// A custodian's entries reach the index when the control plane starts again, and an unreleased job has no receipt file.
func TestIndexFollowsTheLog(t *testing.T) {
	w := ready(t)
	_, err := w.log.Append(t.Context(), enclave.Entry{Type: enclave.EntryCharge, Subject: canon.Sum([]byte("c")), By: "ca", At: w.at()})
	w.check(err)
	w.restart()
	if w.entries(enclave.EntryCharge) != 1 {
		t.Error("a custodian's entry is not indexed")
	}
	job, err := w.submit(query)
	w.check(err)
	if _, err := w.lab.Bundle(t.Context(), job.ID); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("a planned job's bundle gives %v", err)
	}
	if _, err := w.lab.Job(t.Context(), "job-unknown"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("an unknown job gives %v", err)
	}
	jobs, err := w.lab.Jobs(t.Context(), sandbox.JobFilter{})
	if err != nil || !slices.ContainsFunc(jobs, func(j sandbox.Job) bool { return j.ID == job.ID }) {
		t.Errorf("jobs %v, %v", jobs, err)
	}
	if _, err := lab.New(t.Context(), lab.Config{}); err == nil {
		t.Error("a control plane without anything was opened")
	}
	if _, _, err := w.lab.Scenario(t.Context(), "unknown"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("an unknown scenario gives %v", err)
	}
	if d, _, err := w.lab.Scenario(t.Context(), "s"); err != nil || d != w.scenario {
		t.Errorf("scenario %s, %v", d, err)
	}
}
