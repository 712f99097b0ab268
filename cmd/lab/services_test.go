package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
)

// clusterKey finds a script's lab of services.
type clusterKey struct{}

// TestServices runs scripts against a lab of services. The daemons run in this process, the command lines in their own.
func TestServices(t *testing.T) {
	scripts, err := filepath.Glob("testdata/services/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	if testing.Short() { // cmd/labd tests the same daemons without the command lines
		scripts = []string{"testdata/services/way.txt"}
	}
	testscript.Run(t, testscript.Params{
		Files:               scripts,
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
			"begun": func(ts *testscript.TestScript, neg bool, args []string) {
				(*ts.Value(clusterKey{}).(**clustertest.Cluster)).Begin(args[0])
			},
			// added starts a custodian that is new in the roster in the place of another that was stopped.
			"added": func(ts *testscript.TestScript, neg bool, args []string) {
				(*ts.Value(clusterKey{}).(**clustertest.Cluster)).Add(t, args[0], args[1])
			},
			// destroyed waits until labd has made the certificate of a dataset's disposal by itself.
			"destroyed": func(ts *testscript.TestScript, neg bool, args []string) {
				r := (*ts.Value(clusterKey{}).(**clustertest.Cluster)).Person(filepath.Base(ts.Getenv("LAB_CLIENT")))
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				for {
					d, err := r.Disposal(ctx, args[0])
					if err == nil && d.Receipt != nil {
						return
					}
					select {
					case <-ctx.Done():
						ts.Fatalf("the disposal does not end: %+v, %v", d, err)
					case <-time.After(100 * time.Millisecond):
					}
				}
			},
			// pinned sets a variable to the root key that the person's folder pins.
			"pinned": func(ts *testscript.TestScript, neg bool, args []string) {
				r := (*ts.Value(clusterKey{}).(**clustertest.Cluster)).Person(filepath.Base(ts.Getenv("LAB_CLIENT")))
				ts.Setenv(args[0], hex.EncodeToString(r.RootKey()))
			},
			"code":    code,
			"table":   tableFile,
			"replace": replace,
			"capture": capture,
		},
	})
}
