package sandbox

import (
	"context"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

type signature = canon.Signature

// Records is what the control plane keeps of its work: metadata only. Each method is atomic and durable when it returns.
// Writing the same again is no error; writing something else over it is ErrConflict. What is not there is ErrNotFound.
// Everything here can be rebuilt by the auditor from the log and the artefacts, and none of it is trusted by a custodian.
//
// The package dbtest checks implementations.
type Records interface {
	// AppendStatement records a signed statement (roster, licence, application, consent, decision) and returns its
	// place in the order of arrival, from 1. Signatures merge as in PutArtefact. It is not pending any more.
	AppendStatement(ctx context.Context, s enclave.Signed, at time.Time) (seq int64, err error)
	// Statements lists statements after a place, in order of arrival; 0 = all.
	Statements(ctx context.Context, after int64) ([]Statement, error)

	// KeepPending keeps a statement that is about to be logged, until AppendStatement or DropPending. One that is kept
	// again replaces the first.
	KeepPending(ctx context.Context, s enclave.Signed, at time.Time) error
	// Pending lists those that are kept, oldest first. They have no place yet.
	Pending(ctx context.Context) ([]Statement, error)
	// DropPending forgets one. If it is not there, that is no error.
	DropPending(ctx context.Context, kind string, d enclave.Digest) error

	// PutArtefact keeps a signed artefact under its kind and the digest of its body. MergeSigned says which envelope
	// stays when it is put again.
	PutArtefact(ctx context.Context, s enclave.Signed, at time.Time) (enclave.Digest, error)
	// Artefact finds one.
	Artefact(ctx context.Context, kind string, d enclave.Digest) (enclave.Signed, error)
	// Artefacts lists those of a kind in order of arrival.
	Artefacts(ctx context.Context, kind string) ([]enclave.Signed, error)

	// BindKeyset names the keyset of a dataset lineage, for good.
	BindKeyset(ctx context.Context, dataset string, keyset enclave.Digest) error
	// Publish makes a manifest the current version of a dataset that has a keyset, if the current one is previous
	// (zero before the first).
	Publish(ctx context.Context, dataset string, previous, manifest enclave.Digest) error
	// Dataset finds one lineage.
	Dataset(ctx context.Context, name string) (Dataset, error)
	// Datasets lists all by name.
	Datasets(ctx context.Context) ([]Dataset, error)

	// CreateJob records a job that Job.Check accepts. The same request under the same ID again is no error.
	CreateJob(ctx context.Context, j Job) error
	// Job finds one.
	Job(ctx context.Context, id JobID) (Job, error)
	// Jobs lists jobs, the newest first.
	Jobs(ctx context.Context, f JobFilter) ([]Job, error)
	// MoveJob makes a transition by Job.Apply as one compare-and-swap and records the step. moved is true for the one
	// caller that made it.
	MoveJob(ctx context.Context, id JobID, c Change) (after Job, moved bool, err error)
	// ReportJob notes progress of a job that is in a state. One that has left the state is ErrConflict.
	ReportJob(ctx context.Context, id JobID, p Progress) error
	// Steps lists a job's transitions in order.
	Steps(ctx context.Context, id JobID) ([]Step, error)

	// PutRelease keeps the sealed table of a job's release, once per job. A retry may bring other sealed bytes of the
	// same release (HPKE is randomised): the first stay.
	PutRelease(ctx context.Context, r SealedRelease) error
	// Release finds a job's.
	Release(ctx context.Context, id JobID) (SealedRelease, error)

	// NoteEntry remembers where the log holds an entry. Two entries at one index are ErrConflict: the log has forked.
	NoteEntry(ctx context.Context, index int64, e enclave.Entry) error
	// Entries lists remembered entries by index.
	Entries(ctx context.Context, f EntryFilter) ([]LoggedEntry, error)

	// SetSetting replaces a small value of the control plane's own.
	SetSetting(ctx context.Context, key string, value []byte) error
	// Setting reads one.
	Setting(ctx context.Context, key string) ([]byte, error)
}

// Store is Records that several writes can share.
type Store interface {
	Records
	// Atomic runs fn so that all its writes happen or none do, and nobody else's come between its reads and its
	// writes. fn must use the Records it is given and nothing else of the store, and may not keep it. It may run more
	// than once before one run counts, so what it does outside the store must bear repeating.
	Atomic(ctx context.Context, fn func(Records) error) error
	// Close ends use of the store.
	Close() error
}

// Statement is a signed statement and when it came.
type Statement struct {
	Seq      int64
	Signed   enclave.Signed
	Recorded time.Time
}

// Dataset is a lineage: its key for good, and the version that queries see.
type Dataset struct {
	Name     string
	Keyset   enclave.Digest
	Manifest enclave.Digest // zero before the first version
}

// JobFilter selects jobs; zero fields select all.
type JobFilter struct {
	Operator string
	Scenario enclave.Digest
	States   []State
	Before   JobID // only older ones: the last of the page before
	Limit    int   // 0 = all
}

// Progress is where a job in State stands.
type Progress struct {
	State   State
	Stage   string // for people; never a data value
	Percent int64  // 0 to 100
	At      time.Time
}

// SealedRelease is a result as the operator will fetch it. Only the operator can open Table.
type SealedRelease struct {
	Job     JobID
	Release enclave.Digest
	Table   []byte // HPKE ciphertext
	Made    time.Time
}

// EntryFilter selects log entries; zero fields select all.
type EntryFilter struct {
	Subject enclave.Digest
	Type    string
	Job     string
}

// LoggedEntry is an entry and its index in the log.
type LoggedEntry struct {
	Index int64
	Entry enclave.Entry
}
