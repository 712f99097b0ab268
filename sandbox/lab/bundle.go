package lab

import (
	"context"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// dossier is what a job rests on, opened.
type dossier struct {
	signedPlan, signedGrant, signedManifest enclave.Signed

	plan     *enclave.Plan
	grant    *operators.Grant
	manifest *enclave.Manifest
	keyset   *enclave.Keyset

	signedOthers []enclave.Signed    // manifests of JOIN
	others       []*enclave.Manifest // opened
}

func (l *Lab) dossier(ctx context.Context, job sandbox.Job) (*dossier, error) {
	d := &dossier{plan: &enclave.Plan{}, grant: &operators.Grant{}}
	var err error
	if d.signedPlan, err = l.cfg.Store.Artefact(ctx, enclave.KindPlan, job.Plan); err != nil {
		return nil, fmt.Errorf("plan of job %s: %w", job.ID, err)
	}
	if err := d.signedPlan.Open(enclave.KindPlan, d.plan); err != nil {
		return nil, err
	}
	if d.signedGrant, err = l.cfg.Store.Artefact(ctx, operators.KindGrant, d.plan.Grant); err != nil {
		return nil, fmt.Errorf("grant of job %s: %w", job.ID, err)
	}
	if err := d.signedGrant.Open(operators.KindGrant, d.grant); err != nil {
		return nil, err
	}
	if d.signedManifest, d.manifest, err = l.manifest(ctx, d.plan.Manifest); err != nil {
		return nil, err
	}
	if d.plan.Joint != nil {
		for _, s := range d.plan.Joint.Sources[1:] {
			signed, m, err := l.manifest(ctx, s.Manifest)
			if err != nil {
				return nil, err
			}
			d.signedOthers, d.others = append(d.signedOthers, signed), append(d.others, m)
		}
	}
	_, d.keyset, err = l.keyset(ctx, d.plan.Keyset)
	return d, err
}

// Bundle assembles everything behind a job with proofs under the latest checkpoint: what custodians ask for, and, once
// the job is released, the receipt that anyone can verify offline.
func (l *Lab) Bundle(ctx context.Context, id sandbox.JobID) (*enclave.Bundle, error) {
	job, err := l.cfg.Store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	if job.Receipt.IsZero() {
		return nil, fmt.Errorf("job %s is %s and has no receipt yet: %w", id, job.State, sandbox.ErrNotFound)
	}
	d, err := l.dossier(ctx, job)
	if err != nil {
		return nil, err
	}
	st, err := l.statements(ctx)
	if err != nil {
		return nil, err
	}
	b := &enclave.Bundle{Format: enclave.KindBundle, Roster: st.Roster, Statements: st.All, Grant: d.signedGrant, Manifest: d.signedManifest, Manifests: d.signedOthers,
		Plan: d.signedPlan, Release: enclave.Signed{Kind: enclave.KindRelease, Body: []byte{}, Sigs: []canon.Signature{}}}
	if b.Receipt, err = l.cfg.Store.Artefact(ctx, enclave.KindReceipt, job.Receipt); err != nil {
		return nil, fmt.Errorf("receipt of job %s: %w", id, err)
	}
	if !job.Release.IsZero() {
		if b.Release, err = l.cfg.Store.Artefact(ctx, enclave.KindRelease, job.Release); err != nil {
			return nil, fmt.Errorf("release of job %s: %w", id, err)
		}
		var rel enclave.Release
		if err := b.Release.Open(enclave.KindRelease, &rel); err != nil {
			return nil, err
		}
		if b.Roster, err = l.rosterAt(ctx, rel.Made); err != nil {
			return nil, err
		}
	}
	needs := []need{{b.Roster.Digest(), enclave.EntryRoster}, {b.Manifest.Digest(), enclave.EntryManifest}, {job.Plan, enclave.EntryPlan}, {job.Receipt, enclave.EntryReceipt}}
	for _, s := range b.Manifests {
		needs = append(needs, need{s.Digest(), enclave.EntryManifest})
	}
	if !job.Release.IsZero() {
		needs = append(needs, need{job.Release, enclave.EntryRelease})
	}
	b.Keysets, b.Proofs, err = l.behind(ctx, d.grant.Datasets, st.All, needs)
	return b, err
}

// behind gathers what custodians want to see whatever is asked of them: the keysets of all datasets of the scenario, with
// proofs that those, all statements and what else is needed are in the log.
func (l *Lab) behind(ctx context.Context, uses []operators.DatasetUse, statements []enclave.Signed, needs []need) (keysets []enclave.Signed, proofs []enclave.LogProof, _ error) {
	keysets = []enclave.Signed{}
	for _, use := range uses {
		ds, err := l.cfg.Store.Dataset(ctx, use.Dataset)
		if err != nil {
			return nil, nil, fmt.Errorf("dataset %q: %w", use.Dataset, err)
		}
		all, err := l.lineage(ctx, ds.Keyset)
		if err != nil {
			return nil, nil, err
		}
		for _, ks := range all {
			keysets, needs = append(keysets, ks), append(needs, need{ks.Digest(), enclave.EntryKeyset})
		}
	}
	for _, s := range statements {
		needs = append(needs, need{s.Digest(), enclave.EntryStatement})
	}
	for _, n := range needs {
		p, err := l.prove(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		proofs = append(proofs, p)
	}
	return keysets, proofs, nil
}

// rosterAt finds the roster that was in force when a release was made: people who have left since had a say then.
func (l *Lab) rosterAt(ctx context.Context, made enclave.Time) (enclave.Signed, error) {
	all, err := l.cfg.Store.Statements(ctx, 0)
	if err != nil {
		return enclave.Signed{}, err
	}
	var best enclave.Signed
	serial := int64(0)
	for _, s := range all {
		var r operators.Roster
		if s.Signed.Kind == operators.KindRoster && s.Signed.Open(operators.KindRoster, &r) == nil && r.Serial > serial && !r.Made.After(made.Time) {
			best, serial = s.Signed, r.Serial
		}
	}
	if serial == 0 {
		return best, fmt.Errorf("no roster was in force at %s: %w", made.Format("2006-01-02 15:04:05"), sandbox.ErrNotFound)
	}
	return best, nil
}

type need struct {
	subject enclave.Digest
	kind    string
}

func (l *Lab) prove(ctx context.Context, n need) (enclave.LogProof, error) {
	have, err := l.cfg.Store.Entries(ctx, sandbox.EntryFilter{Subject: n.subject, Type: n.kind})
	if err != nil {
		return enclave.LogProof{}, err
	}
	if len(have) == 0 {
		return enclave.LogProof{}, fmt.Errorf("the log has no entry of %s %s: %w", n.kind, n.subject, sandbox.ErrNotFound)
	}
	p, err := l.cfg.Log.Prove(ctx, have[0].Index)
	if err != nil {
		return p, fmt.Errorf("proving %s %s: %w", n.kind, n.subject.Short(), err)
	}
	return p, nil
}
