package client

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/audit"
)

// Audited is what Fsck has verified.
type Audited struct {
	Checkpoint enclave.Checkpoint
	Note       string         // the checkpoint as log and witness signed it: what to remember for the next time
	Before     int64          // size of the checkpoint that was seen before, which this one extends; 0 = none
	Entries    map[string]int // by type
	Statements int            // signed by people of the roster, and in the log
	Keysets    int            // of all datasets: signed by their owners' stewards, in one line, in the log
	Manifests  int            // current ones: signed by the owners' stewards, in the log
	Disposals  int            // ordered by who may, in the log, with a certificate that verifies if there is one
	Releases   int            // in the log
	Whole      bool           // the caller may see every statement: the log announces no other than these
}

// Fsck reads the whole log and verifies all that it announces and the caller may see: both signatures on the checkpoint,
// every entry's place under its root, that it extends the checkpoint seen before (its signed note, or ""), and that roster,
// statements, datasets, disposals and releases are as the log has them. A log that went back or forked is a
// *refusal.SplitViewError with both notes, which is evidence by itself; whatever else does not hold is an
// enclave.ErrLogProof, or the error of a signature. A receipt is for `release.CheckRelease`.
func (c *Client) Fsck(ctx context.Context, seen string) (*Audited, error) {
	signed, roster, err := c.Roster(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := LogKeys(roster)
	if err != nil {
		return nil, err
	}
	out := &Audited{Entries: map[string]int{}}
	if out.Note, out.Checkpoint, err = c.Checkpoint(ctx); err != nil {
		return nil, err
	}
	all, err := c.extending(ctx, keys, seen, out)
	if err != nil {
		return nil, err
	}
	log := announced{}
	for _, r := range all {
		out.Entries[r.Entry.Type]++
		log[entryKey{r.Entry.Type, r.Entry.Subject}] = r.Index
	}
	if err := log.has(enclave.EntryRoster, signed.Digest(), "the roster"); err != nil {
		return nil, err
	}
	for _, check := range []func(context.Context, *operators.Roster, announced, *Audited) error{c.fsckStatements, c.fsckDatasets, c.fsckReleases} {
		if err := check(ctx, roster, log, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// extending reads the log and holds it against the checkpoint that was seen before.
func (c *Client) extending(ctx context.Context, keys enclave.LogKeys, seen string, out *Audited) ([]audit.Record, error) {
	var before enclave.Checkpoint
	if seen != "" {
		var err error
		if before, err = keys.Open(seen); err != nil {
			return nil, fmt.Errorf("the checkpoint seen before: %w", err)
		}
	}
	split := func(format string, a ...any) error {
		return &refusal.SplitViewError{Seen: seen, Offered: out.Note, Text: fmt.Sprintf("%v: %s", refusal.ErrLogFork, fmt.Sprintf(format, a...))}
	}
	if out.Checkpoint.Size < before.Size {
		return nil, split("%d entries were seen before, the log now has %d", before.Size, out.Checkpoint.Size)
	}
	all, tree, err := c.read(ctx, out.Checkpoint)
	if err != nil {
		return nil, err
	}
	if out.Before = before.Size; before.Size == 0 {
		return all, nil
	}
	root, err := tlog.TreeHash(before.Size, tree)
	if err != nil {
		return nil, err
	}
	if enclave.Digest(root) != before.Root {
		return nil, split("at %d entries its root is not the one seen before", before.Size)
	}
	return all, nil
}

type entryKey struct {
	kind    string
	subject enclave.Digest
}

// announced is what the log has entries of.
type announced map[entryKey]int64

func (a announced) has(kind string, subject enclave.Digest, what string) error {
	if _, ok := a[entryKey{kind, subject}]; !ok {
		return fmt.Errorf("%w: the lab shows %s, %s, and the log has no such %s", enclave.ErrLogProof, what, subject.Short(), kind)
	}
	return nil
}

// fsckStatements checks who signed each statement, and that it is in the log. Whoever may see all of them is owed all.
func (c *Client) fsckStatements(ctx context.Context, roster *operators.Roster, log announced, out *Audited) error {
	st, err := c.Statements(ctx)
	if err != nil {
		return err
	}
	shown := map[enclave.Digest]bool{}
	for _, s := range st.All {
		if _, err := roster.VerifyPast(s, s.Kind); err != nil {
			return err
		}
		if err := log.has(enclave.EntryStatement, s.Digest(), "a "+s.Kind); err != nil {
			return err
		}
		shown[s.Digest()] = true
	}
	out.Statements = len(shown)
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if out.Whole = info.Role == operators.RoleAuditor || info.Role == operators.RoleOfficial; !out.Whole {
		return nil
	}
	for key, index := range log {
		if key.kind == enclave.EntryStatement && !shown[key.subject] {
			return fmt.Errorf("%w: entry %d announces statement %s, which the lab does not show", enclave.ErrLogProof, index, key.subject.Short())
		}
	}
	return nil
}

// fsckDatasets checks keysets, current manifests and disposals. Their signatures are verified on their way in.
func (c *Client) fsckDatasets(ctx context.Context, roster *operators.Roster, log announced, out *Audited) error {
	a, err := c.catalog.ListDatasets(ctx, &labv1.ListDatasetsRequest{})
	if err != nil {
		return problem(err)
	}
	for _, m := range a.GetDatasets() {
		d, err := dataset(roster, m)
		if err != nil {
			return err
		}
		keysets, err := lineage(roster, m)
		if err != nil {
			return err
		}
		for _, s := range keysets {
			if err := log.has(enclave.EntryKeyset, s.Digest(), fmt.Sprintf("a keyset of dataset %q", d.Name)); err != nil {
				return err
			}
			out.Keysets++
		}
		if d.Manifest != nil {
			if err := log.has(enclave.EntryManifest, d.ManifestDigest, fmt.Sprintf("a manifest of dataset %q", d.Name)); err != nil {
				return err
			}
			out.Manifests++
		}
		if err := c.fsckDisposal(ctx, d.Name, d.KeysetDigest, d.Disposal != nil, log, out); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) fsckDisposal(ctx context.Context, name string, keyset enclave.Digest, ended bool, log announced, out *Audited) error {
	if index, logged := log[entryKey{enclave.EntryDisposal, keyset}]; logged && !ended {
		return fmt.Errorf("%w: entry %d ends dataset %q, which the lab shows as in use", enclave.ErrLogProof, index, name)
	}
	if !ended {
		return nil
	}
	what := fmt.Sprintf("dataset %q as disposed of", name)
	if err := log.has(enclave.EntryDisposal, keyset, what); err != nil {
		return err
	}
	d, err := c.Disposal(ctx, name)
	if err != nil {
		return err
	}
	if out.Disposals++; d.Receipt == nil {
		return nil
	}
	// A certificate that was made a moment ago may be in the log after the checkpoint that is looked at; its own proofs
	// were verified.
	cert := d.Receipt.Certificate.Digest()
	if last := d.Receipt.Proofs[len(d.Receipt.Proofs)-1]; last.Index >= out.Checkpoint.Size {
		return nil
	}
	return log.has(enclave.EntryCertificate, cert, what)
}

// fsckReleases checks that releases are in the log. Custodians' signatures are a matter of each release's receipt.
func (c *Client) fsckReleases(ctx context.Context, _ *operators.Roster, log announced, out *Audited) error {
	const page = 200
	ask := &labv1.ListReleasesRequest{Limit: page}
	for {
		a, err := c.release.ListReleases(ctx, ask)
		if err != nil {
			return problem(err)
		}
		for _, r := range a.GetReleases() {
			d, err := enclave.ParseDigest(r.GetDigest())
			if err != nil {
				return fmt.Errorf("release of job %q: %w", r.GetJob(), errors.Join(err, sandbox.ErrDamaged))
			}
			if err := log.has(enclave.EntryRelease, d, "a release of job "+r.GetJob()); err != nil {
				return err
			}
			out.Releases++
			ask.Before = r.GetJob()
		}
		if len(a.GetReleases()) < page {
			return nil
		}
	}
}
