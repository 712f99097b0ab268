package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave"
)

// guard is the log's key behind a check: it signs a checkpoint only if the tiles on disk hash to its root and it lies in
// one history with the last cosigned checkpoint. Both Tessera, which signs what its tree state says, and advance sign
// through it, so a damaged file cannot make the log's key sign a fork.
type guard struct {
	note.Signer
	log *Log
}

// Sign implements note.Signer.
func (g guard) Sign(text []byte) ([]byte, error) {
	cp, err := enclave.ParseCheckpoint(string(text))
	if err != nil {
		return nil, err
	}
	g.log.mu.Lock()
	last := g.log.current.cp
	g.log.mu.Unlock()
	if err := g.check(cp, last); err != nil {
		return nil, fmt.Errorf("refusing to sign a checkpoint of %d entries: %w", cp.Size, err)
	}
	return g.Signer.Sign(text)
}

func (g guard) check(cp, last enclave.Checkpoint) error {
	tree := newTree(g.log.dir, cp.Size)
	root, err := tree.root()
	if err != nil {
		return err
	}
	if root != cp.Root || cp.Origin != g.log.keys.Origin {
		return fmt.Errorf("%w: its origin or root is not that of the tiles", ErrDamaged)
	}
	if last.Size == 0 {
		return nil
	}
	if cp.Size < last.Size { // Tessera is a moment behind
		cp, last = last, cp
		tree = newTree(g.log.dir, cp.Size)
	}
	if last.Size == 0 {
		return nil
	}
	proof, err := consistency(tree, cp, last.Size)
	if err != nil {
		return err
	}
	if err := enclave.CheckConsistency(last, cp, proof); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
