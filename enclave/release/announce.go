package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
)

// announce logs an entry of this custodian before its effect. The log's word is not enough: the proof must verify.
func (c *Custodian) announce(ctx context.Context, entry enclave.Entry) (enclave.LogProof, error) {
	keys, err := LogKeys(c.Roster())
	if err != nil {
		return enclave.LogProof{}, err
	}
	proofs, err := c.cfg.Log.Append(ctx, entry)
	if err != nil {
		return enclave.LogProof{}, fmt.Errorf("announcing a %s in the log: %w", entry.Type, err)
	}
	if len(proofs) != 1 {
		return enclave.LogProof{}, refuse(ErrNotLogged, "the log answers with %d proofs of this custodian's %s", len(proofs), entry.Type)
	}
	if _, _, err := proofs[0].Check(keys); err != nil || !bytes.Equal(proofs[0].Entry, canon.MustMarshal(entry)) {
		return proofs[0], refuse(ErrNotLogged, "the log's proof of this custodian's %s", entry.Type).Because(err)
	}
	return proofs[0], nil
}

// catchUp reads the log up to what a proof of this custodian's own entry leads to, and looks again whether the dossier
// shows every statement. A log that answers with old checkpoints, so as to hide a revocation, can do so only until the
// custodian's next announcement; one that was forked cannot prove the custodian's entry.
func (c *Custodian) catchUp(ctx context.Context, b *enclave.Bundle, proof enclave.LogProof) error {
	keys, err := LogKeys(c.Roster())
	if err != nil {
		return err
	}
	_, cp, err := proof.Check(keys)
	if err != nil {
		return refuse(ErrNotLogged, "proof").Because(err)
	}
	err = c.follow.reach(ctx, proof.Checkpoint, cp)
	c.noteSeen()
	if errors.Is(err, ErrLogFork) {
		return refuse(ErrLogFork, "this custodian's own entry is in another log").Because(err)
	} else if err != nil {
		return err
	}
	if r := c.withheld(b); r != nil {
		return r
	}
	return nil
}

// withheld refuses a dossier that lacks a statement which is in the log. A newer dossier may do.
func (c *Custodian) withheld(b *enclave.Bundle) *Refusal {
	shown := map[enclave.Digest]bool{}
	for _, s := range b.Statements {
		shown[s.Digest()] = true
	}
	for _, s := range c.follow.statements {
		if !shown[s] {
			return refuse(ErrUnauthorized, "statement %s is in the log but the dossier keeps it back", s).Because(&refusal.WithheldError{Statement: s.String()})
		}
	}
	return nil
}

func (c *Custodian) noteSeen() {
	if c.follow.size > 0 {
		c.seen.Store(&enclave.Checkpoint{Size: c.follow.size, Root: c.follow.root})
	}
}

// Status is where a custodian stands. It is quick whatever the custodian does.
type Status struct {
	RosterSerial int64
	LogSize      int64          // entries followed
	LogRoot      enclave.Digest // of the tree of LogSize entries
	Records      map[string]int64
	Refusals     int64 // in the journal
	Trouble      error // what keeps it from working; nil = nothing known
}

// Status implements what operators of the custodian watch.
func (c *Custodian) Status() Status {
	s := Status{RosterSerial: c.Roster().Serial, Records: c.ledger.heights(), Refusals: c.journal.count(), Trouble: c.ledger.healthy()}
	if cp := c.seen.Load(); cp != nil {
		s.LogSize, s.LogRoot = cp.Size, cp.Root
	}
	return s
}
