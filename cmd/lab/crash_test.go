package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
)

// Commands are killed with SIGKILL at many points, as a power cut would. Afterwards the lab must go on: nothing is lost,
// nothing is charged twice, no share is issued twice in different forms, and nothing half-done lies about.

const crashQuery = `SELECT health, COUNT(*) AS people, AVG(mdvis) AS visits FROM health GROUP BY health`

// some is every step-th of the points under -short, as with the race detector, and all of them otherwise.
func some[T any](points []T, step int) (out []T) {
	if !testing.Short() {
		return points
	}
	for i := step / 2; i < len(points); i += step {
		out = append(out, points[i])
	}
	return out
}

func TestKilledJob(t *testing.T) {
	control := newCrashLab(t, hometest.Approved)
	start := time.Now()
	want := control.ask("1")
	whole := time.Since(start)

	var points []func(crashLab) when
	for _, line := range []string{"planned", "running", "running: staging inputs", "running: computing on ciphertexts", "computed", "opening",
		"opening: commit", "opening: counts", "opening: values", "opening: endorse", "released"} {
		points = append(points, func(crashLab) when { return atLine(line) })
	}
	for n := 1; n <= 6; n += 2 { // the fault matrix kills at every one
		points = append(points,
			func(l crashLab) when {
				return l.atChange(n, "custodians/*/state/ledger.jsonl", "custodians/*/state/shares/*")
			},
			func(l crashLab) when { return l.atChange(n, "plane/log/checkpoint*", "plane/tmp/*") })
	}
	for part := range 5 {
		points = append(points, func(crashLab) when { return after(2*part+1, 10, whole) })
	}
	for _, point := range some(points, 7) {
		t.Run(point(control).name, func(t *testing.T) {
			t.Parallel()
			l := newCrashLab(t, hometest.Approved)
			l.kill(point(l), "lab", "job", "submit", "--scenario", hometest.Scenario, crashQuery)
			before := l.shares()
			got := l.finish()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the same question under the same keys gave other numbers: %s", diff)
			}
			after := l.shares()
			for path, data := range before {
				if after[path] != data {
					t.Errorf("a share that was stored before the crash has changed: %s", path)
				}
			}
			if again := l.ask("0"); again != want {
				t.Error("asked again, the numbers differ")
			}
			l.charges()
			l.intact()
		})
	}
}

// A statement that reached the log but not the store would stop every later release: custodians refuse a dossier that
// keeps back what the log announces.
func TestKilledStatement(t *testing.T) {
	apply := []string{"lab", "scenario", "apply", "next", "--purpose", "p", "--epsilon", "1", "--until", "2030-01-01", "--use", "health: mdvis=aggregate"}
	for _, n := range some([]int{1, 2, 3, 4}, 2) {
		t.Run(fmt.Sprint("at change ", n), func(t *testing.T) {
			t.Parallel()
			l := newCrashLab(t, hometest.Approved)
			l.kill(l.atChange(n, "plane/lab.db-wal", "plane/log/checkpoint*"), apply...)
			l.ask("1")
			l.intact()
		})
	}
}

func TestKilledSealing(t *testing.T) {
	table := filepath.Join(t.TempDir(), "health.csv")
	data, err := hometest.Table(20_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(table, data, 0o600); err != nil {
		t.Fatal(err)
	}
	control := newCrashLab(t, hometest.Sealed)
	start := time.Now()
	control.must("seal", table, "--dataset", hometest.Dataset)
	whole := time.Since(start)
	var points []func(crashLab) when
	for n := range 4 {
		points = append(points, func(crashLab) when { return after(n+1, 5, whole) },
			func(l crashLab) when {
				return l.atChange(3*n+1, "plane/blobs/blobs/*/*", "plane/blobs/incoming/*", "plane/log/checkpoint*")
			})
	}
	for _, point := range some(points, 4) {
		t.Run(point(control).name, func(t *testing.T) {
			t.Parallel()
			l := newCrashLab(t, hometest.Sealed)
			l.kill(point(l), "seal", table, "--dataset", hometest.Dataset)
			var sealed struct{ Version int }
			if err := json.Unmarshal([]byte(l.must("seal", table, "--dataset", hometest.Dataset, "--json")), &sealed); err != nil {
				t.Fatal(err)
			}
			if sealed.Version != 2 && sealed.Version != 3 { // 3 if the first had been published
				t.Errorf("sealed as version %d", sealed.Version)
			}
			l.intact()
		})
	}
}

func TestKilledRegistration(t *testing.T) {
	schema := filepath.Join(t.TempDir(), "schema.json")
	if err := writeSchema(schema); err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(t.TempDir(), "health.csv")
	data, err := hometest.Table(50)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(table, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range some([]int{1, 2, 3, 4, 5}, 3) {
		t.Run(fmt.Sprint("at change ", n), func(t *testing.T) {
			t.Parallel()
			l := newCrashLab(t, hometest.Staffed)
			l.kill(l.atChange(n, "custodians/*/keyring/*", "agencies/*/*", "plane/log/checkpoint*"), "lab", "dataset", "register", schema)
			if _, errs, code := l.run("lab", "dataset", "register", schema); code != 0 && !strings.Contains(errs, "it is registered already") {
				t.Fatal(errs)
			}
			l.must("seal", table, "--dataset", hometest.Dataset)
			l.intact()
		})
	}
}

func TestKilledInit(t *testing.T) {
	for _, n := range some([]int{1, 2, 3, 4, 5, 6}, 3) {
		t.Run(fmt.Sprint("at change ", n), func(t *testing.T) {
			t.Parallel()
			l := crashLab{t, filepath.Join(t.TempDir(), "lab")}
			l.kill(l.atChange(2*n, "*", "people/*", "plane/*", "custodians/*/*", "witness/*"), "lab", "init", l.dir)
			if _, errs, code := l.run("lab", "init", l.dir); code != 0 && !strings.Contains(errs, "there is a lab already") {
				t.Fatal(errs)
			}
			l.must("lab", "person", "add", hometest.Steward, "--role", "steward", "--body", hometest.Agency)
			l.intact()
		})
	}
}
