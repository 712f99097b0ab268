package release

import (
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
)

// A collection's batches pass the gate that jobs pass. Instead of a plan that is rebuilt and ciphertexts that are computed
// again, the question is a batch of a collection and what is opened the set of its good reports, on which two aggregators
// (package prio3), each beside its custodian, agree. Everything else is the same: authorised from signed statements and
// the log, charged by every active custodian in the one ledger of the dataset, opened once, signed, logged.

// CheckCollection is Check for a collection: everything that signatures, pure rules and the log can show, at the given time.
func CheckCollection(b *enclave.CollectionBundle, root ed25519.PublicKey, now time.Time) (*Dossier, error) {
	d := &Dossier{shown: shown(b.Statements)}
	if r := d.collection(b, root, now); r != nil {
		return nil, r
	}
	return d, nil
}

func (d *Dossier) collection(b *enclave.CollectionBundle, root ed25519.PublicKey, now time.Time) *Refusal {
	base := &enclave.Bundle{Roster: b.Roster, Statements: b.Statements, Keysets: b.Keysets, Proofs: b.Proofs}
	if r := d.roster(base, root); r != nil {
		return r
	}
	col, err := enclave.OpenCollection(b.Collection, d.Roster)
	if err != nil {
		return refuse(ErrUnauthorized, "collection %s", b.Collection.Digest().Short()).Because(err)
	}
	d.Collection = col
	owners, r := d.owners(base)
	if r != nil {
		return r
	}
	owner := owners[col.Dataset]
	ks, dealing, r := d.keyset(base, col.Keyset, owner, col.Dataset, 0)
	if r != nil {
		return r
	}
	d.Keyset, d.KeysetSum, d.Dealing = *ks, col.Keyset, dealing
	if !enclave.ConfirmedBy(b.Collection, d.Roster, owner) {
		return refuse(ErrUnauthorized, "collection %q: no steward of %q, which owns dataset %q, has confirmed it", col.Name, owner, col.Dataset)
	}
	if r := d.authorize(base, root, owners, operators.Request{Operator: col.Operator, Scenario: col.Scenario, Analyst: col.By, Now: now}); r != nil {
		return r
	}
	if err := col.Granted(&d.Grant); err != nil {
		return refuse(ErrUnauthorized, "collection %s", b.Collection.Digest().Short()).Because(err)
	}
	if now.After(col.NotAfter.Time) {
		return refuse(ErrUnauthorized, "collection %q ended at %s", col.Name, col.NotAfter.Format("2006-01-02 15:04:05"))
	}
	if err := b.Delivery.Open(enclave.KindDelivery, &d.Delivery); err != nil {
		return refuse(ErrDossier, "delivery").Because(err)
	}
	if by, err := d.Roster.VerifyPast(b.Delivery, enclave.KindDelivery, operators.RoleSteward); err != nil || by.Body != owner {
		return refuse(ErrUnauthorized, "the delivery of reports is not signed by a steward of %q", owner).Because(err)
	}
	if err := d.Delivery.Validate(); err != nil || d.Delivery.Collection != b.Collection.Digest() || d.Delivery.Batch > col.Releases {
		return refuse(ErrBatch, "the delivery is not of one of the %d batches of collection %q", col.Releases, col.Name).Because(err)
	}
	return d.proven(base, map[enclave.Digest]string{b.Collection.Digest(): enclave.EntryCollection, b.Delivery.Digest(): enclave.EntryDelivery})
}

// CheckCollected verifies a released batch as anyone can, offline: the chain at the time of the release, both
// aggregators' signatures, and the release's own log entry.
func CheckCollected(b *enclave.CollectionBundle, root ed25519.PublicKey) (*Dossier, *enclave.Collected, error) {
	var out enclave.Collected
	if err := b.Collected.Open(enclave.KindCollected, &out); err != nil {
		return nil, nil, refuse(ErrRelease, "content").Because(err)
	}
	d, err := CheckCollection(b, root, out.Made.Time)
	if err != nil {
		return nil, nil, err
	}
	if out.Collection != b.Collection.Digest() || out.Batch != d.Delivery.Batch || out.Scenario != d.Collection.Scenario || out.Grant != canon.DigestOf(d.Grant) || out.Keyset != d.KeysetSum ||
		!slices.Equal(out.Aggregators, d.Collection.Aggregators) {
		return nil, nil, refuse(ErrRelease, "it names other artefacts than the bundle holds")
	}
	for _, name := range out.Aggregators {
		p, ok := d.Roster.Find(name)
		if !ok || p.Role != operators.RoleCustodian || b.Collected.Verify(name, p.Key()) != nil {
			return nil, nil, refuse(ErrRelease, "aggregator %q has not signed it", name)
		}
	}
	proven, r := d.proofs(&enclave.Bundle{Proofs: b.Proofs})
	if r != nil {
		return nil, nil, r
	}
	if !proven[entryKey{b.Collected.Digest(), enclave.EntryRelease}] {
		return nil, nil, refuse(ErrNotLogged, "no proof that release %s was logged", b.Collected.Digest())
	}
	return d, &out, nil
}

// Collections is a custodian as the aggregator beside it asks it. It implements prio3.Gate.
type Collections struct{ c *Custodian }

// Collections is what an aggregator of collections at this custodian's body asks.
func (c *Custodian) Collections() Collections { return Collections{c} }

// question names what a batch asks, as a plan's digest names a job: under new keys it is asked, and charged, anew.
func question(d *Dossier, of enclave.Batch) enclave.Digest {
	return canon.DigestOf(struct {
		Kind       string         `json:"kind"`
		Collection enclave.Digest `json:"collection"`
		Batch      int64          `json:"batch"`
		Keyset     enclave.Digest `json:"keyset"`
		Epoch      int64          `json:"epoch"`
	}{"yingzhou.batch-question.v1", of.Collection, of.Number, d.KeysetSum, d.Keyset.Epoch})
}

// opening ties a batch to the one set of reports that may ever be opened as it, in whatever epoch.
func opening(of enclave.Batch) Opening {
	return Opening{Ciphertext: canon.DigestOf(of), Key: canon.DigestOf(struct {
		Kind       string         `json:"kind"`
		Collection enclave.Digest `json:"collection"`
		Batch      int64          `json:"batch"`
	}{"yingzhou.batch-key.v1", of.Collection, of.Number})}
}

// Check examines a dossier before any work is done for it.
func (g Collections) Check(ctx context.Context, b *enclave.CollectionBundle) error {
	c := g.c
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := CheckCollection(b, c.cfg.RootKey, c.cfg.Clock())
	if err == nil {
		err = c.hold(ctx, b.Roster, d)
	}
	if err == nil {
		if r := c.checkActive(d, slices.Sorted(slices.Values(d.Collection.Aggregators))); r != nil {
			err = r
		}
	}
	if err != nil {
		return c.record(ctx, b.Collection.Digest(), "", err)
	}
	return nil
}

// decide examines a dossier and a batch, and has f act on them. Every call of a batch does so again.
func (g Collections) decide(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch, f func(d *Dossier, active []string) error) error {
	c := g.c
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := CheckCollection(b, c.cfg.RootKey, c.cfg.Clock())
	subject := b.Collection.Digest() // of a refusal before there is a question
	if err == nil {
		subject = question(d, of)
		d.PlanDigest = subject
		err = c.hold(ctx, b.Roster, d)
	}
	if err == nil {
		err = c.batch(d, b.Collection.Digest(), of)
	}
	if err == nil {
		err = f(d, slices.Sorted(slices.Values(d.Collection.Aggregators)))
	}
	if err != nil {
		return c.record(ctx, subject, "", err)
	}
	return nil
}

// batch checks what a batch says against its collection and this custodian's ledger.
func (c *Custodian) batch(d *Dossier, collection enclave.Digest, of enclave.Batch) error {
	switch least := max(d.Collection.MinBatch, d.Grant.MinCohort); {
	case of.Collection != collection || of.Number != d.Delivery.Batch:
		return refuse(ErrBatch, "batch %d of collection %s is not the one delivered, batch %d of collection %q", of.Number, of.Collection.Short(), d.Delivery.Batch, d.Collection.Name)
	case of.Reports < least:
		return refuse(ErrBatch, "batch %d of collection %q has %d good reports, at least %d are needed", of.Number, d.Collection.Name, of.Reports, least)
	}
	return nil
}

// only refuses a batch of which other reports were charged before: one set of reports, one noise, one release.
func (c *Custodian) only(d *Dossier, o Opening) (payment, error) {
	have := c.ledger.paid(o.Key, d.KeysetSum, d.Keyset.Quorum, d.Grant.Scenario)
	if !have.ciphertext.IsZero() && have.ciphertext != o.Ciphertext {
		return have, refuse(ErrSecondCiphertext, "the batch was charged with other reports, %s; these are %s", have.ciphertext.Short(), o.Ciphertext.Short())
	}
	return have, nil
}

// Commit charges a batch whose good reports are agreed on: its ε to the dataset, to the scenario and to the scenario on the
// dataset. It may be repeated and charges once.
func (g Collections) Commit(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch) error {
	c := g.c
	return g.decide(ctx, b, of, func(d *Dossier, active []string) error {
		if r := c.checkActive(d, active); r != nil {
			return r
		}
		if err := c.merge(ctx, active); err != nil {
			return err
		}
		o := opening(of)
		have, err := c.only(d, o)
		if err != nil {
			return err
		}
		openings := int64(1)
		if have.counted {
			openings = 0
		}
		return c.pay(ctx, d, &Charge{Keyset: d.KeysetSum, Epoch: d.Keyset.Epoch, Scenario: d.Grant.Scenario,
			DatasetMicro: d.Collection.EpsilonMicro, ScenarioMicro: d.Collection.EpsilonMicro, Opens: []Opening{o}}, openings)
	})
}

// Opening gives what the aggregator needs for its total, once both aggregators' custodians have charged the batch.
func (g Collections) Opening(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch) (*enclave.BatchOpening, error) {
	c := g.c
	var out *enclave.BatchOpening
	err := g.decide(ctx, b, of, func(d *Dossier, active []string) error {
		charge, err := c.chargedByAll(ctx, d, active)
		if err == nil {
			_, err = c.only(d, opening(of))
		}
		if err != nil {
			return err
		}
		noise, err := c.ownNoise(ctx, d, "collection noise")
		if err != nil {
			return err
		}
		out = &enclave.BatchOpening{Grant: &d.Grant, Keyset: d.KeysetSum, ChargedMicro: charge.datasetMicro, Noise: [32]byte(noise)}
		clear(noise)
		return nil
	})
	return out, err
}

// Announce logs, before it happens, that the aggregator gives its total share (enclave.EntryShare) or leads a release
// (enclave.EntryRelease), and looks again at what the log has by then.
func (g Collections) Announce(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch, entry string, subject enclave.Digest) (proof enclave.LogProof, err error) {
	c := g.c
	err = g.decide(ctx, b, of, func(d *Dossier, active []string) error {
		if _, err := c.chargedByAll(ctx, d, active); err != nil {
			return err
		}
		proof, err = c.announce(ctx, enclave.Entry{Type: entry, Subject: subject, By: c.Name(), At: canon.At(c.cfg.Clock())})
		if err != nil {
			return err
		}
		return c.catchUp(ctx, d, proof)
	})
	return proof, err
}

// Endorse signs a batch's release that the aggregator has found to agree with both totals, after its log entry.
func (g Collections) Endorse(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch, out enclave.Collected, proof enclave.LogProof) (sig canon.Signature, err error) {
	c := g.c
	err = g.decide(ctx, b, of, func(d *Dossier, active []string) error {
		if _, err := c.chargedByAll(ctx, d, active); err != nil {
			return err
		}
		sum := canon.DigestOf(out)
		entry, cp, err := proof.Check(d.Keys)
		if err != nil || entry.Type != enclave.EntryRelease || entry.Subject != sum {
			return refuse(ErrNotLogged, "release %s", sum.Short()).Because(err)
		}
		if err := c.follow.check(cp); err != nil { // hold has read as far as the log goes
			return refuse(ErrLogFork, "release %s is in another log", sum.Short()).Because(err)
		}
		if !c.ledger.released(d.PlanDigest) {
			if _, err := c.ledger.append(Record{Type: recordRelease, Plan: d.PlanDigest, Release: sum, At: canon.At(c.cfg.Clock())}); err != nil {
				return err
			}
			failpoint.Hit(failpoint.ReleaseKept)
		}
		sig, err = c.cfg.Signer.Sign(enclave.KindCollected, canon.MustMarshal(out))
		return err
	})
	return sig, err
}
