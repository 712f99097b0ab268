// Package hometest makes small labs for tests: real code and real cryptography on a temporary folder, with the first
// rows of the health example. It is for tests only; nothing here weakens a lab, it is merely small.
package hometest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"yingzhou.dev/lab/cmd/internal/agency"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/operators"
)

// People, bodies and names of the labs made here. The officials are home's founders.
const (
	Steward  = "gu.ling"
	Analyst  = "chen.yu"
	Official = "wang.fang"
	Second   = "li.jun" // the other official

	Agency   = "区卫生健康委"
	Operator = "崇明数科"

	Dataset  = "health"
	Scenario = "care"
)

// Stage says how far a lab has come.
type Stage int

// Stages, each with everything before it.
const (
	Approved Stage = iota // the default: jobs can be submitted
	Founded               // officials, auditor and custodians only
	Staffed               // with steward and analyst
	Sealed                // the dataset is registered and sealed
	Licensed              // the operator may work in the lab
)

func (s Stage) before(t Stage) bool {
	order := [...]int{Approved: 4, Founded: 0, Staffed: 1, Sealed: 2, Licensed: 3}
	return order[s] < order[t]
}

// Options of a test lab. The zero value is a lab ready for jobs.
type Options struct {
	Stage  Stage
	Rows   int                     // of the health example; 0 = 1000
	Worker string                  // worker program; "" = LAB_WORKER, or built for the test
	Clock  func() time.Time        // nil = time.Now
	Vaults map[string]vault.Config // custodians whose keys are in a Vault; the others' are in the lab's folder

	Database string // PostgreSQL, empty; "" = SQLite

	// Also does what else a test needs of the lab, after its stage; may be nil.
	Also func(context.Context, *home.Home) error

	ScenarioMicro int64 // budget of the scenario; 0 = ε 6
	JobMicro      int64 // most that a job may spend; 0 = ε 1
}

// New makes a lab in t.TempDir and opens it. It is closed when the test ends.
func New(t testing.TB, o Options) *home.Home {
	t.Helper()
	if o.Worker == "" && os.Getenv("LAB_WORKER") == "" {
		dir := t.TempDir()
		if err := Build(t.Context(), dir, "worker"); err != nil {
			t.Fatal(err)
		}
		o.Worker = filepath.Join(dir, "worker")
	}
	dir := filepath.Join(t.TempDir(), "lab")
	if err := Make(t.Context(), dir, o); err != nil {
		t.Fatal(err)
	}
	h, err := home.Open(t.Context(), dir, o.home())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
	})
	return h
}

// Build compiles commands of this module, such as "worker", into dir.
func Build(ctx context.Context, dir string, commands ...string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", dir + string(filepath.Separator)}
	for _, c := range commands {
		if !strings.Contains(c, "/") {
			c = "cmd/" + c
		}
		args = append(args, "yingzhou.dev/lab/"+c)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %v: %w: %s", commands, err, out)
	}
	return nil
}

func (o Options) home() home.Options {
	worker := o.Worker
	if worker == "" {
		worker = os.Getenv("LAB_WORKER")
	}
	return home.Options{Worker: worker, Database: o.Database, Clock: o.Clock, Logger: slog.New(slog.DiscardHandler), Wait: 10 * time.Second}
}

// Make makes a lab in a new folder and closes it: for tests that share one and copy it.
func Make(ctx context.Context, dir string, o Options) (err error) {
	now := time.Now
	if o.Clock != nil {
		now = o.Clock
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if o.Vaults != nil {
		data, err := yaml.Marshal(o.Vaults)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, "vaults.yaml")
		if err := errors.Join(os.WriteFile(file, data, 0o600), home.UseVaults(dir, file), os.Remove(file)); err != nil {
			return err
		}
	}
	if err := home.Create(ctx, dir, "test", false, now()); err != nil {
		return err
	}
	h, err := home.Open(ctx, dir, o.home())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(context.WithoutCancel(ctx))) }()
	for _, step := range []struct {
		stage Stage
		do    func(context.Context, *home.Home, Options) error
	}{{Staffed, staff}, {Sealed, sealHealth}, {Licensed, license}, {Approved, approve}} {
		if o.Stage.before(step.stage) {
			break
		}
		if err := step.do(ctx, h, o); err != nil {
			return fmt.Errorf("making a test lab: %w", err)
		}
	}
	if o.Also != nil {
		return o.Also(ctx, h)
	}
	return nil
}

func staff(ctx context.Context, h *home.Home, _ Options) error {
	return errors.Join(
		h.AddPerson(ctx, operators.Party{Name: Steward, Role: operators.RoleSteward, Body: Agency}),
		h.AddPerson(ctx, operators.Party{Name: Analyst, Role: operators.RoleAnalyst, Body: Operator}))
}

// Table is the header and the first rows of the health example, as CSV.
func Table(rows int) ([]byte, error) {
	data, err := examples.Files.ReadFile("health/health.csv")
	if err != nil {
		return nil, err
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	return bytes.Join(lines[:min(rows+1, len(lines))], nil), nil
}

func sealHealth(ctx context.Context, h *home.Home, o Options) error {
	data, err := examples.Files.ReadFile("health/schema.json")
	if err != nil {
		return err
	}
	sc, err := schema.Parse(data)
	if err != nil {
		return err
	}
	if _, err := h.RegisterDataset(ctx, sc, Steward); err != nil {
		return err
	}
	if o.Rows == 0 {
		o.Rows = 1000
	}
	if data, err = Table(o.Rows); err != nil {
		return err
	}
	path := filepath.Join(h.Dir, "source.csv")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	_, err = h.SealTable(ctx, path, Dataset, Steward, agency.SealOptions{})
	return errors.Join(err, os.Remove(path))
}

func license(ctx context.Context, h *home.Home, _ Options) error {
	id, err := h.Identity(Official)
	if err != nil {
		return err
	}
	from := h.Now().UTC().Truncate(time.Second)
	_, err = h.Registry.Issue(ctx, id, operators.License{Operator: Operator, SecurityReview: "安审[2026]17", Agreement: "保密[2026]9",
		NotBefore: operators.Time{Time: from}, NotAfter: operators.Time{Time: from.AddDate(2, 0, 0)}})
	return err
}

func approve(ctx context.Context, h *home.Home, o Options) error {
	workers, err := h.WorkerDigests(ctx)
	if err != nil {
		return err
	}
	col := func(name string, uses ...operators.Use) operators.ColumnUse {
		return operators.ColumnUse{Column: name, Uses: uses}
	}
	use := operators.DatasetUse{Dataset: Dataset, Columns: []operators.ColumnUse{
		col("coinsurance", operators.UseFilter, operators.UseGroup), col("disea", operators.UseAggregate),
		col("health", operators.UseFilter, operators.UseGroup), col("mdvis", operators.UseAggregate)}}
	s := operators.Scenario{Name: Scenario, Operator: Operator, Purpose: "就医需求规划", Datasets: []operators.DatasetUse{use}, MinCohort: 10, MarginMilli: 2000,
		EpsilonMicro: o.ScenarioMicro, JobEpsilonMicro: o.JobMicro, Workers: workers,
		NotAfter: operators.Time{Time: h.Now().UTC().Truncate(time.Second).AddDate(0, 6, 0)}}
	if s.EpsilonMicro == 0 {
		s.EpsilonMicro = 6_000_000
	}
	if s.JobEpsilonMicro == 0 {
		s.JobEpsilonMicro = 1_000_000
	}
	analyst, err := h.Identity(Analyst)
	if err != nil {
		return err
	}
	digest, err := h.Registry.Apply(ctx, analyst, s)
	if err != nil {
		return err
	}
	steward, err := h.Identity(Steward)
	if err != nil {
		return err
	}
	if _, err := h.Registry.Consent(ctx, steward, operators.Consent{Scenario: digest, Use: use, EpsilonMicro: s.EpsilonMicro}); err != nil {
		return err
	}
	for _, name := range []string{Official, Second} {
		id, err := h.Identity(name)
		if err != nil {
			return err
		}
		if _, err := h.Registry.Approve(ctx, id, digest, "目的明确,列最少够用"); err != nil {
			return err
		}
	}
	return nil
}
