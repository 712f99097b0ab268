package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
)

// How key material ends: replaced by a refresh, or destroyed because the dataset is. A custodian acts on signed
// artefacts and on what it read in the log itself, never on the control plane's word; and it acts again, from the log
// alone, when it was put back from a copy made before.

func (c *Custodian) dealtDir() string { return filepath.Join(c.cfg.Dir, "keysets") }

// openDealt reads which keysets were dealt to this custodian.
func (c *Custodian) openDealt() error {
	c.dealt, c.purged = map[enclave.Digest]*enclave.Keyset{}, map[enclave.Digest]bool{}
	if err := durable.MkdirAll(c.dealtDir(), 0o700); err != nil {
		return err
	}
	if err := durable.Sweep(c.dealtDir()); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(c.dealtDir(), "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var s canon.Signed
		var ks enclave.Keyset
		err = canon.Unmarshal(data, &s)
		if err == nil {
			err = s.Open(enclave.KindKeyset, &ks)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		c.dealt[s.Digest()] = &ks
	}
	return nil
}

// remember notes a keyset before its first piece is stored, so that a piece which is here is known to be.
func (c *Custodian) remember(s canon.Signed, ks *enclave.Keyset) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := s.Digest()
	if c.follow.logged[entryKey{lineage(ks, d), enclave.EntryDisposal}] {
		return ErrDisposed
	}
	if c.dealt[d] != nil {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(c.dealtDir(), fmt.Sprintf("%x.json", d[:])), canon.MustMarshal(s), 0o600); err != nil {
		return err
	}
	failpoint.Hit(failpoint.KeysetKept)
	c.dealt[d] = ks
	return nil
}

// lineage is the first keyset of the lineage that ks, called d, belongs to.
func lineage(ks *enclave.Keyset, d enclave.Digest) enclave.Digest {
	if ks.Origin.IsZero() {
		return d
	}
	return ks.Origin
}

// of lists the keysets of a lineage that were dealt to this custodian, the oldest first.
func (c *Custodian) of(origin enclave.Digest) (out []enclave.Digest) {
	for d, ks := range c.dealt {
		if lineage(ks, d) == origin {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b enclave.Digest) int {
		if x := c.dealt[a].Epoch - c.dealt[b].Epoch; x != 0 {
			return int(x)
		}
		return slices.Compare(a[:], b[:])
	})
	return out
}

// readLog follows the log, and destroys what it says is to be destroyed and is still, or again, here.
func (c *Custodian) readLog(ctx context.Context) error {
	logKeys, err := LogKeys(c.Roster())
	if err != nil {
		return err
	}
	err = c.follow.advance(ctx, logKeys)
	c.noteSeen()
	if errors.Is(err, ErrLogFork) || errors.Is(err, enclave.ErrLogProof) {
		return refuse(ErrLogFork, "log cannot be followed").Because(err)
	} else if err != nil {
		return err // not reached, or no disk: nothing that the log did wrong
	}
	for d, ks := range c.dealt {
		origin := lineage(ks, d)
		if c.purged[origin] || !c.follow.logged[entryKey{origin, enclave.EntryDisposal}] {
			continue
		}
		if err := c.purge(ctx, origin); err != nil {
			return err
		}
	}
	return nil
}

// Follow reads the log up to its end, as every other call does first, and destroys what it says is to be destroyed: a
// custodian that was put back from an old copy must not wait until somebody asks it for something.
func (c *Custodian) Follow(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.readLog(ctx); err != nil {
		c.noteKey(ctx, enclave.Digest{}, err)
		return fmt.Errorf("custodian %q: %w", c.Name(), err)
	}
	return nil
}

// current insists that the keyset of every dataset is the latest of a lineage that was not disposed of, and erases the pieces of
// those before it: the dossier proves that the refresh was logged.
func (c *Custodian) current(ctx context.Context, d *Dossier) error {
	if r := c.ended(d); r != nil {
		return r
	}
	for _, o := range d.datasets() {
		for _, later := range c.of(o.KeysetDigest) {
			if ks := c.dealt[later]; ks.Epoch > o.Keyset.Epoch && c.follow.logged[entryKey{later, enclave.EntryKeyset}] {
				return refuse(ErrReplaced, "the plan is for epoch %d of keyset %s, which is at epoch %d", o.Keyset.Epoch, o.KeysetDigest.Short(), ks.Epoch)
			}
		}
		if err := c.eraseBefore(ctx, o.KeysetDigest, o.Keyset.Epoch); err != nil {
			return err
		}
	}
	return nil
}

// eraseBefore destroys the pieces of a lineage's keysets before an epoch.
func (c *Custodian) eraseBefore(ctx context.Context, origin enclave.Digest, epoch int64) error {
	for _, old := range c.of(origin) {
		if c.dealt[old].Epoch >= epoch {
			continue
		}
		if err := c.announceKey(ctx, enclave.EntryRetirement, old); err != nil {
			return err
		}
		if err := c.cfg.Keys.Destroy(ctx, old); err != nil {
			return err
		}
		failpoint.Hit(failpoint.PiecesDestroyed)
		if err := c.forget(old); err != nil {
			return err
		}
	}
	return nil
}

// forget drops the note of a keyset of which no piece is left.
func (c *Custodian) forget(d enclave.Digest) error {
	if err := os.Remove(filepath.Join(c.dealtDir(), fmt.Sprintf("%x.json", d[:]))); err != nil {
		return err
	}
	delete(c.dealt, d)
	failpoint.Hit(failpoint.KeysetForgotten)
	return durable.SyncDir(c.dealtDir())
}

// announceKey logs what this custodian is about to do with key material.
func (c *Custodian) announceKey(ctx context.Context, kind string, subject enclave.Digest) error {
	_, err := c.announce(ctx, enclave.Entry{Type: kind, Subject: subject, By: c.Name(), At: canon.At(c.cfg.Clock())})
	failpoint.Hit(failpoint.KeyAnnounced)
	return err
}

// Retire tells the custodian of a refresh that was registered: it erases the pieces of the keysets before, also if none
// of the new pieces is its own. A refresh that the log does not have changes nothing.
func (c *Custodian) Retire(ctx context.Context, refresh canon.Signed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.retire(ctx, refresh); err != nil {
		c.noteKey(ctx, refresh.Digest(), err)
		return fmt.Errorf("custodian %q: erasing what keyset %s replaces: %w", c.Name(), refresh.Digest().Short(), err)
	}
	return nil
}

// noteKey writes a refusal of what was asked about key material to the journal.
func (c *Custodian) noteKey(ctx context.Context, keyset enclave.Digest, err error) {
	var r *Refusal
	if !errors.As(err, &r) {
		return
	}
	r.Custodian = c.Name()
	line := Refused{Keyset: keyset, Rule: r.Rule.Error(), Text: r.Error(), At: canon.At(c.cfg.Clock())}
	var split *refusal.SplitViewError
	if errors.As(err, &split) {
		line.Evidence = []string{split.Seen, split.Offered}
	}
	c.note(ctx, line)
}

func (c *Custodian) retire(ctx context.Context, refresh canon.Signed) error {
	var ks enclave.Keyset
	by, err := c.Roster().VerifyPast(refresh, enclave.KindKeyset, operators.RoleSteward)
	if err == nil {
		err = refresh.Open(enclave.KindKeyset, &ks)
	}
	if err == nil {
		err = ks.Validate()
	}
	if err != nil {
		return refuse(ErrUnauthorized, "keyset").Because(err)
	}
	if err := c.readLog(ctx); err != nil {
		return err
	}
	if !c.follow.logged[entryKey{refresh.Digest(), enclave.EntryKeyset}] {
		return refuse(ErrNotLogged, "keyset %s", refresh.Digest().Short())
	}
	origin := lineage(&ks, refresh.Digest())
	for _, old := range c.of(origin) {
		if c.dealt[old].Owner != by.Body || ks.Owner != by.Body {
			return refuse(ErrForeignKeyset, "keyset %s is of %q", old.Short(), c.dealt[old].Owner)
		}
	}
	return c.eraseBefore(ctx, origin, ks.Epoch)
}

// Rotate wraps the pieces of a lineage under new wrapping keys and destroys the old ones, after logging that it will.
func (c *Custodian) Rotate(ctx context.Context, origin enclave.Digest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.of(origin)
	if len(held) == 0 {
		return fmt.Errorf("custodian %q: rotating: keyset %s: %w", c.Name(), origin.Short(), keys.ErrNoPiece)
	}
	for _, d := range held {
		err := c.announceKey(ctx, enclave.EntryRotation, d)
		if err == nil {
			err = c.cfg.Keys.Rotate(ctx, d)
			failpoint.Hit(failpoint.PiecesRotated)
		}
		if err != nil {
			return fmt.Errorf("custodian %q: %w", c.Name(), err)
		}
	}
	return nil
}

// Dispose destroys everything this custodian holds of a lineage, on an order of its owner's steward or of two officials and
// after its log entry, tries to use it, and returns its signed word of both. It is repeatable and gives the same bytes again.
func (c *Custodian) Dispose(ctx context.Context, order canon.Signed) (canon.Signed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.dispose(ctx, order)
	if err != nil {
		var o enclave.DisposalOrder
		_ = order.Open(enclave.KindDisposalOrder, &o) // whatever it is, it was refused
		c.noteKey(ctx, o.Keyset, err)
		return s, fmt.Errorf("custodian %q: disposing: %w", c.Name(), err)
	}
	return s, nil
}

func (c *Custodian) dispose(ctx context.Context, signed canon.Signed) (canon.Signed, error) {
	order, err := openOrder(signed, c.Roster())
	if err != nil {
		return canon.Signed{}, err
	}
	for _, d := range c.of(order.Keyset) {
		if ks := c.dealt[d]; ks.Owner != order.Owner || ks.Dataset != order.Dataset {
			return canon.Signed{}, refuse(ErrForeignKeyset, "the order is %q's for dataset %q, the keyset %q's for %q", order.Owner, order.Dataset, ks.Owner, ks.Dataset)
		}
	}
	held := c.of(order.Keyset)
	pieces := map[enclave.Digest]*enclave.Keyset{}
	for _, d := range held {
		pieces[d] = c.dealt[d]
	}
	if err := c.readLog(ctx); err != nil { // destroys, if the order is there
		return canon.Signed{}, err
	}
	if !c.follow.logged[entryKey{order.Keyset, enclave.EntryDisposal}] {
		return canon.Signed{}, refuse(ErrNotLogged, "disposal of keyset %s", order.Keyset.Short())
	}
	// One word for each order: a control plane that lost its records may be given another.
	on := signed.Digest()
	path := filepath.Join(c.cfg.Dir, "disposals", fmt.Sprintf("%x.json", on[:]))
	if stored, err := c.stored(path); err == nil {
		return stored, nil
	}
	out := enclave.Destruction{Order: on, Keyset: order.Keyset, Destroyed: []enclave.Destroyed{}, By: c.Name(), Made: canon.At(c.cfg.Clock())}
	for _, d := range held {
		gone, err := c.attempt(ctx, d, pieces[d])
		if err != nil {
			return canon.Signed{}, err
		}
		out.Destroyed = append(out.Destroyed, gone...)
	}
	word, err := keys.SealWith(c.cfg.Signer, enclave.KindDestruction, out)
	if err != nil {
		return word, err
	}
	if err := c.announceKey(ctx, enclave.EntryDestruction, word.Digest()); err != nil {
		return word, err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return word, err
	}
	err = durable.WriteFile(path, canon.MustMarshal(word), 0o600)
	failpoint.Hit(failpoint.WordStored)
	return word, err
}

// purge destroys every piece of a lineage that is here, and the copies of its blobs.
func (c *Custodian) purge(ctx context.Context, origin enclave.Digest) error {
	for _, d := range c.of(origin) {
		if err := c.cfg.Keys.Destroy(ctx, d); err != nil {
			return err
		}
		failpoint.Hit(failpoint.PiecesDestroyed)
	}
	clear(c.sessions)
	if err := c.cfg.Mirror.Drop(ctx, origin); err != nil {
		return fmt.Errorf("dropping copies of the blobs of keyset %s: %w", origin.Short(), err)
	}
	failpoint.Hit(failpoint.CopiesDropped)
	c.purged[origin] = true
	return nil
}

// attempt uses what was destroyed. That it fails, and with what words, is what is wanted.
func (c *Custodian) attempt(ctx context.Context, d enclave.Digest, ks *enclave.Keyset) (out []enclave.Destroyed, _ error) {
	me := slices.Index(ks.Custodians, c.Name())
	for i, p := range ks.Pieces {
		if !p.Holds(me) {
			continue
		}
		id := keys.PieceID{Keyset: d, Piece: i}
		data, err := c.cfg.Keys.Piece(ctx, id)
		clear(data)
		if err == nil {
			return nil, fmt.Errorf("piece %d of keyset %s can still be unwrapped", i, d.Short())
		}
		_, prf := c.cfg.Keys.PRF(ctx, id, []byte("disposed"))
		if !errors.Is(err, keys.ErrNoPiece) || !errors.Is(prf, keys.ErrNoPiece) {
			return nil, errors.Join(fmt.Errorf("whether piece %d of keyset %s is gone is not known", i, d.Short()), err, prf)
		}
		out = append(out, enclave.Destroyed{Keyset: d, Piece: i, Attempt: keys.ErrNoPiece.Error()})
	}
	return out, nil
}

// openOrder reads a disposal order, with the reason for a refusal.
func openOrder(signed canon.Signed, roster *operators.Roster) (*enclave.DisposalOrder, error) {
	order, err := enclave.OpenOrder(signed, roster)
	switch {
	case errors.Is(err, operators.ErrRole):
		return nil, refuse(ErrForeignKeyset, "who signed the order may not end this dataset").Because(err)
	case err != nil:
		return nil, refuse(ErrUnauthorized, "disposal order").Because(err)
	}
	return order, nil
}
