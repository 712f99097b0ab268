package lab

import (
	"context"
	"errors"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// Dataset is a lineage as the catalogue shows it.
type Dataset struct {
	Name           string
	Keyset         *enclave.Keyset   // in force: the first one, or its latest refresh
	KeysetDigest   enclave.Digest    // of the first one, which manifests and plans name
	Dealing        enclave.Digest    // of Keyset itself
	Manifest       *enclave.Manifest // nil before the first version is sealed
	ManifestDigest enclave.Digest
	Disposal       *enclave.DisposalOrder // nil while the dataset is in use
	DisposalDigest enclave.Digest
}

// Datasets lists the catalogue.
func (l *Lab) Datasets(ctx context.Context) ([]Dataset, error) {
	all, err := l.cfg.Store.Datasets(ctx)
	if err != nil {
		return nil, err
	}
	var out []Dataset
	for _, d := range all {
		ds, err := l.Dataset(ctx, d.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, *ds)
	}
	return out, nil
}

// Dataset finds a lineage with its keyset and current manifest.
func (l *Lab) Dataset(ctx context.Context, name string) (*Dataset, error) {
	d, err := l.cfg.Store.Dataset(ctx, name)
	if err != nil {
		return nil, err // says which dataset
	}
	out := &Dataset{Name: name, KeysetDigest: d.Keyset, ManifestDigest: d.Manifest}
	all, err := l.lineage(ctx, d.Keyset)
	if err != nil {
		return nil, err
	}
	if out.Keyset, out.Dealing, err = enclave.Lineage(d.Keyset, all, 0); err != nil {
		return nil, fmt.Errorf("dataset %q: %w", name, err)
	}
	disposed, err := disposals(ctx, l.cfg.Store)
	if err != nil {
		return nil, err
	}
	if o := disposed[d.Keyset]; o != nil {
		out.Disposal, out.DisposalDigest = &o.DisposalOrder, o.digest
	}
	if !d.Manifest.IsZero() {
		if _, out.Manifest, err = l.manifest(ctx, d.Manifest); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// lineage lists the keysets of a lineage in order of arrival.
func (l *Lab) lineage(ctx context.Context, origin enclave.Digest) (out []enclave.Signed, _ error) {
	all, err := l.cfg.Store.Artefacts(ctx, enclave.KindKeyset)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		var ks enclave.Keyset
		if err := s.Open(enclave.KindKeyset, &ks); err != nil {
			return nil, err
		}
		if s.Digest() == origin || ks.Origin == origin {
			out = append(out, s)
		}
	}
	return out, nil
}

// Lineage lists the keysets of a dataset, the oldest first.
func (l *Lab) Lineage(ctx context.Context, dataset string) ([]enclave.Signed, error) {
	d, err := l.cfg.Store.Dataset(ctx, dataset)
	if err != nil {
		return nil, err
	}
	return l.lineage(ctx, d.Keyset)
}

// RegisterKeyset takes a keyset that an agency dealt: from then on the dataset's name is the agency's. A refresh of the
// keyset in force takes its place, for plans made from then on.
func (l *Lab) RegisterKeyset(ctx context.Context, s enclave.Signed) error {
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return err
	}
	by, err := roster.Verify(s, enclave.KindKeyset, operators.RoleSteward)
	if err != nil {
		return err
	}
	var ks enclave.Keyset
	if err := s.Open(enclave.KindKeyset, &ks); err != nil {
		return err
	}
	if err := ks.Validate(); err != nil {
		return fmt.Errorf("registering dataset %q: %w", ks.Dataset, err)
	}
	if by.Body != ks.Owner {
		return fmt.Errorf("registering dataset %q: steward %q acts for %q, not for %q", ks.Dataset, by.Name, by.Body, ks.Owner)
	}
	if !ks.Origin.IsZero() {
		return l.refresh(ctx, s, &ks)
	}
	switch d, err := l.cfg.Store.Dataset(ctx, ks.Dataset); {
	case err == nil && d.Keyset != s.Digest():
		return fmt.Errorf("registering dataset %q: %w: the name is taken by another keyset", ks.Dataset, sandbox.ErrConflict)
	case err != nil && !errors.Is(err, sandbox.ErrNotFound):
		return err
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryKeyset, Subject: s.Digest(), By: by.Name, At: l.now()}); err != nil {
		return err
	}
	failpoint.Hit(failpoint.KeysetLogged)
	err = l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
		if _, err := r.PutArtefact(ctx, s, l.cfg.Clock()); err != nil {
			return err
		}
		return r.BindKeyset(ctx, ks.Dataset, s.Digest())
	})
	failpoint.Hit(failpoint.KeysetStored)
	return err
}

func (l *Lab) refresh(ctx context.Context, s enclave.Signed, ks *enclave.Keyset) error {
	d, err := l.Dataset(ctx, ks.Dataset)
	if err != nil {
		return fmt.Errorf("refreshing: %w", err)
	}
	if d.Dealing == s.Digest() {
		return nil // a repeated call
	}
	if d.Disposal != nil {
		return fmt.Errorf("refreshing dataset %q: %w", ks.Dataset, errDisposed)
	}
	if err := ks.Refreshes(d.Keyset, d.Dealing, d.KeysetDigest); err != nil {
		return fmt.Errorf("%w: %w", sandbox.ErrConflict, err)
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryKeyset, Subject: s.Digest(), By: ks.By, At: l.now()}); err != nil {
		return err
	}
	failpoint.Hit(failpoint.KeysetLogged)
	_, err = l.cfg.Store.PutArtefact(ctx, s, l.cfg.Clock())
	failpoint.Hit(failpoint.KeysetStored)
	return err
}

// Publish takes a sealed version whose blobs have all arrived.
func (l *Lab) Publish(ctx context.Context, s enclave.Signed) error {
	_, roster, err := l.Roster(ctx)
	if err != nil {
		return err
	}
	by, err := roster.Verify(s, enclave.KindManifest, operators.RoleSteward)
	if err != nil {
		return err
	}
	var m enclave.Manifest
	if err := s.Open(enclave.KindManifest, &m); err != nil {
		return err
	}
	d, err := l.Dataset(ctx, m.Dataset)
	if err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	version := int64(1)
	if d.Manifest != nil {
		version = d.Manifest.Version + 1
	}
	switch {
	case by.Body != m.Owner || m.Owner != d.Keyset.Owner || m.Keyset != d.KeysetDigest:
		return fmt.Errorf("publishing dataset %q: steward %q of %q cannot publish under keyset %s of %q", m.Dataset, by.Name, by.Body, d.KeysetDigest.Short(), d.Keyset.Owner)
	case d.ManifestDigest == s.Digest():
		return nil // a repeated call
	case d.Disposal != nil:
		return fmt.Errorf("publishing dataset %q: %w", m.Dataset, errDisposed)
	case m.Version != version || m.Previous != d.ManifestDigest:
		return fmt.Errorf("publishing dataset %q: %w: version %d was sealed after another version than the current one", m.Dataset, sandbox.ErrConflict, m.Version)
	}
	release, err := l.cfg.Blobs.Hold()
	if err != nil {
		return fmt.Errorf("publishing dataset %q: %w", m.Dataset, err)
	}
	defer release()
	for _, layout := range m.Layouts {
		for _, v := range layout.Vectors {
			if !l.cfg.Blobs.Has(v.Blob) {
				return fmt.Errorf("publishing dataset %q: vector %q: blob %s has not arrived: %w", m.Dataset, v.Name, v.Blob.Short(), enclave.ErrNotFound)
			}
		}
	}
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryManifest, Subject: s.Digest(), By: by.Name, At: l.now()}); err != nil {
		return err
	}
	failpoint.Hit(failpoint.ManifestLogged)
	err = l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
		if _, err := r.PutArtefact(ctx, s, l.cfg.Clock()); err != nil {
			return err
		}
		return r.Publish(ctx, m.Dataset, m.Previous, s.Digest())
	})
	failpoint.Hit(failpoint.ManifestStored)
	return err
}

// NamedBlobs are the blobs that manifests, collections and deliveries of reports name, those of datasets that were disposed
// of aside: all that a lab needs.
func NamedBlobs(ctx context.Context, records sandbox.Records) (map[enclave.Digest]bool, error) {
	manifests, err := records.Artefacts(ctx, enclave.KindManifest)
	if err != nil {
		return nil, err
	}
	disposed, err := disposals(ctx, records)
	if err != nil {
		return nil, err
	}
	named := map[enclave.Digest]bool{}
	for _, s := range manifests {
		var m enclave.Manifest
		if err := s.Open(enclave.KindManifest, &m); err != nil {
			return nil, err
		}
		if disposed[m.Keyset] != nil {
			continue
		}
		for _, layout := range m.Layouts {
			for _, v := range layout.Vectors {
				named[v.Blob] = true
			}
		}
	}
	reports, err := collectionBlobs(ctx, records)
	if err != nil {
		return nil, err
	}
	for lineage, blobs := range reports {
		for _, d := range blobs {
			if disposed[lineage] == nil {
				named[d] = true
			}
		}
	}
	return named, nil
}

// SignedDataset returns what a dataset's owner signed: its keyset, and its current manifest or an envelope without kind.
func (l *Lab) SignedDataset(ctx context.Context, name string) (keyset, manifest enclave.Signed, err error) {
	d, err := l.cfg.Store.Dataset(ctx, name)
	if err != nil {
		return keyset, manifest, err
	}
	if keyset, _, err = l.keyset(ctx, d.Keyset); err != nil || d.Manifest.IsZero() {
		return keyset, manifest, err
	}
	manifest, _, err = l.manifest(ctx, d.Manifest)
	return keyset, manifest, err
}

// SignedRelease returns a released job's release as the custodians signed it.
func (l *Lab) SignedRelease(ctx context.Context, job sandbox.Job) (enclave.Signed, error) {
	if job.Release.IsZero() {
		return enclave.Signed{}, fmt.Errorf("job %s is %s and has no release: %w", job.ID, job.State, sandbox.ErrNotFound)
	}
	return l.cfg.Store.Artefact(ctx, enclave.KindRelease, job.Release)
}
