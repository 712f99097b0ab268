package home_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/examples/water/generator"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init() // this program is what a worker's sandbox is made from
	code := m.Run()
	if err := vaulttest.Clean(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// BenchmarkJob1M is a whole job over a million households, from submission to a signed release, with workers as
// sandboxed processes and three custodians in one process that all compute again. It needs 7 GB of disk.
//
// "first" is the job that takes the inputs in: every custodian copies, checks and expands them, once for all jobs.
func BenchmarkJob1M(b *testing.B) {
	if testing.Short() {
		b.Skip("seals a million rows and writes 7 GB")
	}
	w := newWater(b, 1<<20)
	b.Logf("sealed in %.1f s", w.sealed.Seconds())
	for _, q := range []struct{ name, query string }{
		{"rows", `SELECT town, COUNT(*), SUM(m3) FROM water GROUP BY town`},
		{"cube", `SELECT town, age, COUNT(*), AVG(people) FROM water GROUP BY town, age`},
	} {
		b.Run(q.name, func(b *testing.B) {
			first := w.run(b, q.query)
			stages := map[string]time.Duration{}
			for b.Loop() {
				for stage, t := range w.run(b, q.query) {
					stages[stage] += t
				}
			}
			for stage, t := range stages {
				b.ReportMetric(t.Seconds()/float64(b.N), "s-"+stage)
			}
			total := time.Duration(0)
			for _, t := range first {
				total += t
			}
			b.ReportMetric(total.Seconds(), "s-first")
		})
	}
	b.Run("seal", func(b *testing.B) { // measured above: a version is sealed once
		for b.Loop() {
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(w.sealed.Seconds(), "s-seal")
		b.ReportMetric(float64(w.rows)/w.sealed.Seconds()/1e6, "Mrows/s")
		b.ReportMetric(float64(w.bytes)/1e6, "MB")
	})
}

// water is a lab with the generated households, ready for jobs.
type water struct {
	*home.Home
	scenario enclave.Digest
	rows     int
	sealed   time.Duration
	bytes    int64
	asked    int64
}

const (
	steward  = "lin.hua"
	analyst  = "chen.yu"
	operator = "崇明数科"
)

func newWater(b *testing.B, rows int) *water {
	b.Helper()
	ctx, dir := b.Context(), b.TempDir()
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	check(hometest.Build(ctx, dir, "worker"))
	check(home.Create(ctx, filepath.Join(dir, "lab"), "bench", false, time.Now()))
	h, err := home.Open(ctx, filepath.Join(dir, "lab"), home.Options{Worker: filepath.Join(dir, "worker"), Backend: "process", Logger: slog.New(slog.DiscardHandler)})
	check(err)
	b.Cleanup(func() { check(h.Close(context.WithoutCancel(ctx))) })
	check(errors.Join(h.AddPerson(ctx, operators.Party{Name: steward, Role: operators.RoleSteward, Body: "区水务局"}),
		h.AddPerson(ctx, operators.Party{Name: analyst, Role: operators.RoleAnalyst, Body: operator})))
	w := &water{Home: h, rows: rows}
	path := filepath.Join(dir, "water.csv")
	f, err := os.Create(path)
	check(err)
	check(errors.Join(generator.Write(f, rows, 1), f.Close()))
	data, err := examples.Files.ReadFile("water/schema.json")
	check(err)
	sc, err := schema.Parse(data)
	check(err)
	sc.Sealing.Layouts = []schema.Layout{{Name: "cube", Kind: enclave.Cube, Dims: []string{"town", "building", "age"}, Measures: []string{"people"}},
		{Name: "rows", Kind: enclave.Rows, Indicators: [][]string{{"town"}}, Measures: []string{"m3"}}}
	_, err = h.RegisterDataset(ctx, sc, steward)
	check(err)
	start := time.Now()
	sealed, err := h.SealTable(ctx, path, "water", steward, agency.SealOptions{})
	check(err)
	w.sealed, w.bytes = time.Since(start), sealed.Bytes
	w.scenario = w.approve(b)
	return w
}

// approve has the operator licensed and a scenario approved.
func (w *water) approve(b *testing.B) enclave.Digest {
	b.Helper()
	ctx, from := b.Context(), w.Now().UTC().Truncate(time.Second)
	use := operators.DatasetUse{Dataset: "water", Columns: []operators.ColumnUse{{Column: "age", Uses: []operators.Use{operators.UseGroup}},
		{Column: "m3", Uses: []operators.Use{operators.UseAggregate}}, {Column: "people", Uses: []operators.Use{operators.UseAggregate}},
		{Column: "town", Uses: []operators.Use{operators.UseGroup}}}}
	workers, err := w.WorkerDigests(ctx)
	if err != nil {
		b.Fatal(err)
	}
	var scenario operators.Digest
	for _, step := range []struct {
		who string
		do  func(lab.Signer) (operators.Digest, error)
	}{
		{"wang.fang", func(id lab.Signer) (operators.Digest, error) {
			return w.Registry.Issue(ctx, id, operators.License{Operator: operator, SecurityReview: "安审[2026]17", Agreement: "保密[2026]9",
				NotBefore: operators.Time{Time: from}, NotAfter: operators.Time{Time: from.AddDate(2, 0, 0)}})
		}},
		{analyst, func(id lab.Signer) (operators.Digest, error) {
			return w.Registry.Apply(ctx, id, operators.Scenario{Name: "bench", Operator: operator, Purpose: "用水规划", Datasets: []operators.DatasetUse{use},
				EpsilonMicro: 16_000_000, JobEpsilonMicro: 1_000_000, MinCohort: 10, MarginMilli: 2000, Workers: workers,
				NotAfter: operators.Time{Time: from.AddDate(0, 6, 0)}})
		}},
		{steward, func(id lab.Signer) (operators.Digest, error) {
			return w.Registry.Consent(ctx, id, operators.Consent{Scenario: scenario, Use: use, EpsilonMicro: 12_000_000})
		}},
		{"wang.fang", func(id lab.Signer) (operators.Digest, error) {
			return w.Registry.Approve(ctx, id, scenario, "目的明确")
		}},
		{"li.jun", func(id lab.Signer) (operators.Digest, error) {
			return w.Registry.Approve(ctx, id, scenario, "目的明确")
		}},
	} {
		id, err := w.Identity(step.who)
		if err != nil {
			b.Fatal(err)
		}
		d, err := step.do(id)
		if err != nil {
			b.Fatal(err)
		}
		if step.who == analyst {
			scenario = d
		}
	}
	return scenario
}

// run is one job, and how long each of its stages took. Another ε makes the same query another question, so that
// nothing is answered from what was opened before.
func (w *water) run(b *testing.B, query string) map[string]time.Duration {
	b.Helper()
	ctx := b.Context()
	id, err := w.Identity(analyst)
	if err != nil {
		b.Fatal(err)
	}
	w.asked++
	stages, at, last := map[string]time.Duration{}, "submit", time.Now()
	enter := func(stage string) {
		if stage != at {
			now := time.Now()
			stages[at] += now.Sub(last)
			at, last = stage, now
		}
	}
	job, err := w.Submit(ctx, lab.Request{Analyst: analyst, Scenario: w.scenario, Query: query, EpsilonMicro: 50_000 + w.asked},
		func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
	if err != nil {
		b.Fatal(err)
	}
	job, err = w.Run(ctx, job.ID, func(j sandbox.Job) {
		switch {
		case j.State == sandbox.Running && strings.HasPrefix(j.Stage, "staging"):
			enter("stage")
		case j.State == sandbox.Running && j.Stage != "":
			enter("compute")
		case j.State == sandbox.Opening || j.State == sandbox.Computed:
			enter("release")
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	enter("done")
	if job.State != sandbox.Released {
		b.Fatal(fmt.Errorf("job ended %s: %s", job.State, job.Reason))
	}
	return stages
}
