package main

import (
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox"
)

// jobView is a job as programs read it. What is not there yet is left out.
type jobView struct {
	ID        sandbox.JobID  `json:"job"`
	State     sandbox.State  `json:"state"`
	Stage     string         `json:"stage,omitempty"`
	Reason    string         `json:"reason,omitempty"` // why it was refused, failed or cancelled
	Operator  string         `json:"operator"`
	Analyst   string         `json:"analyst"`
	Scenario  enclave.Digest `json:"scenario"`
	Query     string         `json:"query"`
	Epsilon   string         `json:"epsilon,omitempty"` // as asked for; left out = the scenario's default
	Plan      enclave.Digest `json:"plan,omitzero"`
	Receipt   enclave.Digest `json:"receipt,omitzero"`
	Release   enclave.Digest `json:"release,omitzero"`
	Isolation string         `json:"isolation,omitempty"`
	Created   time.Time      `json:"created"`
	Updated   time.Time      `json:"updated"`
}

func view(j sandbox.Job) jobView {
	v := jobView{ID: j.ID, State: j.State, Stage: j.Stage, Reason: j.Reason, Operator: j.Operator, Analyst: j.Analyst, Scenario: j.Scenario, Query: j.Query,
		Plan: j.Plan, Receipt: j.Receipt, Release: j.Release, Isolation: j.Isolation, Created: j.Created, Updated: j.Updated}
	if j.EpsilonMicro != 0 {
		v.Epsilon = enclave.FormatScaled(j.EpsilonMicro, 6)
	}
	return v
}

func views(jobs []sandbox.Job) []jobView {
	out := []jobView{}
	for _, j := range jobs {
		out = append(out, view(j))
	}
	return out
}
