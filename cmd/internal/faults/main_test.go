package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init() // this program is what a sandbox of its own is made from
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// Each point is one at which a flow is killed, in both worlds, or there is a reason. The matrix itself insists that the
// flows pass what they are said to pass.
func TestEveryPointHasAPlace(t *testing.T) {
	for _, in := range []world{embedded, served} {
		for _, p := range failpoint.All() {
			var at []string
			for _, f := range flows() {
				if (f.in == "" || f.in == in) && slices.Contains(f.points, p) {
					at = append(at, f.name)
					if f.leaves != nil && f.leaves(p) {
						t.Errorf("%s: %q is said to be killed at %s, which it leaves to others", in, f.name, p)
					}
				}
			}
			why, excused := without[in][p]
			if (len(at) == 0) != excused || excused && why == "" {
				t.Errorf("%s: %s is for the flows %q, and there is the reason %q", in, p, at, why)
			}
		}
		for p := range without[in] {
			if !slices.Contains(failpoint.All(), p) {
				t.Errorf("%s: the reason for %q is for no point", in, p)
			}
		}
	}
}

// A few cases of the matrix, of those that need no long wait.
func TestServices(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds every program for being killed")
	}
	b, err := newBench(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	m := &matrix{bench: b}
	named := func(name string) *flow {
		return flows()[slices.IndexFunc(flows(), func(f *flow) bool { return f.name == name })]
	}
	wire := func(name string) func(context.Context) error {
		all := m.onTheWire()
		return all[slices.IndexFunc(all, func(f fault) bool { return f.name == "services: "+name })].try
	}
	kill := func(flow, part string, p failpoint.Point) func(context.Context) error {
		return func(ctx context.Context) error {
			return m.killServices(ctx, named(flow), part, string(p)+":1", "process")
		}
	}
	for _, c := range []fault{
		{"a custodian is killed once it has charged", kill("job", leader, failpoint.ChargeStored)},
		{"labd is killed between a statement's entry and its record", kill("statement", labd, failpoint.StatementLogged)},
		{"a wire is cut after a share was stored", wire("wire between labd and " + leader + " cut after a share was stored, before its answer")},
		{"a cancellation is overtaken", wire("cancelling overtaken by the release")},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			if err := c.try(t.Context()); errors.Is(err, errSkip) {
				t.Skip(err)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
