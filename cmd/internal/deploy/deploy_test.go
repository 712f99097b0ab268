package deploy_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/cmd/internal/deploy"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init() // this program is what a sandbox of its own is made from
	os.Exit(m.Run())
}

// Laying a lab out that was cut off is ended by the same call, whether the new folder was whole by then or not. Once it has
// ended, nobody lays the lab out a second time.
func TestLayTakesUpWhatWasCutOff(t *testing.T) {
	dir := t.TempDir()
	from, out := filepath.Join(dir, "lab"), filepath.Join(dir, "out")
	if err := hometest.Make(t.Context(), from, hometest.Options{Stage: hometest.Staffed, Worker: os.Args[0]}); err != nil {
		t.Fatal(err)
	}
	lay := func() *deploy.Laid {
		t.Helper()
		laid, err := deploy.Lay(t.Context(), from, out, deploy.Options{Worker: os.Args[0], Isolation: "process", Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return laid
	}
	// Cut off when only half was there.
	half := filepath.Join(out+".laying", "labd")
	if err := errors.Join(home.BeginMove(from), os.MkdirAll(half, 0o700), os.WriteFile(filepath.Join(half, "junk"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := home.Open(t.Context(), from, home.Options{}); !errors.Is(err, home.ErrNoLab) {
		t.Errorf("opened while it is moved: %v", err)
	}
	first := lay()
	if _, err := os.Stat(filepath.Join(out, "labd", "junk")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was cut off is in the new folder: %v", err)
	}
	// Cut off when only the name was missing.
	if err := os.Rename(out, out+".laying"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, lay()); diff != "" {
		t.Errorf("taken up it says (-want +got)\n%s", diff)
	}
	if _, err := deploy.Lay(t.Context(), from, filepath.Join(dir, "second"), deploy.Options{Worker: os.Args[0], Now: time.Now()}); !errors.Is(err, home.ErrNoLab) {
		t.Errorf("laid out twice: %v", err)
	}
}
