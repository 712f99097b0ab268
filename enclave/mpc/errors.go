package mpc

import (
	"errors"
	"fmt"
)

// What a node can find wrong with another. They reach the caller inside a PartyError.
var (
	// ErrStalled means that a peer sent nothing, or read nothing, for longer than the job allows.
	ErrStalled = errors.New("peer stalls")
	// ErrGone means that the connection to a peer ended.
	ErrGone = errors.New("peer is gone")
	// ErrMalformed means that a peer sent what the protocol does not have.
	ErrMalformed = errors.New("peer sent a malformed frame")
	// ErrReplayed means that a frame is not the one whose turn it is: an old one again, or one of another step.
	ErrReplayed = errors.New("peer sent a frame out of turn")
	// ErrInconsistent means that two nodes hold different copies of a component.
	ErrInconsistent = errors.New("copies of a component differ")
	// ErrAborted means that a peer ended the job and said so.
	ErrAborted = errors.New("peer aborted")
)

// PartyError says which peer a node's job failed on and at which step. Nothing was released.
type PartyError struct {
	Party int    // 0, 1 or 2; −1 if it cannot be told which
	Step  string // of the program and the protocol, as "step 3 (join): sort"
	Err   error
}

func (e *PartyError) Error() string {
	if e.Party < 0 {
		return fmt.Sprintf("%s: some node: %v", e.Step, e.Err)
	}
	return fmt.Sprintf("%s: node %d: %v", e.Step, e.Party, e.Err)
}

func (e *PartyError) Unwrap() error { return e.Err }

// AbortError is a peer's word that it ended the job because of a node, which may be any of the three or, at −1, none.
type AbortError struct{ Blames int }

func (e *AbortError) Error() string {
	if e.Blames < 0 {
		return ErrAborted.Error()
	}
	return fmt.Sprintf("%v: it blames node %d", ErrAborted, e.Blames)
}

func (e *AbortError) Is(target error) bool { return target == ErrAborted }
