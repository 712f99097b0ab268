// Package desk is a lab as its people work with it at a terminal, wherever it is: in a folder of this machine, or behind a
// service somewhere else. The command lines know nothing else of either.
package desk

import (
	"context"
	"crypto/ed25519"
	"errors"
	"iter"
	"log/slog"
	"time"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// ErrEmbedded means that something can only be done where the lab's folder is.
var ErrEmbedded = errors.New("works on a lab's folder, and this lab is a service: do it on the machine that has the folder")

// Lab is what the command lines need. home.Home has it, and Remote.
type Lab interface {
	Roster(ctx context.Context) (enclave.Signed, *operators.Roster, error)
	RootKey() ed25519.PublicKey
	Now() time.Time
	// Acting is who the user is if the way to the lab says so, or "".
	Acting() string
	// Identity loads a person's keys, if they are at hand.
	Identity(name string) (*keys.Identity, error)
	AddPerson(ctx context.Context, p operators.Party) error

	Book() *registry.Registry
	Statements(ctx context.Context) (operators.Statements, error)
	Scenario(ctx context.Context, name string) (enclave.Digest, *operators.Scenario, error)

	Datasets(ctx context.Context) ([]lab.Dataset, error)
	Dataset(ctx context.Context, name string) (*lab.Dataset, error)
	RegisterDataset(ctx context.Context, s *schema.Schema, steward string) (*enclave.Keyset, error)
	SealTable(ctx context.Context, path, dataset, steward string, opts agency.SealOptions) (*agency.Sealed, error)
	DestroyProject(ctx context.Context, project, steward string) error

	// Lineage is the keysets of a dataset, the oldest first.
	Lineage(ctx context.Context, dataset string) ([]enclave.Signed, error)
	// Refresh deals a dataset's key again and has the old pieces erased. A keyset along with an error is in force.
	Refresh(ctx context.Context, dataset, steward string, budgetMicro int64) (*enclave.Keyset, error)
	// Rotate has custodians wrap their pieces under new keys and names them: all, or the one whose folder this is.
	Rotate(ctx context.Context, dataset string) (custodians []string, err error)
	// ReplaceCustodian makes a roster in which p acts and the old custodian does not.
	ReplaceCustodian(ctx context.Context, old string, p operators.Party) error
	// DisposeDataset orders the end of a dataset, as a steward or an official, and says how far it is.
	DisposeDataset(ctx context.Context, dataset, who, cause, reason string) (*lab.Disposal, error)
	Disposal(ctx context.Context, dataset string) (*lab.Disposal, error)

	// DefineCollection hands in a collection that its analyst has signed.
	DefineCollection(ctx context.Context, signed enclave.Signed) error
	// ConfirmReporters confirms a collection and its list of reporters, as a steward of the data's owner.
	ConfirmReporters(ctx context.Context, name string, enrolment []byte, steward string) error
	// Deliver hands in files of reports as one batch of a collection, as such a steward.
	Deliver(ctx context.Context, name string, batch int64, files []string, steward string) (*enclave.Delivery, error)
	// ReleaseBatch has a delivered batch counted and released, as the analyst; Batch is one that was.
	ReleaseBatch(ctx context.Context, name string, batch int64) (*lab.Batch, error)
	Batch(ctx context.Context, name string, batch int64) (*lab.Batch, error)
	Collections(ctx context.Context) ([]lab.Collection, error)
	Collection(ctx context.Context, name string) (*lab.Collection, error)
	// CollectionBundle is everything behind a batch.
	CollectionBundle(ctx context.Context, name string, batch int64) (*enclave.CollectionBundle, error)

	Prepare(ctx context.Context, r lab.Request) (*lab.Prepared, error)
	Submit(ctx context.Context, r lab.Request, sign func(*lab.Prepared) (enclave.Signed, error)) (sandbox.Job, error)
	Run(ctx context.Context, id sandbox.JobID, watch func(sandbox.Job)) (sandbox.Job, error)
	Job(ctx context.Context, id sandbox.JobID) (sandbox.Job, error)
	Jobs(ctx context.Context, f sandbox.JobFilter) ([]sandbox.Job, error)
	Cancel(ctx context.Context, id sandbox.JobID, analyst, reason string) (sandbox.Job, error)
	SignedRelease(ctx context.Context, job sandbox.Job) (enclave.Signed, error)
	SealedTable(ctx context.Context, id sandbox.JobID) (sandbox.SealedRelease, error)

	Bundle(ctx context.Context, id sandbox.JobID) (*enclave.Bundle, error)
	Checkpoint(ctx context.Context) (string, enclave.Checkpoint, error)
	Entries(ctx context.Context, from, to int64) iter.Seq2[audit.Record, error]
	// Recheck has custodians hold a release against their own key pieces.
	Recheck(ctx context.Context, id sandbox.JobID) ([]home.Rechecked, error)

	WorkerDigests(ctx context.Context) ([]enclave.Digest, error)
	Isolation(ctx context.Context) (isolation, why string, err error)
	NodeIsolation(ctx context.Context) (string, error)

	Close(ctx context.Context) error
}

var (
	_ Lab = (*home.Home)(nil)
	_ Lab = (*Remote)(nil)
)

// Options say where the lab is.
type Options struct {
	Dir    string // folder of an embedded lab
	Client string // folder of a client, with client.yaml; goes before Dir
	Server string // address that goes before the one in client.yaml
	Home   home.Options
}

// Open opens the lab.
func Open(ctx context.Context, o Options) (Lab, error) {
	if o.Home.Clock == nil {
		o.Home.Clock = time.Now
	}
	if o.Home.Logger == nil {
		o.Home.Logger = slog.Default()
	}
	if o.Client != "" {
		return OpenRemote(o.Client, o.Server, o.Home.Clock)
	}
	return home.Open(ctx, o.Dir, o.Home)
}

// Embedded is the open folder behind a lab, or ErrEmbedded.
func Embedded(l Lab) (*home.Home, error) {
	if h, ok := l.(*home.Home); ok {
		return h, nil
	}
	return nil, ErrEmbedded
}
