package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/plan"
)

func TestCode(t *testing.T) {
	denied := operators.Deny(operators.Reason{Rule: operators.ErrUnknown, Text: "x"})
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, OK},
		{"anything else", errors.New("disk is on fire"), Failed},
		{"command line", Usage("no"), Misused},
		{"a rule", fmt.Errorf("recording: %w", denied), Refused}, // though the rule inside is ErrUnknown
		{"the planner", &plan.RefusedError{}, Refused},
		{"a table", fmt.Errorf("sealing: %w", seal.ErrRefused), Refused},
		{"a conflict", fmt.Errorf("cancelling: %w", sandbox.ErrConflict), Refused},
		{"no record", fmt.Errorf("job: %w", sandbox.ErrNotFound), NotFound},
		{"no lab", fmt.Errorf("%w: here", home.ErrNoLab), NotFound},
		{"a missing file of the lab's own", fs.ErrNotExist, Failed},
		{"a missing file that was named", named(fs.ErrNotExist), NotFound},
		{"too few custodians", &release.QuorumError{}, Unopened},
		{"a custodian", fmt.Errorf("opening: %w", &release.Refusal{Rule: release.ErrBudget}), Unopened},
		{"a damaged log", fmt.Errorf("opening: %w", audit.ErrDamaged), Unverified},
		{"given", With(Unverified, sandbox.ErrNotFound), Unverified},
		{"joined", errors.Join(Usage("no"), errors.New("and closing failed")), Misused},
	} {
		if got := Code(tt.err); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	err := fmt.Errorf("submitting: %w", operators.Deny(operators.Reason{Text: "no licence", Hint: "ask for one"}, operators.Reason{Text: "no consent"}))
	var text, js strings.Builder
	if got := Report(&text, "lab", err, false); got != Refused {
		t.Errorf("exit code %d", got)
	}
	if diff := cmp.Diff("lab: refused: the rules do not allow it\n  - no licence → ask for one\n  - no consent\n", text.String()); diff != "" {
		t.Error(diff)
	}
	Report(&js, "lab", err, true)
	if diff := cmp.Diff(`{"error":"refused: the rules do not allow it","code":3,"reasons":["no licence → ask for one","no consent"]}`+"\n", js.String()); diff != "" {
		t.Error(diff)
	}
	if got := Report(io.Discard, "lab", nil, false); got != OK {
		t.Errorf("exit code %d without an error", got)
	}
}

func TestStrict(t *testing.T) {
	run := func(args ...string) (bool, error) {
		ran := false
		leaf := &cobra.Command{Use: "leaf NAME", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { ran = true; return nil }}
		leaf.Flags().String("need", "", "")
		leaf.MarkFlagRequired("need")
		group := &cobra.Command{Use: "group"}
		group.AddCommand(leaf)
		root := &cobra.Command{Use: "root", SilenceErrors: true, SilenceUsage: true}
		root.AddCommand(group)
		Strict(root)
		root.SetArgs(args)
		root.SetOut(io.Discard)
		return ran, errors.Join(root.Execute())
	}
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"group", ""},
		{"group leaf x --need y", ""},
		{"group leaf --need y", "root group leaf: accepts 1 arg(s), received 0"},
		{"group leaf x", `required flag(s) "need" not set`},
		{"group leaf x --need y --more", "unknown flag: --more"},
		{"group lea", `root group has no command "lea"; did you mean leaf?`},
		{"group other", `root group has no command "other"; it has leaf`},
		{"other", `root has no command "other"; it has completion, group`},
	} {
		_, err := run(strings.Fields(tt.args)...)
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (Code(err) != Misused || err.Error() != tt.want):
			t.Errorf("%q: %v with exit code %d, want %q", tt.args, err, Code(err), tt.want)
		}
	}
}

func TestGridAlignsWideCharacters(t *testing.T) {
	var b strings.Builder
	Grid(&b, []string{"镇", "n"}, [][]string{{"城桥镇", "12"}, {"a", "3"}})
	want := "镇      n\n------  --\n城桥镇  12\na        3\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}
