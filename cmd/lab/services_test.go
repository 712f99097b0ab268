package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
)

// clusterKey finds a script's lab of services.
type clusterKey struct{}

// TestServices runs scripts against a lab of services. The daemons run in this process, the command lines in their own.
func TestServices(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/services",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Values[clusterKey{}] = new(*clustertest.Cluster)
			env.Setenv("SCHEMA", filepath.Join(env.WorkDir, ".health.json"))
			return writeSchema(env.Getenv("SCHEMA"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"served": func(ts *testscript.TestScript, neg bool, args []string) {
				stage := hometest.Approved
				if len(args) == 1 && args[0] == "staffed" {
					stage = hometest.Staffed
				} else if len(args) > 0 || neg {
					ts.Fatalf("usage: served [staffed]")
				}
				c := clustertest.Start(t, // a script has no testing.T of its own: the cluster ends with the test
					hometest.Options{Stage: stage, Worker: os.Getenv("LAB_WORKER")}, nil)
				*ts.Value(clusterKey{}).(**clustertest.Cluster) = c
			},
			"as": func(ts *testscript.TestScript, neg bool, args []string) {
				c := *ts.Value(clusterKey{}).(**clustertest.Cluster)
				ts.Setenv("LAB_CLIENT", c.Folder(args[0]))
				ts.Setenv("OUT", c.Dir)
			},
			// rooted gives the person's folder the root key, which stayed where the lab was made.
			"rooted": func(ts *testscript.TestScript, neg bool, args []string) {
				c := *ts.Value(clusterKey{}).(**clustertest.Cluster)
				f, err := os.OpenFile(filepath.Join(ts.Getenv("LAB_CLIENT"), "client.yaml"), os.O_APPEND|os.O_WRONLY, 0)
				ts.Check(err)
				_, err = fmt.Fprintf(f, "root_key: %q\n", filepath.Join(filepath.Dir(c.Dir), "lab", "people", "root.key"))
				ts.Check(errors.Join(err, f.Close()))
			},
			"stopped": func(ts *testscript.TestScript, neg bool, args []string) {
				(*ts.Value(clusterKey{}).(**clustertest.Cluster)).Stop(args[0])
			},
			"code":    code,
			"table":   tableFile,
			"replace": replace,
			"capture": capture,
		},
	})
}
