package runner_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/sandbox/runner"
)

// probed is a back end of which nothing but the isolation is asked.
type probed struct {
	runner.Runner
	isolation runner.Isolation
	err       error
}

func (p probed) Probe(context.Context) (runner.Isolation, error) { return p.isolation, p.err }

func TestChoose(t *testing.T) {
	candidate := func(name string, p probed, err error) runner.Candidate {
		return runner.Candidate{Name: name, Open: func(context.Context) (runner.Runner, error) { return p, err }}
	}
	good := candidate("docker", probed{isolation: runner.Isolation{Backend: "docker"}}, nil)
	absent := candidate("docker", probed{}, errors.Join(runner.ErrUnavailable, errors.New("no daemon")))
	broken := candidate("docker", probed{err: errors.New("it stumbles")}, nil)
	process := candidate("process", probed{isolation: runner.Isolation{Backend: "process", Development: true}}, nil)
	for _, row := range []struct {
		name       string
		production bool
		prefer     string
		candidates []runner.Candidate
		backend    string
		why        string
		err        error
	}{
		{"the first", false, "", []runner.Candidate{good, process}, "docker", "docker works here", nil},
		{"the first, for production", true, "", []runner.Candidate{good, process}, "docker", "docker works here", nil},
		{"the second", false, "", []runner.Candidate{absent, process}, "process", "no daemon", nil},
		{"the second after a fault", false, "", []runner.Candidate{broken, process}, "process", "it stumbles", nil},
		{"what was asked for", false, "process", []runner.Candidate{good, process}, "process", "asked for", nil},
		{"not in production", true, "", []runner.Candidate{absent, process}, "", "", runner.ErrDevelopment},
		{"not in production, even if asked for", true, "process", []runner.Candidate{good, process}, "", "", runner.ErrDevelopment},
		{"nothing instead of what was asked for", false, "docker", []runner.Candidate{absent, process}, "", "", runner.ErrUnavailable},
		{"a fault", false, "docker", []runner.Candidate{broken, process}, "", "", runner.ErrUnavailable},
		{"an unknown name", false, "jail", []runner.Candidate{good, process}, "", "", runner.ErrUnavailable},
		{"nothing at all", false, "", nil, "", "", runner.ErrUnavailable},
	} {
		r, why, err := runner.Choose(t.Context(), row.production, row.prefer, row.candidates...)
		if !errors.Is(err, row.err) || !strings.Contains(why, row.why) {
			t.Errorf("%s: %q, %v", row.name, why, err)
		}
		if row.backend == "" {
			if r != nil || err == nil {
				t.Errorf("%s: chose %v", row.name, r)
			}
		} else if got, _ := r.Probe(t.Context()); got.Backend != row.backend {
			t.Errorf("%s: %s", row.name, got)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "in")
	closed, linked, file := filepath.Join(dir, "closed"), filepath.Join(dir, "linked"), filepath.Join(dir, "file")
	if err := errors.Join(os.Mkdir(inside, 0o755), os.Mkdir(closed, 0o755), os.Mkdir(linked, 0o755), os.WriteFile(file, nil, 0o644),
		os.WriteFile(filepath.Join(closed, "data"), nil, 0o600), os.Symlink("/etc/passwd", filepath.Join(linked, "data"))); err != nil {
		t.Fatal(err)
	}
	good := runner.Task{ID: "job-1", Image: "sha256:0", InputDir: inside + "/"}
	got, err := good.Check()
	if err != nil {
		t.Fatal(err)
	}
	if got.Limits != runner.DefaultLimits() || len(got.Args) != 1 || got.Args[0] != runner.InputFolder || got.InputDir != inside {
		t.Errorf("filled in: %+v", got)
	}
	for name, spoil := range map[string]func(*runner.Task){
		"no ID":              func(t *runner.Task) { t.ID = "" },
		"a path for an ID":   func(t *runner.Task) { t.ID = "../x" },
		"a long ID":          func(t *runner.Task) { t.ID = strings.Repeat("x", 65) },
		"no image":           func(t *runner.Task) { t.Image = "" },
		"a relative folder":  func(t *runner.Task) { t.InputDir = "in" },
		"no folder":          func(t *runner.Task) { t.InputDir = inside + "/none" },
		"a file":             func(t *runner.Task) { t.InputDir = file },
		"a closed file":      func(t *runner.Task) { t.InputDir = closed },
		"a link":             func(t *runner.Task) { t.InputDir = linked },
		"a zero byte":        func(t *runner.Task) { t.Args = []string{"a\x00b"} },
		"a label with space": func(t *runner.Task) { t.Labels = map[string]string{"a b": ""} },
		"no number of CPUs":  func(t *runner.Task) { t.Limits.CPUs = math.NaN() },
		"negative CPUs":      func(t *runner.Task) { t.Limits.CPUs = -1 },
		"little memory":      func(t *runner.Task) { t.Limits.MemoryMiB = 1 },
		"few pids":           func(t *runner.Task) { t.Limits.Pids = 1 },
		"endless output":     func(t *runner.Task) { t.Limits.OutputBytes = math.MaxInt64 },
		"negative /tmp":      func(t *runner.Task) { t.Limits.TmpMiB = -1 },
		"a deadline passed":  func(t *runner.Task) { t.Limits.Deadline = -time.Second },
	} {
		task := good
		spoil(&task)
		if _, err := task.Check(); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIsolationString(t *testing.T) {
	for want, i := range map[string]runner.Isolation{
		"process (development only): deadline, seccomp": {Backend: "process", Development: true, Protections: []string{"deadline", "seccomp"}},
		"docker/runc: seccomp":                          {Backend: "docker/runc", Protections: []string{"seccomp"}},
		"process (development only): none":              {Backend: "process", Development: true},
	} {
		if got := i.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestEnv(t *testing.T) {
	env := strings.Join(runner.Limits{CPUs: 1.5, MemoryMiB: 1024}.Env(), " ")
	if !strings.Contains(env, "GOMAXPROCS=2") || !strings.Contains(env, "GOMEMLIMIT=939524096") {
		t.Error(env)
	}
}
