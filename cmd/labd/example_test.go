package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/sandbox/client"
	"yingzhou.dev/lab/sandbox/lab"
)

// starter gives clustertest what it wants of a test: an example has no testing.T.
type starter struct {
	testing.TB
	dirs, cleanups []func()
}

func (s *starter) Helper()                   {}
func (s *starter) Failed() bool              { return false }
func (s *starter) Logf(string, ...any)       {}
func (s *starter) Context() context.Context  { return context.Background() }
func (s *starter) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *starter) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (s *starter) Fatal(a ...any)            { panic(fmt.Sprint(a...)) }
func (s *starter) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (s *starter) TempDir() string {
	dir, err := os.MkdirTemp("", "client-example-")
	if err != nil {
		panic(err)
	}
	s.dirs = append(s.dirs, func() { os.RemoveAll(dir) })
	return dir
}

func (s *starter) end() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	for _, f := range s.dirs {
		f()
	}
}

// An analyst asks a question: explain, sign, submit, watch, fetch, open.
func Example_client() {
	ctx := context.Background()
	s := &starter{}
	defer s.end()
	cluster := clustertest.Start(s, hometest.Options{}, nil) // labd, a witness and three custodians
	folder := cluster.Folder(hometest.Analyst)               // as `lab deploy` writes it for the analyst

	// Who I am: a certificate for the connection, and the key that signs and opens, which never leaves this machine.
	source, err := pki.Open(cluster.Lab, pki.FilesIn(folder), time.Now)
	if err != nil {
		panic(err)
	}
	me, err := keys.LoadIdentity(folder + "/identity.key")
	if err != nil {
		panic(err)
	}
	// Whom I believe: the root key that I was given when I joined.
	root := cluster.Person(hometest.Analyst).RootKey()

	c, err := client.Open(client.Config{Address: cluster.Server, TLS: source.Client(pki.Name{Role: "lab"}), RootKey: root})
	if err != nil {
		panic(err)
	}
	defer c.Close()

	scenario, _, err := c.Scenario(ctx, "care")
	if err != nil {
		panic(err)
	}
	request := lab.Request{Analyst: me.Name(), Scenario: scenario, Query: "SELECT COUNT(*) AS people FROM health"}
	job, err := c.Submit(ctx, request, func(p *lab.Prepared) (enclave.Signed, error) {
		fmt.Println("the plan spends ε", enclave.FormatScaled(p.Plan.EpsilonMicro, 6), "of dataset", p.Plan.Dataset)
		return keys.SealWith(me, enclave.KindPlan, p.Plan)
	})
	if err != nil {
		panic(err) // with every reason at once
	}
	if job, err = c.Run(ctx, job.ID, nil); err != nil {
		panic(err)
	}
	sealed, err := c.SealedTable(ctx, job.ID)
	if err != nil {
		panic(err)
	}
	plain, err := me.Open(keys.TableInfo(sealed.Release), sealed.Table)
	if err != nil {
		panic(err)
	}
	var table enclave.Table
	if err := canon.Unmarshal(plain, &table); err != nil {
		panic(err)
	}
	fmt.Println("job is", job.State)
	fmt.Println(len(table.Rows), "row of", table.Columns[0].Name, "with its standard error", table.Rows[0].Values[0].StdErr)

	// Output:
	// the plan spends ε 1 of dataset health
	// job is released
	// 1 row of people with its standard error 2.4
}
