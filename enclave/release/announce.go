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
	if errors.Is(err, enclave.ErrLogProof) {
		return enclave.LogProof{}, refuse(ErrNotLogged, "the log's answer to this custodian's %s", entry.Type).Because(err)
	} else if err != nil {
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
func (c *Custodian) catchUp(ctx context.Context, d *Dossier, proof enclave.LogProof) error {
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
	if r := c.withheld(d); r != nil {
		return r
	}
	if r := c.ended(d); r != nil {
		return r
	}
	return nil
}

// ended refuses a dossier of a dataset whose disposal is in the log by now.
func (c *Custodian) ended(d *Dossier) *Refusal {
	for _, o := range d.datasets() {
		if c.follow.logged[entryKey{o.KeysetDigest, enclave.EntryDisposal}] {
			return refuse(ErrDisposed, "dataset %q, keyset %s", o.Keyset.Dataset, o.KeysetDigest.Short())
		}
	}
	return nil
}

// withheld refuses a dossier that lacks a statement which is in the log. A newer dossier may do.
func (c *Custodian) withheld(d *Dossier) *Refusal {
	for _, s := range c.follow.statements {
		if !d.shown[s] {
			return refuse(ErrUnauthorized, "statement %s is in the log but the dossier keeps it back", s).Because(&refusal.WithheldError{Statement: s.String()})
		}
	}
	return nil
}

// noteSeen shows others how far the log was followed.
func (c *Custodian) noteSeen() {
	if c.follow.size > 0 {
		seen := c.follow.last
		c.seen.Store(&seen)
	}
}

// Seen implements Member: the last checkpoint of the log that this custodian has followed, as it was signed.
func (c *Custodian) Seen(context.Context) (string, error) {
	if seen := c.seen.Load(); seen != nil {
		return seen.Note, nil
	}
	return "", nil
}

// compare holds the log that a peer was shown against the one that this custodian follows. A log whose keys sign two
// histories, with a witness that looks away, can show each custodian one of them for ever; only here do they meet. A
// peer alone cannot make this fail: what it says counts if the log and the witness have signed it.
func (c *Custodian) compare(ctx context.Context, peer, text string) error {
	if text == "" {
		return nil // it has not begun to follow
	}
	keys, err := LogKeys(c.Roster())
	if err != nil {
		return err
	}
	cp, err := keys.Open(text)
	if err != nil {
		return fmt.Errorf("log that custodian %q sees: %w", peer, err)
	}
	err = c.follow.reach(ctx, text, cp)
	c.noteSeen()
	if errors.Is(err, ErrLogFork) {
		return refuse(ErrLogFork, "custodian %q was shown another log", peer).Because(err)
	}
	return err
}

// Status is where a custodian stands. It is quick whatever the custodian does.
type Status struct {
	RosterSerial int64
	LogSize      int64          // entries followed
	LogRoot      enclave.Digest // of the tree of LogSize entries
	Checkpoint   string         // of it, as it was signed
	Records      map[string]int64
	Refusals     int64 // in the journal
	Trouble      error // what keeps it from working; nil = nothing known
}

// Status implements what operators of the custodian watch.
func (c *Custodian) Status() Status {
	s := Status{RosterSerial: c.Roster().Serial, Records: c.ledger.heights(), Refusals: c.journal.count(), Trouble: c.ledger.healthy()}
	if seen := c.seen.Load(); seen != nil {
		s.LogSize, s.LogRoot, s.Checkpoint = seen.Size, seen.Root, seen.Note
	}
	return s
}
