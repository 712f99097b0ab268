package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// Exit codes. ExitCodes tells people the same.
const (
	OK         = 0
	Failed     = 1
	Misused    = 2
	Refused    = 3
	NotFound   = 4
	Unopened   = 5
	Unverified = 6
)

// coded is an error whose exit code is known where it arises.
type coded struct {
	code int
	error
}

func (c coded) Unwrap() error { return c.error }

// With gives an error its exit code, whatever else it wraps. nil stays nil.
func With(code int, err error) error {
	if err == nil {
		return nil
	}
	return coded{code, err}
}

// Usage is an error in the command line itself.
func Usage(format string, args ...any) error { return With(Misused, fmt.Errorf(format, args...)) }

// Code is the exit code of an error.
func Code(err error) int {
	var known coded
	var quorum *release.QuorumError
	var refusal *release.Refusal
	var problems schema.Problems
	var bad *table.Error
	switch {
	case err == nil:
		return OK
	case errors.As(err, &known):
		return known.code
	case errors.Is(err, audit.ErrDamaged), errors.Is(err, enclave.ErrLogProof):
		return Unverified
	case errors.As(err, &quorum), errors.As(err, &refusal):
		return Unopened
	case lab.IsRefusal(err), errors.As(err, &problems), errors.As(err, &bad), errors.Is(err, seal.ErrRefused),
		errors.Is(err, schema.ErrQuality), errors.Is(err, sandbox.ErrConflict), errors.Is(err, home.ErrExists), errors.Is(err, agency.ErrNotYours), errors.Is(err, operators.ErrRole):
		return Refused
	case errors.Is(err, sandbox.ErrNotFound), errors.Is(err, enclave.ErrNotFound), errors.Is(err, home.ErrNoLab), errors.Is(err, operators.ErrUnknown):
		return NotFound
	}
	return Failed
}

// ReadFile reads a file that a person named.
func ReadFile(name string) ([]byte, error) {
	data, err := os.ReadFile(name)
	return data, named(err)
}

// CheckFile says whether a file that a person named can be opened, before anything else is done.
func CheckFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return named(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return errors.Join(err, Usage("%s is a folder, not a file", name))
	}
	return nil
}

func named(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return With(NotFound, err)
	}
	return err
}
