package hometest_test

import (
	"os"
	"testing"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init()
	os.Exit(m.Run())
}

func TestNewLabReleases(t *testing.T) {
	h := hometest.New(t, hometest.Options{})
	scenario, _, err := h.Lab.Scenario(t.Context(), hometest.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	id, err := h.Identity(hometest.Analyst)
	if err != nil {
		t.Fatal(err)
	}
	job, err := h.Lab.Submit(t.Context(), lab.Request{Analyst: hometest.Analyst, Scenario: scenario, Query: "SELECT COUNT(*) FROM health"},
		func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
	if err != nil {
		t.Fatal(err)
	}
	if job, err = h.Lab.Run(t.Context(), job.ID, nil); err != nil || job.State != sandbox.Released {
		t.Errorf("job is %s: %v", job.State, err)
	}
}

func TestStages(t *testing.T) {
	for stage, want := range map[hometest.Stage]struct{ people, datasets, statements int }{
		hometest.Founded:  {8, 0, 0},
		hometest.Staffed:  {10, 0, 0},
		hometest.Sealed:   {10, 1, 0},
		hometest.Licensed: {10, 1, 1},
	} {
		h := hometest.New(t, hometest.Options{Stage: stage, Rows: 50, Worker: "/not/needed"})
		_, roster, err := h.Lab.Roster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sets, err := h.Lab.Datasets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st, err := h.Lab.Statements(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(roster.Parties) != want.people || len(sets) != want.datasets || len(st.All) != want.statements {
			t.Errorf("stage %d: %d people, %d datasets, %d statements; want %v", stage, len(roster.Parties), len(sets), len(st.All), want)
		}
	}
}
