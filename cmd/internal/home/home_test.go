package home_test

import (
	"context"
	"errors"
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
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

var quiet = home.Options{Logger: slog.New(slog.DiscardHandler), Wait: time.Millisecond}

// makeLab makes a lab and leaves it closed.
func makeLab(t *testing.T, stage hometest.Stage) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "lab")
	if err := hometest.Make(t.Context(), dir, hometest.Options{Stage: stage, Rows: 50, Worker: "/not/needed"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) *home.Home {
	t.Helper()
	h, err := home.Open(t.Context(), dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLab(t, h) })
	return h
}

func closeLab(t *testing.T, h *home.Home) {
	t.Helper()
	if err := h.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestCreateRefusesALab(t *testing.T) {
	dir := makeLab(t, hometest.Founded)
	before, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := home.Create(t.Context(), dir, "other", false, time.Now()); !errors.Is(err, home.ErrExists) {
		t.Errorf("creating a lab over another: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "lab.json")); err != nil || string(after) != string(before) {
		t.Errorf("the lab has changed: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := home.Open(t.Context(), t.TempDir(), quiet); !errors.Is(err, home.ErrNoLab) {
		t.Errorf("opening an empty folder: %v", err)
	}
	dir := makeLab(t, hometest.Founded)
	h := open(t, dir)
	if _, err := home.Open(t.Context(), dir, quiet); !errors.Is(err, home.ErrInUse) {
		t.Errorf("opening twice: %v", err)
	}
	if _, err := home.Examine(t.Context(), dir, quiet, false); !errors.Is(err, home.ErrInUse) {
		t.Errorf("examining an open lab: %v", err)
	}
	closeLab(t, h)
	if err := os.WriteFile(filepath.Join(dir, "lab.json"), []byte(`{"kind":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := home.Open(t.Context(), dir, quiet); err == nil || errors.Is(err, home.ErrNoLab) {
		t.Errorf("opening a damaged lab.json: %v", err)
	}
}

func TestNamesStayInTheirFolders(t *testing.T) {
	h := open(t, makeLab(t, hometest.Founded))
	for _, p := range []operators.Party{
		{Name: "../x", Body: "b"}, {Name: ".x", Body: "b"}, {Name: "", Body: "b"}, {Name: "a/b", Body: "b"}, {Name: operators.Root, Body: "b"},
		{Name: "x", Body: ""}, {Name: "x", Body: ".."}, {Name: "x", Body: "a/b"},
	} {
		p.Role = operators.RoleSteward
		if err := h.AddPerson(t.Context(), p); !errors.Is(err, operators.ErrInvalid) {
			t.Errorf("adding %q of %q: %v", p.Name, p.Body, err)
		}
		if _, err := h.Identity(p.Name); p.Name != "x" && err == nil {
			t.Errorf("there are keys of %q", p.Name)
		}
	}
}

func apply(t *testing.T, h *home.Home) enclave.Signed {
	t.Helper()
	id, err := h.Identity(hometest.Analyst)
	if err != nil {
		t.Fatal(err)
	}
	at := canon.At(h.Now())
	s, err := keys.SealWith(id, operators.KindScenario, operators.Scenario{Name: "next", Operator: hometest.Operator, By: hometest.Analyst, Purpose: "p", MinCohort: 10,
		Datasets:     []operators.DatasetUse{{Dataset: hometest.Dataset, Columns: []operators.ColumnUse{{Column: "mdvis", Uses: []operators.Use{operators.UseAggregate}}}}},
		EpsilonMicro: 1_000_000, JobEpsilonMicro: 1_000_000, Workers: []operators.Digest{{1}}, Made: at, NotAfter: operators.Time{Time: at.AddDate(0, 1, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStatementInTheLogIsStoredAtTheNextOpening(t *testing.T) {
	for name, tt := range map[string]struct {
		crash func(*home.Home, enclave.Signed) error
		want  bool
	}{
		"before its log entry": {func(h *home.Home, s enclave.Signed) error { return h.PendOnly(t.Context(), s) }, false},
		"after its log entry":  {func(h *home.Home, s enclave.Signed) error { return h.AnnounceOnly(t.Context(), s, hometest.Analyst) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := makeLab(t, hometest.Licensed)
			h := open(t, dir)
			if err := tt.crash(h, apply(t, h)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.Lab.Scenario(t.Context(), "next"); !errors.Is(err, sandbox.ErrNotFound) {
				t.Fatalf("before the crash: %v", err)
			}
			closeLab(t, h)
			h = open(t, dir)
			if _, _, err := h.Lab.Scenario(t.Context(), "next"); (err == nil) != tt.want {
				t.Errorf("after it: %v", err)
			}
			if left, err := h.Pending(t.Context()); err != nil || (len(left) == 0) != tt.want { // what was not logged waits for its day to end
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestSealingKeepsToTheDatasetsKey(t *testing.T) {
	dir := makeLab(t, hometest.Sealed)
	h := open(t, dir)
	data, err := hometest.Table(50)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "t.csv")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "agencies", hometest.Agency, "schemas", "health.0.json"))
	if err != nil {
		t.Fatal(err)
	}
	changed := func(old, fresh string) *schema.Schema {
		if !strings.Contains(string(text), old) {
			t.Fatalf("the schema does not hold %q", old)
		}
		sc, err := schema.Parse([]byte(strings.Replace(string(text), old, fresh, 1)))
		if err != nil {
			t.Fatal(err)
		}
		return sc
	}
	for name, sc := range map[string]*schema.Schema{
		"budget":  changed(`"budget": 20`, `"budget": 30`),
		"rows":    changed(`"entity_rows": 1`, `"entity_rows": 2`),
		"dataset": changed(`"dataset": "health"`, `"dataset": "wealth"`),
	} {
		if _, err := h.SealTable(t.Context(), path, hometest.Dataset, hometest.Steward, agency.SealOptions{Schema: sc}); !errors.Is(err, sandbox.ErrConflict) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	// A schema may change otherwise, and the next version keeps to it.
	sealed, err := h.SealTable(t.Context(), path, hometest.Dataset, hometest.Steward, agency.SealOptions{Schema: changed("RAND Health Insurance Experiment", "Another title")})
	if err != nil || sealed.Manifest.Version != 2 {
		t.Fatal(err)
	}
	if sealed, err = h.SealTable(t.Context(), path, hometest.Dataset, hometest.Steward, agency.SealOptions{}); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(filepath.Join(dir, "agencies", hometest.Agency, "schemas", "health.3.json"))
	if err != nil || sealed.Manifest.Version != 3 || !strings.Contains(string(again), "Another title") {
		t.Errorf("version %d forgot its schema: %v", sealed.Manifest.Version, err)
	}
}

func TestExamineFindsAMissingBlob(t *testing.T) {
	dir := makeLab(t, hometest.Sealed)
	e, err := home.Examine(t.Context(), dir, quiet, true)
	if err != nil || e.Blobs == 0 {
		t.Fatalf("%+v: %v", e, err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "plane/blobs/blobs/*/*"))
	if err != nil || len(found) != e.Blobs {
		t.Fatalf("%d blobs, %d examined: %v", len(found), e.Blobs, err)
	}
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := home.Examine(t.Context(), dir, quiet, true); !errors.Is(err, enclave.ErrNotFound) {
		t.Errorf("a blob is gone: %v", err)
	}
}
