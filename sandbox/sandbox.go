// Package sandbox holds the nouns of the place where work is run: Job with its one transition table, the records that
// the control plane keeps, and the errors that its callers branch on. It sees digests, signed artefacts and sealed
// bytes; it holds no key and no cleartext.
//
// The children hold the verbs. This package does no I/O and imports none of them.
package sandbox

import "errors"

// Errors that callers branch on.
var (
	// ErrNotFound means that there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that the record is no longer, or was never, what the caller takes it for: read it again.
	ErrConflict = errors.New("conflicts with what is recorded")
	// ErrCancelled ends the work of a job that someone cancelled.
	ErrCancelled = errors.New("job was cancelled")
	// ErrFenced ends the work on a job that another process has taken up meanwhile.
	ErrFenced = errors.New("another process drives the job now")
	// ErrInvalid means that a record would break a rule that no retry can mend.
	ErrInvalid = errors.New("not a valid record")
	// ErrDamaged means that stored metadata is not what was written.
	ErrDamaged = errors.New("metadata is damaged: restore it from a backup")
	// ErrUnavailable means that the database does not answer. What was being written may be there or not: look before
	// trying again.
	ErrUnavailable = errors.New("metadata is unreachable")
	// ErrNewer means that a newer program has changed the metadata's schema.
	ErrNewer = errors.New("metadata is of a newer program")
)
