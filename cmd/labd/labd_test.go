package main

import (
	"os"
	"testing"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init() // this program is what a sandbox of its own is made from
	os.Exit(m.Run())
}

const query = "SELECT COUNT(*) AS n FROM health"

// submit signs and submits a query as the analyst.
func submit(t *testing.T, c *clustertest.Cluster, query string) (sandbox.Job, error) {
	t.Helper()
	r := c.Person(hometest.Analyst)
	id, err := r.Identity(hometest.Analyst)
	if err != nil {
		t.Fatal(err)
	}
	scenario, _, err := r.Scenario(t.Context(), hometest.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	return r.Submit(t.Context(), lab.Request{Analyst: hometest.Analyst, Scenario: scenario, Query: query}, func(p *lab.Prepared) (enclave.Signed, error) {
		return keys.SealWith(id, enclave.KindPlan, p.Plan)
	})
}

func TestWholeWay(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{}, nil)
	job, err := submit(t, c, query)
	if err != nil {
		t.Fatal(err)
	}
	r := c.Person(hometest.Analyst)
	var stages []string
	job, err = r.Run(t.Context(), job.ID, func(j sandbox.Job) { stages = append(stages, string(j.State)+" "+j.Stage) })
	if err != nil || job.State != sandbox.Released {
		t.Fatalf("job is %s: %v, after %q", job.State, err, stages)
	}
	t.Log(stages)
}
