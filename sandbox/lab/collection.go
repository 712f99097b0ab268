package lab

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// Collections of reports: defined by an analyst, confirmed by a steward of the data's owner together with the list of
// reporters, delivered batch by batch by a steward, and counted by two custodians. The control plane carries ciphertexts.

// Collector has the leader of a collection count and release the batch of a dossier.
type Collector interface {
	Collect(ctx context.Context, b *enclave.CollectionBundle) (*Collected, error)
}

// Collected is a released batch as it leaves the aggregators.
type Collected struct {
	Release enclave.Signed // Collected, signed by both
	Table   []byte         // sealed to the analyst
	Proof   enclave.LogProof
}

// Collection is one as the lab has it on record.
type Collection struct {
	enclave.Collection
	Signed    enclave.Signed
	Digest    enclave.Digest
	Confirmed bool // by the data's owner, and logged: reporters may report
}

var collectionName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// DefineCollection takes a collection that its analyst has signed. Nobody can report to it before it is confirmed.
func (l *Lab) DefineCollection(ctx context.Context, s enclave.Signed) error {
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return err
	}
	c, err := enclave.OpenCollection(s, roster)
	switch {
	case errors.Is(err, operators.ErrSignature):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	case !collectionName.MatchString(c.Name):
		return fmt.Errorf("defining collection: %w: %q is not a name of small letters, digits, _ and - that begins with a letter", sandbox.ErrInvalid, c.Name)
	case len(s.Sigs) != 1:
		return fmt.Errorf("defining collection %q: %w: it carries %d signatures, want its analyst's alone", c.Name, sandbox.ErrInvalid, len(s.Sigs))
	}
	d, err := l.Dataset(ctx, c.Dataset)
	if err != nil {
		return fmt.Errorf("defining collection %q: %w", c.Name, err)
	}
	if d.Disposal != nil {
		return fmt.Errorf("defining collection %q: %w", c.Name, errDisposed)
	}
	if d.KeysetDigest != c.Keyset {
		return fmt.Errorf("defining collection %q: %w: dataset %q has keyset %s, not %s", c.Name, sandbox.ErrConflict, c.Dataset, d.KeysetDigest.Short(), c.Keyset.Short())
	}
	if err := aggregates(c, d.Keyset, roster); err != nil {
		return fmt.Errorf("defining collection %q: %w: %w", c.Name, sandbox.ErrInvalid, err)
	}
	st, err := l.statements(ctx)
	if err != nil {
		return err
	}
	g, err := operators.Authorize(st, operators.Request{Operator: c.Operator, Scenario: c.Scenario, Analyst: c.By, Now: l.cfg.Clock()})
	if err != nil {
		return err
	}
	if err := c.Granted(g); err != nil {
		return fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	}
	return l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
		all, err := collections(ctx, r)
		if err != nil {
			return err
		}
		for _, have := range all {
			if have.Name == c.Name && have.Digest != s.Digest() {
				return fmt.Errorf("defining collection %q: %w: there is one of this name", c.Name, sandbox.ErrConflict)
			}
		}
		_, err = r.PutArtefact(ctx, s, l.cfg.Clock())
		return err
	})
}

// aggregates checks that two custodians can do what every custodian will insist on.
func aggregates(c *enclave.Collection, ks *enclave.Keyset, roster *operators.Roster) error {
	for _, name := range c.Aggregators {
		p, ok := roster.Find(name)
		if !ok || p.Role != operators.RoleCustodian || p.Absent || !slices.Contains(ks.Custodians, name) {
			return fmt.Errorf("aggregator %q is not a custodian who holds keys of dataset %q; those are %q", name, c.Dataset, ks.Custodians)
		}
	}
	if ks.Quorum > len(c.Aggregators) {
		return fmt.Errorf("dataset %q needs %d custodians for each release, and a collection has two aggregators", c.Dataset, ks.Quorum)
	}
	return nil
}

// collections reads those on record, in the order in which they were defined. Confirmed is what signatures say.
func collections(ctx context.Context, r sandbox.Records) ([]Collection, error) {
	all, err := r.Artefacts(ctx, enclave.KindCollection)
	if err != nil {
		return nil, err
	}
	out := make([]Collection, len(all))
	for i, s := range all {
		out[i].Signed, out[i].Digest = s, s.Digest()
		if err := s.Open(enclave.KindCollection, &out[i].Collection); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Collections lists all, in the order in which they were defined.
func (l *Lab) Collections(ctx context.Context) ([]Collection, error) {
	all, err := collections(ctx, l.cfg.Store)
	if err != nil {
		return nil, err
	}
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		c := &all[i]
		_, ks, err := l.keyset(ctx, c.Keyset)
		if err != nil {
			return nil, err
		}
		if c.Confirmed = enclave.ConfirmedBy(c.Signed, roster, ks.Owner); !c.Confirmed {
			continue
		}
		if c.Confirmed, err = l.logged(ctx, sandbox.EntryFilter{Subject: c.Digest, Type: enclave.EntryCollection}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Collection finds one by name.
func (l *Lab) Collection(ctx context.Context, name string) (*Collection, error) {
	all, err := l.Collections(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("collection %q: %w: `lab collect list` names them", name, sandbox.ErrNotFound)
}

// ConfirmCollection adds the signature of a steward of the data's owner to a collection whose list of reporters has
// arrived. The log has it before anybody can report.
func (l *Lab) ConfirmCollection(ctx context.Context, s enclave.Signed) error {
	var body enclave.Collection
	if err := s.Open(enclave.KindCollection, &body); err != nil {
		return fmt.Errorf("confirming collection: %w: %w", sandbox.ErrInvalid, err)
	}
	c, err := l.Collection(ctx, body.Name)
	if err != nil {
		return err
	}
	if c.Digest != s.Digest() {
		return fmt.Errorf("confirming collection %q: %w: it is defined otherwise", c.Name, sandbox.ErrConflict)
	}
	d, err := l.Dataset(ctx, c.Dataset)
	if err != nil {
		return err
	}
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return err
	}
	by, ok := roster.Find(signerOf(s))
	switch {
	case d.Disposal != nil:
		return fmt.Errorf("confirming collection %q: %w", c.Name, errDisposed)
	case !ok || by.Absent || by.Role != operators.RoleSteward || by.Body != d.Keyset.Owner || len(s.Sigs) != 1 || s.Verify(by.Name, by.Key()) != nil:
		return fmt.Errorf("confirming collection %q: %w: want the signature of a steward of %q, alone", c.Name, operators.ErrSignature, d.Keyset.Owner)
	case !l.cfg.Blobs.Has(c.Enrolment):
		return fmt.Errorf("confirming collection %q: its list of reporters, %s, has not arrived: %w", c.Name, c.Enrolment.Short(), enclave.ErrNotFound)
	case c.Confirmed:
		return nil
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryCollection, Subject: c.Digest, By: by.Name, At: l.now()}); err != nil {
		return err
	}
	if enclave.ConfirmedBy(c.Signed, roster, d.Keyset.Owner) { // by a colleague, before a crash
		return nil
	}
	both := c.Signed
	both.Sigs = append(slices.Clone(both.Sigs), s.Sigs...)
	_, err = l.cfg.Store.PutArtefact(ctx, both, l.cfg.Clock())
	return err
}

func signerOf(s enclave.Signed) string {
	if len(s.Sigs) == 0 {
		return ""
	}
	return s.Sigs[0].By
}

// delivery is what was last delivered as a batch.
func (l *Lab) delivery(ctx context.Context, c *Collection, batch int64) (enclave.Signed, error) {
	all, err := l.cfg.Store.Artefacts(ctx, enclave.KindDelivery)
	if err != nil {
		return enclave.Signed{}, err
	}
	for _, s := range slices.Backward(all) {
		var d enclave.Delivery
		if err := s.Open(enclave.KindDelivery, &d); err != nil {
			return s, err
		}
		if d.Collection == c.Digest && d.Batch == batch {
			return s, nil
		}
	}
	return enclave.Signed{}, fmt.Errorf("reports of batch %d of collection %q: %w: a steward delivers them with `lab collect deliver`", batch, c.Name, sandbox.ErrNotFound)
}

// DeliverReports takes the reports of a batch, whose blobs have all arrived. Another delivery of a batch that was not
// charged yet takes the place of the one before.
func (l *Lab) DeliverReports(ctx context.Context, s enclave.Signed) error {
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return err
	}
	by, err := roster.Verify(s, enclave.KindDelivery, operators.RoleSteward)
	if err != nil {
		return err
	}
	var d enclave.Delivery
	if err := s.Open(enclave.KindDelivery, &d); err != nil {
		return err
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	}
	all, err := l.Collections(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(c Collection) bool { return c.Digest == d.Collection })
	if i < 0 {
		return fmt.Errorf("delivering reports: collection %s: %w", d.Collection.Short(), sandbox.ErrNotFound)
	}
	c := &all[i]
	ds, err := l.Dataset(ctx, c.Dataset)
	if err != nil {
		return err
	}
	fail := func(rule error, format string, args ...any) error {
		return fmt.Errorf("delivering batch %d of collection %q: %w: %s", d.Batch, c.Name, rule, fmt.Sprintf(format, args...))
	}
	switch _, err := l.Batch(ctx, c.Name, d.Batch); {
	case err == nil:
		return fail(sandbox.ErrConflict, "it was released")
	case !errors.Is(err, sandbox.ErrNotFound):
		return err
	case by.Body != ds.Keyset.Owner:
		return fail(operators.ErrRole, "dataset %q is of %q, %q acts for %q", c.Dataset, ds.Keyset.Owner, by.Name, by.Body)
	case ds.Disposal != nil:
		return fail(errDisposed, "dataset %q", c.Dataset)
	case !c.Confirmed:
		return fail(sandbox.ErrConflict, "a steward of %q has not confirmed the collection: `lab collect confirm %s`", ds.Keyset.Owner, c.Name)
	case d.Batch > c.Releases:
		return fail(sandbox.ErrInvalid, "it has %d releases", c.Releases)
	}
	release, err := l.cfg.Blobs.Hold()
	if err != nil {
		return fmt.Errorf("delivering batch %d of collection %q: %w", d.Batch, c.Name, err)
	}
	defer release()
	for _, b := range d.Blobs {
		if !l.cfg.Blobs.Has(b.Blob) {
			return fail(enclave.ErrNotFound, "blob %s has not arrived", b.Blob.Short())
		}
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryDelivery, Subject: s.Digest(), By: by.Name, At: l.now()}); err != nil {
		return err
	}
	_, err = l.cfg.Store.PutArtefact(ctx, s, l.cfg.Clock())
	return err
}

// CollectionBundle assembles everything behind a batch with proofs under the latest checkpoint: what custodians ask for,
// and, once it is released, the receipt that anyone can verify offline.
func (l *Lab) CollectionBundle(ctx context.Context, name string, batch int64) (*enclave.CollectionBundle, error) {
	c, err := l.Collection(ctx, name)
	if err != nil {
		return nil, err
	}
	st, err := l.statements(ctx)
	if err != nil {
		return nil, err
	}
	b := &enclave.CollectionBundle{Format: enclave.KindCollectionBundle, Roster: st.Roster, Statements: st.All, Collection: c.Signed}
	var needs []need
	switch done, err := l.Batch(ctx, name, batch); {
	case err == nil:
		b.Collected = done.Release
		if b.Delivery, err = l.cfg.Store.Artefact(ctx, enclave.KindDelivery, done.Delivery); err != nil {
			return nil, err
		}
		var out enclave.Collected
		if err := done.Release.Open(enclave.KindCollected, &out); err != nil {
			return nil, err
		}
		if b.Roster, err = l.rosterAt(ctx, out.Made); err != nil {
			return nil, err
		}
		needs = append(needs, need{done.Release.Digest(), enclave.EntryRelease})
	case !errors.Is(err, sandbox.ErrNotFound):
		return nil, err
	default:
		if b.Delivery, err = l.delivery(ctx, c, batch); err != nil {
			return nil, err
		}
	}
	needs = append(needs, need{b.Roster.Digest(), enclave.EntryRoster}, need{c.Digest, enclave.EntryCollection}, need{b.Delivery.Digest(), enclave.EntryDelivery})
	var sc operators.Scenario
	for _, s := range st.All {
		if s.Digest() == c.Scenario {
			if err := s.Open(operators.KindScenario, &sc); err != nil {
				return nil, err
			}
		}
	}
	b.Keysets, b.Proofs, err = l.behind(ctx, sc.Datasets, st.All, needs)
	return b, err
}

// Batch is a released batch on record.
type Batch struct {
	Release  enclave.Signed // Collected
	Delivery enclave.Digest // that was counted
	Table    []byte         // sealed to the analyst
}

// batchRecord is what a setting keeps of it.
type batchRecord struct {
	Release  enclave.Digest `json:"release"`
	Delivery enclave.Digest `json:"delivery"`
	Table    []byte         `json:"table"`
}

func batchSetting(collection enclave.Digest, batch int64) string {
	return fmt.Sprintf("collected %s %d", collection, batch)
}

// Batch finds a released batch.
func (l *Lab) Batch(ctx context.Context, name string, batch int64) (*Batch, error) {
	c, err := l.Collection(ctx, name)
	if err != nil {
		return nil, err
	}
	data, err := l.cfg.Store.Setting(ctx, batchSetting(c.Digest, batch))
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil, fmt.Errorf("batch %d of collection %q is not released: %w", batch, name, sandbox.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var r batchRecord
	if err := canon.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("batch %d of collection %q: %w: %w", batch, name, sandbox.ErrDamaged, err)
	}
	out := &Batch{Delivery: r.Delivery, Table: r.Table}
	out.Release, err = l.cfg.Store.Artefact(ctx, enclave.KindCollected, r.Release)
	return out, err
}

// ReleaseBatch has the aggregators count what was delivered as a batch and release it. A batch that was released is given
// again. It can be repeated after any failure.
func (l *Lab) ReleaseBatch(ctx context.Context, name string, batch int64) (*Batch, error) {
	if done, err := l.Batch(ctx, name, batch); err == nil || !errors.Is(err, sandbox.ErrNotFound) {
		return done, err
	}
	if l.cfg.Collector == nil {
		return nil, errors.New("this control plane reaches no aggregators")
	}
	b, err := l.CollectionBundle(ctx, name, batch)
	if err != nil {
		return nil, err
	}
	out, err := l.cfg.Collector.Collect(ctx, b)
	if err != nil {
		return nil, err
	}
	if err := l.index(ctx); err != nil {
		return nil, err
	}
	var c enclave.Collected
	if err := out.Release.Open(enclave.KindCollected, &c); err != nil {
		return nil, fmt.Errorf("batch %d of collection %q: %w", batch, name, err)
	}
	if c.Collection != b.Collection.Digest() || c.Batch != batch {
		return nil, fmt.Errorf("batch %d of collection %q: the aggregators answered with batch %d of %s", batch, name, c.Batch, c.Collection.Short())
	}
	err = l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
		at := batchSetting(c.Collection, batch)
		if _, err := r.Setting(ctx, at); !errors.Is(err, sandbox.ErrNotFound) {
			return err // another call was quicker: the first stays
		}
		if _, err := r.PutArtefact(ctx, out.Release, l.cfg.Clock()); err != nil {
			return err
		}
		return r.SetSetting(ctx, at, canon.MustMarshal(batchRecord{out.Release.Digest(), b.Delivery.Digest(), out.Table}))
	})
	if err != nil {
		return nil, err
	}
	return l.Batch(ctx, name, batch)
}

// collectionBlobs lists the blobs of every collection by the lineage whose data they are: lists of reporters and reports.
func collectionBlobs(ctx context.Context, r sandbox.Records) (map[enclave.Digest][]enclave.Digest, error) {
	all, err := collections(ctx, r)
	if err != nil {
		return nil, err
	}
	out, lineage := map[enclave.Digest][]enclave.Digest{}, map[enclave.Digest]enclave.Digest{}
	for _, c := range all {
		lineage[c.Digest] = c.Keyset
		out[c.Keyset] = append(out[c.Keyset], c.Enrolment)
	}
	deliveries, err := r.Artefacts(ctx, enclave.KindDelivery)
	if err != nil {
		return nil, err
	}
	for _, s := range deliveries {
		var d enclave.Delivery
		if err := s.Open(enclave.KindDelivery, &d); err != nil {
			return nil, err
		}
		for _, b := range d.Blobs {
			out[lineage[d.Collection]] = append(out[lineage[d.Collection]], b.Blob)
		}
	}
	return out, nil
}
