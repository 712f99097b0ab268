package nodes_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/cmd/internal/planner"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/examples/care/generator"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/process"
)

// spy is the name under which this program stands between a custodian and nodehost: see asSpy.
const spy = "spy"

func TestMain(m *testing.M) {
	process.Init() // this program is what a worker's sandbox is made from
	if filepath.Base(os.Args[0]) == spy {
		os.Exit(asSpy())
	}
	os.Exit(m.Run())
}

// asSpy is nodehost with a witness: beside the link by which it was called it notes each run in the file "runs", and as
// long as there is a file "kill" there it kills the node in the middle of its work.
func asSpy() int {
	dir := filepath.Dir(os.Args[0])
	real, err := os.ReadFile(filepath.Join(dir, "nodehost"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodehost:", err)
		return 1
	}
	cmd := exec.Command(string(real), os.Args[1:]...)
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodehost:", err)
		return 1
	}
	if os.Args[1] == "run" {
		f, err := os.OpenFile(filepath.Join(dir, "runs"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintln(f, strings.Join(os.Args, " "))
			f.Close()
		}
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		for range asked {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
	killed := false
	for lines := bufio.NewScanner(said); lines.Scan(); {
		fmt.Fprintln(os.Stderr, lines.Text())
		if _, err := os.Stat(filepath.Join(dir, "kill")); err == nil && strings.Contains(lines.Text(), "step 2") {
			killed = cmd.Process.Kill() == nil // the sandbox goes with it
		}
	}
	_ = cmd.Wait()
	if killed {
		fmt.Fprintln(os.Stderr, "nodehost: it was killed")
	}
	return cmd.ProcessState.ExitCode()
}

const people = 400

var agencies = []struct{ dataset, steward, body string }{{"residents", "he.ping", "区公安分局"}, {"costs", "sun.lan", "区医保局"}}

// services is a lab of services whose custodians have compute nodes, with two agencies' tables in share form.
type services struct {
	*clustertest.Cluster
	t        *testing.T
	scenario enclave.Digest
	spies    map[string]string // folder of each custodian's
}

// start makes the lab. Everything that its people do, they do through the services.
func start(t *testing.T, isolation string) *services {
	t.Helper()
	bin := t.TempDir()
	if err := hometest.Build(t.Context(), bin, "worker", "node", "nodehost"); err != nil {
		t.Fatal(err)
	}
	edit := func(yaml string) string {
		return strings.Replace(yaml, `node", isolation: "process"`, fmt.Sprintf(`node", isolation: %q`, isolation), 1) + "limits: {per_second: 1000, burst: 2000}\n"
	}
	c := clustertest.Start(t, hometest.Options{Stage: hometest.Staffed, Worker: filepath.Join(bin, "worker"), Also: staff}, edit)
	s := &services{Cluster: c, t: t, spies: map[string]string{}}
	self, err := os.Executable()
	s.check(err)
	for name := range c.Custodians {
		dir := filepath.Join(t.TempDir(), name)
		s.check(errors.Join(os.Mkdir(dir, 0o700), os.Symlink(self, filepath.Join(dir, spy)), os.WriteFile(filepath.Join(dir, "nodehost"), []byte(filepath.Join(bin, "nodehost")), 0o600)))
		s.spies[name] = dir
		s.configure(name, filepath.Join(bin, "nodehost"), filepath.Join(dir, spy), `isolation: "process"`, fmt.Sprintf("isolation: %q", isolation))
	}
	s.seal()
	return s
}

func staff(ctx context.Context, h *home.Home) error {
	for _, a := range agencies {
		if err := h.AddPerson(ctx, operators.Party{Name: a.steward, Role: operators.RoleSteward, Body: a.body}); err != nil {
			return err
		}
	}
	return errors.Join(h.NewProject(ctx, "elderly", agencies[0].steward), h.GiveProject(ctx, "elderly", agencies[0].steward, agencies[1].steward))
}

func (s *services) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// configure changes a custodian's configuration, by pairs of what is there and what comes in its place, and restarts it.
func (s *services) configure(name string, pairs ...string) {
	s.t.Helper()
	path := filepath.Join(s.Dir, name, "custodian.yaml")
	data, err := os.ReadFile(path)
	s.check(err)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(string(data), pairs[i]) {
			s.t.Fatalf("configuration of %s has no %s:\n%s", name, pairs[i], data)
		}
	}
	s.Stop(name)
	s.check(os.WriteFile(path, []byte(strings.NewReplacer(pairs...).Replace(string(data))), 0o600))
	s.Begin(name)
}

// as has a person do something with their keys.
func (s *services) as(who string, do func(r *desk.Remote, id *keys.Identity) error) {
	s.t.Helper()
	r := s.Person(who)
	id, err := r.Identity(who)
	s.check(err)
	if err := do(r, id); err != nil {
		s.t.Fatalf("%s: %v", who, err)
	}
}

// seal has two agencies register and seal their tables, an operator licensed and a scenario approved.
func (s *services) seal() {
	s.t.Helper()
	ctx, dir := s.t.Context(), s.t.TempDir()
	var tables [3]bytes.Buffer
	s.check(generator.Write(&tables[0], &tables[1], &tables[2], people, 1))
	for i, a := range agencies {
		s.check(os.WriteFile(filepath.Join(dir, a.dataset+".csv"), tables[i].Bytes(), 0o600))
		data, err := examples.Files.ReadFile("care/" + []string{"residents", "health"}[i] + ".schema.json")
		s.check(err)
		sc, err := schema.Parse(bytes.Replace(data, []byte(`"dataset": "health"`), []byte(`"dataset": "costs"`), 1))
		s.check(err)
		s.as(a.steward, func(r *desk.Remote, _ *keys.Identity) error {
			_, err := r.RegisterDataset(ctx, sc, a.steward)
			return err
		})
	}
	col := func(name string, uses ...operators.Use) operators.ColumnUse {
		return operators.ColumnUse{Column: name, Uses: uses}
	}
	costs := operators.DatasetUse{Dataset: "costs", Columns: []operators.ColumnUse{col("cost", operators.UseAggregate, operators.UseFilter), col("person", operators.UseJoin)}}
	residents := operators.DatasetUse{Dataset: "residents", Columns: []operators.ColumnUse{col("age", operators.UseFilter, operators.UseGroup),
		col("alone", operators.UseFilter, operators.UseGroup), col("person", operators.UseJoin)}}
	now := time.Now().UTC().Truncate(time.Second)
	s.as("wang.fang", func(r *desk.Remote, id *keys.Identity) error {
		_, err := r.Book().Issue(ctx, id, operators.License{Operator: hometest.Operator, SecurityReview: "安审[2026]17", Agreement: "保密[2026]9",
			NotBefore: operators.Time{Time: now}, NotAfter: operators.Time{Time: now.AddDate(2, 0, 0)}})
		return err
	})
	s.as(hometest.Analyst, func(r *desk.Remote, id *keys.Identity) error {
		workers, err := r.WorkerDigests(ctx)
		if err == nil {
			s.scenario, err = r.Book().Apply(ctx, id, operators.Scenario{Name: "joined", Operator: hometest.Operator, Purpose: "独居老人医疗负担", Datasets: []operators.DatasetUse{costs, residents},
				EpsilonMicro: 12_000_000, JobEpsilonMicro: 4_000_000, MinCohort: 10, MarginMilli: 2000, Workers: workers, NotAfter: operators.Time{Time: now.AddDate(0, 6, 0)}})
		}
		return err
	})
	for i, a := range agencies {
		s.as(a.steward, func(r *desk.Remote, id *keys.Identity) error {
			_, err := r.Book().Consent(ctx, id, operators.Consent{Scenario: s.scenario, Use: []operators.DatasetUse{residents, costs}[i], EpsilonMicro: 12_000_000})
			return err
		})
	}
	for _, who := range []string{"wang.fang", "li.jun"} {
		s.as(who, func(r *desk.Remote, id *keys.Identity) error {
			_, err := r.Book().Approve(ctx, id, s.scenario, "符合目录与用途")
			return err
		})
	}
	for _, a := range agencies {
		s.as(a.steward, func(r *desk.Remote, _ *keys.Identity) error {
			_, err := r.SealTable(ctx, filepath.Join(dir, a.dataset+".csv"), a.dataset, a.steward, agency.SealOptions{Forms: seal.Split, Project: "elderly", Scenario: s.scenario})
			return err
		})
	}
}

// query asks of those above an age.
func query(age int) string {
	return fmt.Sprintf("SELECT alone, COUNT(*) AS people, MEDIAN(cost) AS median FROM residents JOIN costs ON entity WHERE age > %d GROUP BY alone", age)
}

func (s *services) submit(r *desk.Remote, query string) sandbox.Job {
	s.t.Helper()
	id, err := r.Identity(hometest.Analyst)
	s.check(err)
	job, err := r.Submit(s.t.Context(), lab.Request{Analyst: hometest.Analyst, Scenario: s.scenario, Query: query},
		func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
	s.check(err)
	return job
}

// result is a released job's table and what the custodians signed, verified as anybody would.
func (s *services) result(r *desk.Remote, job sandbox.Job) (*enclave.Table, *enclave.Release) {
	s.t.Helper()
	id, err := r.Identity(hometest.Analyst)
	s.check(err)
	sealed, err := r.SealedTable(s.t.Context(), job.ID)
	s.check(err)
	plain, err := id.Open(keys.TableInfo(sealed.Release), sealed.Table)
	s.check(err)
	var table enclave.Table
	s.check(canon.Unmarshal(plain, &table))
	b, err := s.Person("zhao.min").Bundle(s.t.Context(), job.ID)
	s.check(err)
	_, rel, err := release.CheckRelease(b, r.RootKey(), planner.Build)
	s.check(err)
	if rel.Table != canon.DigestOf(table) {
		s.t.Error("the custodians signed another table")
	}
	return &table, rel
}

// values are a table's figures.
func values(t *enclave.Table) string {
	var out []string
	for _, r := range t.Rows {
		for _, v := range r.Values {
			out = append(out, v.Text)
		}
	}
	return strings.Join(out, " ")
}

// runs is how many nodes have been started.
func (s *services) runs() int {
	s.t.Helper()
	n := 0
	for _, dir := range s.spies {
		data, err := os.ReadFile(filepath.Join(dir, "runs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
		n += bytes.Count(data, []byte("\n"))
	}
	return n
}

// malicious asks a custodian to lead a release, with labd's own certificate.
func (s *services) malicious(b *enclave.Bundle) error {
	s.t.Helper()
	source, err := pki.Open(s.Lab, pki.FilesIn(filepath.Join(s.Dir, clustertest.Labd)), time.Now)
	s.check(err)
	name := slices.Min(keysOf(s.Custodians))
	conn, err := rpc.Dial(s.Custodians[name], source.Client(pki.Name{Role: string(operators.RoleCustodian), Party: name}))
	s.check(err)
	defer conn.Close()
	_, err = custodian.New(name, conn).Lead(s.t.Context(), b, nil)
	return err
}

func keysOf(m map[string]string) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

// The whole way of a joint job through the services, and what happens when a node or somebody's honesty is lost.
func TestServices(t *testing.T) {
	s := start(t, "process")
	r := s.Person(hometest.Analyst)
	first := s.submit(r, query(60))
	var stages []string
	job, err := r.Run(t.Context(), first.ID, func(j sandbox.Job) { stages = append(stages, string(j.State)+" "+j.Stage) })
	if err != nil || job.State != sandbox.Released {
		for name := range s.Custodians {
			t.Logf("%s: %s", name, s.Log(name))
		}
		t.Fatalf("job is %s: %v, after %q", job.State, err, stages)
	}
	table, rel := s.result(r, job)
	if len(table.Rows) != 2 || rel.ChargedMicro == 0 || job.Isolation != mpc.Uncontained || s.runs() != 3 {
		t.Errorf("%d rows, charged %d, isolation %q, %d runs", len(table.Rows), rel.ChargedMicro, job.Isolation, s.runs())
	}
	for _, dir := range s.spies {
		data, err := os.ReadFile(filepath.Join(dir, "runs"))
		if err != nil || bytes.Contains(data, []byte("BEGIN")) || bytes.Contains(data, []byte("Noise")) {
			t.Errorf("arguments of a node: %s, %v", data, err)
		}
	}

	t.Run("killed", func(t *testing.T) { s.killed(t, r) })
	t.Run("malicious", func(t *testing.T) { s.tampered(t, r, job) })
	t.Run("away", func(t *testing.T) { s.away(t, r, values(table)) })
	t.Run("revoked", func(t *testing.T) { s.revoked(t, r, job) })
}

// killed has one custodian's node killed again and again. The job waits and says why; when the killing ends it is released.
func (s *services) killed(t *testing.T, r *desk.Remote) {
	victim := slices.Max(keysOf(s.Custodians))
	kill := filepath.Join(s.spies[victim], "kill")
	s.check(os.WriteFile(kill, nil, 0o600))
	job := s.submit(r, query(50))
	waited := ""
	job, err := r.Run(t.Context(), job.ID, func(j sandbox.Job) {
		if waited == "" && strings.HasPrefix(j.Stage, "waiting") {
			waited = j.Stage
			if _, err := r.SignedRelease(t.Context(), j); err == nil {
				t.Error("something was released")
			}
			s.check(os.Remove(kill))
		}
	})
	if err != nil || job.State != sandbox.Released {
		t.Fatalf("job is %s: %v, waited: %s", job.State, err, waited)
	}
	// Whichever of the three is heard first: the one that was killed, or one that lost its peer at some step.
	why := func(text string) bool { return strings.Contains(waited, text) }
	if !why("the compute node of custodian") || !why("it was killed") && !why("connecting node") && !why("running program at node") {
		t.Errorf("the job waits, and says %q", waited)
	}
	t.Log(waited)
	table, rel := s.result(r, job)
	again, err := r.Run(t.Context(), s.submit(r, query(50)).ID, nil)
	s.check(err)
	same, free := s.result(r, again)
	if values(same) != values(table) || rel.ChargedMicro == 0 || free.ChargedMicro != 0 {
		t.Errorf("after the killing\n%s for ε %d, and asked again\n%s for ε %d", values(table), rel.ChargedMicro, values(same), free.ChargedMicro)
	}
	for name, dir := range s.spies {
		left, err := os.ReadDir(filepath.Join(s.Dir, name, "mirror", "node"))
		if err != nil || len(left) > 0 {
			t.Errorf("custodian %q is left with %v, %v (%s)", name, left, err, dir)
		}
	}
}

// tampered has labd hand in what it has no right to. No node is started.
func (s *services) tampered(t *testing.T, r *desk.Remote, job sandbox.Job) {
	before := s.runs()
	for name, c := range map[string]struct {
		change func(b *enclave.Bundle)
		rule   error
	}{
		"a plan of another query": {func(b *enclave.Bundle) {
			other, err := s.Person("zhao.min").Bundle(t.Context(), s.jobOf(r, query(50)))
			s.check(err)
			b.Plan = other.Plan
		}, refusal.ErrReceipt},
		"a plan of its own": {func(b *enclave.Bundle) {
			b.Plan.Body = bytes.Replace(b.Plan.Body, []byte("60"), []byte("10"), 1)
		}, nil},
		"a manifest left out": {func(b *enclave.Bundle) { b.Manifests = nil }, refusal.ErrPlanMismatch},
		"a receipt of another": {func(b *enclave.Bundle) {
			other, err := s.Person("zhao.min").Bundle(t.Context(), s.jobOf(r, query(50)))
			s.check(err)
			b.Receipt = other.Receipt
		}, refusal.ErrReceipt},
		"a statement left out": {func(b *enclave.Bundle) { b.Statements = b.Statements[:len(b.Statements)-1] }, nil},
	} {
		b, err := s.Person("zhao.min").Bundle(t.Context(), job.ID)
		s.check(err)
		c.change(b)
		err = s.malicious(b)
		if err == nil || c.rule != nil && !errors.Is(err, c.rule) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ran := s.runs() - before; ran != 0 {
		t.Errorf("%d nodes were started", ran)
	}
}

// jobOf is a job with a query.
func (s *services) jobOf(r *desk.Remote, query string) sandbox.JobID {
	s.t.Helper()
	jobs, err := r.Jobs(s.t.Context(), sandbox.JobFilter{})
	s.check(err)
	for _, j := range jobs {
		if j.Query == query {
			return j.ID
		}
	}
	s.t.Fatalf("no job asks %q", query)
	return ""
}

// away has a custodian stopped, and one whose node is not what receipts say: the first is waited for, the second refuses.
func (s *services) away(t *testing.T, r *desk.Remote, want string) {
	name := slices.Max(keysOf(s.Custodians))
	s.Stop(name)
	job := s.submit(r, query(60))
	begun := false
	job, err := r.Run(t.Context(), job.ID, func(j sandbox.Job) {
		if !begun && strings.HasPrefix(j.Stage, "waiting") {
			begun = true
			s.Begin(name)
		}
	})
	if err != nil || job.State != sandbox.Released || !begun {
		t.Fatalf("a custodian was away: job is %s: %v, waited %t", job.State, err, begun)
	}
	if table, rel := s.result(r, job); values(table) != want || rel.ChargedMicro != 0 {
		t.Errorf("the same question got %q for ε %d, and before %q", values(table), rel.ChargedMicro, want)
	}
	before := s.runs()
	program := filepath.Join(t.TempDir(), "node")
	data, err := os.ReadFile(s.program(name))
	s.check(err)
	s.check(os.WriteFile(program, append(data, 0), 0o755)) // another program, which does the same
	s.configure(name, s.program(name), program)
	job, err = r.Run(t.Context(), s.submit(r, query(65)).ID, nil)
	if job.State != sandbox.Refused || err == nil || !strings.Contains(err.Error(), "nodes run program") || s.runs() != before {
		t.Errorf("a node is another program: job is %s: %v, %d runs", job.State, err, s.runs()-before)
	}
	s.configure(name, program, s.program(name))
}

// program is where a custodian's node program lies.
func (s *services) program(name string) string {
	data, err := os.ReadFile(filepath.Join(s.spies[name], "nodehost"))
	s.check(err)
	return filepath.Join(filepath.Dir(string(data)), "node")
}

// revoked has the scenario revoked, and labd go on with an old dossier.
func (s *services) revoked(t *testing.T, r *desk.Remote, job sandbox.Job) {
	before := s.runs()
	old, err := s.Person("zhao.min").Bundle(t.Context(), job.ID)
	s.check(err)
	s.as("wang.fang", func(r *desk.Remote, id *keys.Identity) error {
		_, err := r.Book().Revoke(t.Context(), id, s.scenario, "目的已变")
		return err
	})
	var withheld *refusal.WithheldError
	if err := s.malicious(old); !errors.As(err, &withheld) {
		t.Errorf("the revocation is kept back: %v", err)
	}
	fresh, err := s.Person("zhao.min").Bundle(t.Context(), job.ID)
	s.check(err)
	if err := s.malicious(fresh); !errors.Is(err, refusal.ErrUnauthorized) {
		t.Errorf("the scenario is revoked: %v", err)
	}
	if ran := s.runs() - before; ran != 0 {
		t.Errorf("%d nodes were started", ran)
	}
}

// The same with nodes in containers; one that claims to be contained and is not takes no part.
func TestServicesContained(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six containers")
	}
	d, err := docker.Open(t.Context(), docker.Config{Instance: "nodes-test"})
	if errors.Is(err, runner.ErrUnavailable) && os.Getenv("LAB_REQUIRE_ALL") != "1" {
		t.Skipf("NODES IN CONTAINERS ARE NOT TESTED: %v (LAB_REQUIRE_ALL=1 makes this a failure)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	s := start(t, "docker")
	r := s.Person(hometest.Analyst)
	job, err := r.Run(t.Context(), s.submit(r, query(60)).ID, nil)
	if err != nil || job.State != sandbox.Released || job.Isolation != mpc.Contained {
		for name := range s.Custodians {
			t.Logf("%s: %s", name, s.Log(name))
		}
		t.Fatalf("job is %s in %q: %v", job.State, job.Isolation, err)
	}
	if table, _ := s.result(r, job); len(table.Rows) != 2 {
		t.Errorf("%d rows", len(table.Rows))
	}
	name := slices.Max(keysOf(s.Custodians))
	s.configure(name, `isolation: "docker"`, `isolation: "process"`)
	before := s.runs()
	job, err = r.Run(t.Context(), s.submit(r, query(50)).ID, nil)
	if job.State != sandbox.Refused || err == nil || !strings.Contains(err.Error(), "contained, it says") || s.runs() != before {
		t.Errorf("a node is not contained: job is %s: %v, %d runs", job.State, err, s.runs()-before)
	}
}
