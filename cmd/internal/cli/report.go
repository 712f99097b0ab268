package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/plan"
)

// Report tells an error to a person, or to a program if asJSON, and returns the exit code. program is what was called.
func Report(w io.Writer, program string, err error, asJSON bool) int {
	code := Code(err)
	if code == OK {
		return OK
	}
	headline, reasons := headline(err), Reasons(err)
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.Encode(struct { // whoever does not read standard error still has the exit code
			Error   string   `json:"error"`
			Code    int      `json:"code"`
			Reasons []string `json:"reasons,omitempty"`
		}{headline, code, reasons})
		return code
	}
	fmt.Fprintf(w, "%s: %s\n", program, headline)
	for _, r := range reasons {
		fmt.Fprintln(w, "  -", r)
	}
	if code == Misused {
		fmt.Fprintln(w, "Run it with --help to see how it is used.")
	}
	return code
}

// Reasons takes a refusal apart into one line per reason.
func Reasons(err error) (out []string) {
	var denied *operators.DeniedError
	if errors.As(err, &denied) {
		for _, r := range denied.Reasons {
			out = append(out, hinted(r.Text, r.Hint))
		}
	}
	var refused *plan.RefusedError
	if errors.As(err, &refused) {
		for _, r := range refused.Reasons {
			text := r.Text
			if !r.Pos.IsZero() {
				text = r.Pos.String() + ": " + text
			}
			out = append(out, hinted(text, r.Hint))
		}
	}
	var problems schema.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			out = append(out, p.String())
		}
	}
	var quorum *release.QuorumError
	if errors.As(err, &quorum) {
		for _, c := range quorum.Causes {
			out = append(out, c.Error())
		}
	}
	return out
}

// hinted joins what is wrong and what would help.
func hinted(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + " → " + hint
}

// headline is the error without the reasons that follow one by one.
func headline(err error) string {
	var denied *operators.DeniedError
	var refused *plan.RefusedError
	var problems schema.Problems
	var quorum *release.QuorumError
	switch {
	case errors.As(err, &denied):
		return "refused: the rules do not allow it"
	case errors.As(err, &refused):
		return "refused: the query cannot be run as it is"
	case errors.As(err, &problems):
		return "the schema needs work"
	case errors.As(err, &quorum):
		return fmt.Sprintf("the result cannot be opened: %d custodians agree, %d are needed", quorum.Have, quorum.Need)
	}
	return strings.TrimSpace(err.Error())
}
