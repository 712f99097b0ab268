package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// Witness signs checkpoints of one log, each extending all that it signed before, so that nobody can be shown a history
// that others do not see. It belongs to a body other than the log's. The exchange is that of C2SP tlog-witness.
type Witness interface {
	// Cosign signs a checkpoint note that the log has signed. The proof shows that it extends the checkpoint of oldSize
	// entries, which must be the last one that the witness saw. The answer is one or more note signature lines.
	Cosign(ctx context.Context, oldSize int64, proof []enclave.Digest, checkpoint []byte) (cosigned []byte, err error)
	// Size is the number of entries in the last checkpoint that the witness saw: 0 before the first.
	Size(ctx context.Context) (int64, error)
	// Verifier is the witness's public key.
	Verifier() note.Verifier
}

// ErrConflict means that a witness last saw another size than the one stated: ask for its Size, prove from there.
var ErrConflict = errors.New("witness has seen another size than stated")

// SplitViewError carries two checkpoints, both signed by the log, that a witness could not reconcile. If they have one
// size, they prove by themselves that the log's key signed two histories.
type SplitViewError struct {
	Seen, Offered string // signed notes
	Cause         error
}

func (e *SplitViewError) Error() string { return fmt.Sprintf("%v: %v", ErrSplitView, e.Cause) }

// Unwrap makes the error an ErrSplitView.
func (e *SplitViewError) Unwrap() []error { return []error{ErrSplitView, e.Cause} }

// LocalWitness is a witness whose state is a folder: the last checkpoint it saw, durably stored before it signs.
type LocalWitness struct {
	path   string
	signer *fnote.Signer
	log    note.Verifier
	lock   *os.File

	mu   sync.Mutex
	seen enclave.Checkpoint
	text string // seen as the log signed it; empty before the first
}

// NewWitness opens or creates a witness for one log, whose key must have signed every checkpoint offered. The signer's
// key must serve nothing else (C2SP tlog-cosignature); NewWitnessSigner reads one. Close releases the folder.
func NewWitness(dir string, signer *fnote.Signer, log note.Verifier) (_ *LocalWitness, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening witness %q: %w", dir, err)
		}
	}()
	if signer == nil || log == nil {
		return nil, errors.New("want the witness's signer and the log's verifier")
	}
	if signer.Name() == log.Name() || signer.KeyHash() == log.KeyHash() {
		return nil, fmt.Errorf("log and witness share the key name %q or hash: a log cannot witness itself", log.Name())
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w := &LocalWitness{path: filepath.Join(dir, seenFile), signer: signer, log: log}
	if w.lock, err = acquire(filepath.Join(dir, lockFile), false); err != nil {
		return nil, err
	}
	if err := w.restore(dir); err != nil {
		return nil, errors.Join(err, w.lock.Close())
	}
	return w, nil
}

func (w *LocalWitness) restore(dir string) error {
	if err := durable.Sweep(dir); err != nil {
		return err
	}
	text, err := os.ReadFile(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A witness that forgets would sign a fork, so unreadable state is not the same as none.
	if w.seen, _, err = openLogNote(w.log, text); err != nil {
		return fmt.Errorf("%s: %w", w.path, err)
	}
	w.text = string(text)
	return nil
}

// Close releases the folder.
func (w *LocalWitness) Close() error { return w.lock.Close() }

// Verifier implements Witness.
func (w *LocalWitness) Verifier() note.Verifier { return w.signer.Verifier() }

// Size implements Witness.
func (w *LocalWitness) Size(ctx context.Context) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.Size, ctx.Err()
}

// Cosign implements Witness. A checkpoint that is smaller than the last one, or not its extension, is refused with a
// SplitViewError; one proved from another size, with ErrConflict.
func (w *LocalWitness) Cosign(ctx context.Context, oldSize int64, proof []enclave.Digest, checkpoint []byte) ([]byte, error) {
	next, n, err := openLogNote(w.log, checkpoint)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	if err := w.extends(oldSize, proof, next, n); err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	if w.text == "" || next != w.seen {
		text, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs})
		if err != nil {
			return nil, fmt.Errorf("cosigning: %w", err)
		}
		// Before the signature: one that was given and forgotten could be given again to a fork.
		if err := durable.WriteFile(w.path, text, 0o600); err != nil {
			return nil, fmt.Errorf("cosigning: %w", err)
		}
		failpoint.Hit(failpoint.WitnessRemembers)
		w.seen, w.text = next, string(text)
	}
	signed, err := note.Sign(&note.Note{Text: n.Text}, w.signer)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	return bytes.TrimPrefix(signed, []byte(n.Text+"\n")), nil
}

// extends decides whether next may follow what was seen.
func (w *LocalWitness) extends(oldSize int64, proof []enclave.Digest, next enclave.Checkpoint, n *note.Note) error {
	if w.text == "" {
		w.seen = enclave.Checkpoint{Origin: next.Origin}
	}
	split := func(cause error) error {
		offered, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs})
		if err != nil {
			return err
		}
		return &SplitViewError{Seen: w.text, Offered: string(offered), Cause: cause}
	}
	switch {
	case next.Size < w.seen.Size:
		return split(fmt.Errorf("checkpoint has %d entries, the last one had %d", next.Size, w.seen.Size))
	case next.Size == w.seen.Size && w.text != "" && next.Root != w.seen.Root:
		return split(fmt.Errorf("two checkpoints of %d entries", next.Size))
	case oldSize != w.seen.Size:
		return fmt.Errorf("%w: %d stated, %d seen", ErrConflict, oldSize, w.seen.Size)
	case oldSize == 0:
		if len(proof) != 0 {
			return errors.New("a proof from the empty log must be empty")
		}
		return nil
	}
	if err := enclave.CheckConsistency(w.seen, next, proof); err != nil {
		return split(err)
	}
	return nil
}

// openLogNote verifies the log's signature on a checkpoint note. Other signatures are dropped.
func openLogNote(log note.Verifier, text []byte) (enclave.Checkpoint, *note.Note, error) {
	n, err := note.Open(text, note.VerifierList(log))
	if err != nil {
		return enclave.Checkpoint{}, nil, fmt.Errorf("opening checkpoint: %w", err)
	}
	cp, err := enclave.ParseCheckpoint(n.Text)
	if err != nil {
		return enclave.Checkpoint{}, nil, err
	}
	if cp.Origin != log.Name() {
		return cp, nil, fmt.Errorf("checkpoint of log %q is signed by %q", cp.Origin, log.Name())
	}
	return cp, n, nil
}
