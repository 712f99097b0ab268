package enclave

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/internal/canon"
)

// Entry is one leaf of the audit log. It is written before its effect.
type Entry struct {
	Type    string `json:"type"`             // one of the Entry… constants
	Subject Digest `json:"subject"`          // what the entry is about: a statement, artefact, or custodian's ledger entry
	By      string `json:"by"`               // party
	Job     string `json:"job,omitempty"`    //
	Reason  string `json:"reason,omitempty"` // of a refusal, suspension, failure: never a data value
	At      Time   `json:"at"`
}

// Types of log entry.
const (
	EntryRoster    = "roster"
	EntryStatement = "statement" // licence, application, consent, decision
	EntryKeyset    = "keyset"
	EntryManifest  = "manifest"
	EntryPlan      = "plan"
	EntryRefusal   = "refusal" // by the control plane or a custodian
	EntryReceipt   = "receipt"
	EntryCharge    = "charge" // a custodian committed budget for an opening
	EntryShare     = "share"  // a custodian is about to hand out shares
	EntryRelease   = "release"
	EntryFailure   = "failure" // a job ended without release
	EntryCancel    = "cancel"

	EntryRotation        = "rotation"         // a custodian is about to wrap the pieces of a keyset under a new key
	EntryRetirement      = "retirement"       // a custodian is about to erase the pieces of a keyset that was refreshed
	EntryDisposal        = "disposal"         // a dataset is ended; the subject is the lineage's first keyset
	EntryDestruction     = "destruction"      // a custodian destroyed its pieces of it
	EntryCertificate     = "certificate"      // of a disposal
	EntryDisposalRequest = "disposal-request" // an official wants to end a dataset; a second one has to sign
	EntryCollection      = "collection"       // a task for reporters, signed by its analyst and confirmed by the data's owner
	EntryDelivery        = "delivery"         // the reports of one batch of a collection, as a steward of the data's owner hands them in
)

// ErrLogProof is wrapped by every log check that fails.
var ErrLogProof = errors.New("log proof does not verify")

// LogProof shows that an entry is in the log: the leaf's index, the audit path (RFC 6962, section 2.1.1) and the
// checkpoint it leads to, a C2SP tlog-checkpoint signed by the log and cosigned by the witness.
type LogProof struct {
	Entry      []byte   `json:"entry"` // canonical Entry
	Index      int64    `json:"index"`
	Path       []Digest `json:"path"`
	Checkpoint string   `json:"checkpoint"`
}

// Checkpoint is the state of the log that a checkpoint note commits to.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   Digest
}

// LogKeys are the keys that must both have signed a checkpoint.
type LogKeys struct {
	Origin  string
	Log     note.Verifier
	Witness note.Verifier
}

// Check verifies the proof and returns the entry and checkpoint it proves.
func (p LogProof) Check(keys LogKeys) (Entry, Checkpoint, error) {
	cp, err := keys.Open(p.Checkpoint)
	if err != nil {
		return Entry{}, cp, err
	}
	e, err := p.Under(cp)
	return e, cp, err
}

// Under verifies the proof under a checkpoint that was opened from p.Checkpoint, and returns the entry it proves. Proofs
// of one bundle share a checkpoint, whose two signatures need checking once.
func (p LogProof) Under(cp Checkpoint) (Entry, error) {
	var e Entry
	if err := canon.Unmarshal(p.Entry, &e); err != nil {
		return e, fmt.Errorf("%w: %w", ErrLogProof, err)
	}
	path := make(tlog.RecordProof, len(p.Path))
	for i, h := range p.Path {
		path[i] = tlog.Hash(h)
	}
	if err := tlog.CheckRecord(path, cp.Size, tlog.Hash(cp.Root), p.Index, tlog.RecordHash(p.Entry)); err != nil {
		return e, fmt.Errorf("%w: entry %d in a log of %d: %w", ErrLogProof, p.Index, cp.Size, err)
	}
	return e, nil
}

type keyID struct {
	name string
	hash uint32
}

func idOf(v note.Verifier) keyID { return keyID{v.Name(), v.KeyHash()} }

// Open verifies both signatures on a checkpoint note.
func (k LogKeys) Open(text string) (Checkpoint, error) {
	var cp Checkpoint
	n, err := note.Open([]byte(text), note.VerifierList(k.Log, k.Witness))
	if err != nil {
		return cp, fmt.Errorf("%w: checkpoint: %w", ErrLogProof, err)
	}
	// By name and hash: a hash has 32 bits, and a log could grind a key that shares its witness's.
	signed := map[keyID]bool{}
	for _, s := range n.Sigs {
		signed[keyID{s.Name, s.Hash}] = true
	}
	if !signed[idOf(k.Log)] || !signed[idOf(k.Witness)] || idOf(k.Log) == idOf(k.Witness) {
		return cp, fmt.Errorf("%w: checkpoint lacks the signature of the log or of the witness", ErrLogProof)
	}
	cp, err = ParseCheckpoint(n.Text)
	if err != nil {
		return cp, err
	}
	if cp.Origin != k.Origin {
		return cp, fmt.Errorf("%w: checkpoint of log %q, want %q", ErrLogProof, cp.Origin, k.Origin)
	}
	return cp, nil
}

// CheckConsistency shows that a later checkpoint extends an earlier one (RFC 6962, section 2.1.2).
func CheckConsistency(earlier, later Checkpoint, proof []Digest) error {
	if earlier.Origin != later.Origin {
		return fmt.Errorf("%w: checkpoints of two logs, %q and %q", ErrLogProof, earlier.Origin, later.Origin)
	}
	path := make(tlog.TreeProof, len(proof))
	for i, h := range proof {
		path[i] = tlog.Hash(h)
	}
	if earlier.Size == 0 {
		return nil // everything extends the empty log
	}
	if err := tlog.CheckTree(path, later.Size, tlog.Hash(later.Root), earlier.Size, tlog.Hash(earlier.Root)); err != nil {
		return fmt.Errorf("%w: log of %d entries does not extend the one of %d: %w", ErrLogProof, later.Size, earlier.Size, err)
	}
	return nil
}

// ParseCheckpoint reads the text of a C2SP tlog-checkpoint without extension lines.
func ParseCheckpoint(text string) (Checkpoint, error) {
	var cp Checkpoint
	origin, size, root, err := splitCheckpoint(text)
	if err != nil {
		return cp, fmt.Errorf("%w: checkpoint: %w", ErrLogProof, err)
	}
	return Checkpoint{Origin: origin, Size: size, Root: root}, nil
}
