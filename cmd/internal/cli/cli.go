// Package cli is what the lab's command lines have in common: exit codes, how errors and refusals are told to people
// and to programs, tables for a terminal, and strict command trees. It decides nothing about data.
package cli

import (
	"encoding/json"
	"io"
	"os"
)

// ExitCodes documents the exit codes for `lab help exit-codes`.
const ExitCodes = `Exit codes of lab and seal:

  0  done
  1  something failed; the message says what and where
  2  the command line is wrong
  3  refused by a rule, the planner or a check of the table; every reason is listed
  4  what was named does not exist
  5  the custodians refuse, or too few of them can be reached
  6  something does not verify`

// Env reads an environment variable, or a default where it is unset or empty.
func Env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// WriteJSON writes v for programs: indented, and without escaping what only HTML minds.
func WriteJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
