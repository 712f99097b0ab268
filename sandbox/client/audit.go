package client

import (
	"context"
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/audit"
)

// SealedTable returns a released job's table as only its analyst can open it.
func (c *Client) SealedTable(ctx context.Context, id sandbox.JobID) (sandbox.SealedRelease, error) {
	a, err := c.release.GetRelease(ctx, &labv1.GetReleaseRequest{Job: string(id)})
	if err != nil {
		return sandbox.SealedRelease{}, problem(err)
	}
	d, err := enclave.ParseDigest(a.GetDigest())
	return sandbox.SealedRelease{Job: id, Release: d, Table: a.GetTable()}, err
}

// SignedRelease returns a job's release, with the signatures of a quorum of the roster's custodians verified.
func (c *Client) SignedRelease(ctx context.Context, job sandbox.Job) (enclave.Signed, error) {
	_, roster, err := c.Roster(ctx)
	if err != nil {
		return enclave.Signed{}, err
	}
	a, err := c.release.GetRelease(ctx, &labv1.GetReleaseRequest{Job: string(job.ID)})
	if err != nil {
		return enclave.Signed{}, problem(err)
	}
	signed, err := parse(a.GetRelease())
	if err != nil {
		return signed, fmt.Errorf("release of job %s: %w", job.ID, err)
	}
	var rel enclave.Release
	if err := signed.Open(enclave.KindRelease, &rel); err != nil {
		return signed, fmt.Errorf("release of job %s: %w", job.ID, err)
	}
	count := 0
	for _, p := range roster.Parties { // also one that has left since signed it
		if p.Role == operators.RoleCustodian && signed.Verify(p.Name, p.Key()) == nil {
			count++
		}
	}
	if count < roster.Quorum || rel.Job != string(job.ID) {
		return signed, fmt.Errorf("release of job %s: %w: it is of job %s, signed by %d custodians, want %d", job.ID, canon.ErrSignature, rel.Job, count, roster.Quorum)
	}
	return signed, nil
}

// Bundle returns everything behind a release. release.CheckRelease verifies it.
func (c *Client) Bundle(ctx context.Context, id sandbox.JobID) (*enclave.Bundle, error) {
	a, err := c.audit.GetReceipt(ctx, &labv1.GetReceiptRequest{Job: string(id)})
	if err != nil {
		return nil, problem(err)
	}
	b := &enclave.Bundle{}
	return b, canon.Unmarshal(a.GetBundle(), b)
}

// logKeys are the keys that sign checkpoints, from the roster.
func (c *Client) logKeys(ctx context.Context) (enclave.LogKeys, error) {
	_, roster, err := c.Roster(ctx)
	if err != nil {
		return enclave.LogKeys{}, err
	}
	return LogKeys(roster)
}

// LogKeys reads the keys that sign checkpoints from a roster.
func LogKeys(roster *operators.Roster) (enclave.LogKeys, error) {
	return audit.ParseKeys(roster.Log, roster.Witness)
}

// Checkpoint returns the log's latest checkpoint, verified.
func (c *Client) Checkpoint(ctx context.Context) (string, enclave.Checkpoint, error) {
	keys, err := c.logKeys(ctx)
	if err != nil {
		return "", enclave.Checkpoint{}, err
	}
	a, err := c.audit.GetHead(ctx, &labv1.GetHeadRequest{})
	if err != nil {
		return "", enclave.Checkpoint{}, problem(err)
	}
	cp, err := keys.Open(a.GetCheckpoint())
	return a.GetCheckpoint(), cp, err
}

// Entries yields the entries from ≤ index < to. It reads the whole log first and holds it against the latest checkpoint:
// an entry is worth nothing alone.
func (c *Client) Entries(ctx context.Context, from, to int64) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		all, err := c.whole(ctx)
		if err == nil && (from < 0 || from > to || to > int64(len(all))) {
			err = fmt.Errorf("reading entries %d to %d: log has %d: %w", from, to, len(all), enclave.ErrNotFound)
		}
		if err != nil {
			yield(audit.Record{}, err)
			return
		}
		for _, r := range all[from:to] {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// whole reads the log up to the latest checkpoint and recomputes its root.
func (c *Client) whole(ctx context.Context) ([]audit.Record, error) {
	_, cp, err := c.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	all, _, err := c.read(ctx, cp)
	return all, err
}

// read reads the log up to a checkpoint, recomputes its root, and returns its tree too.
func (c *Client) read(ctx context.Context, cp enclave.Checkpoint) (out []audit.Record, tree hashes, _ error) {
	for m, err := range received(c.audit.ListEntries(ctx, &labv1.ListEntriesRequest{To: cp.Size})) {
		if err != nil {
			return nil, nil, err
		}
		for _, raw := range m.GetEntries() {
			r := audit.Record{Index: int64(len(out)), Raw: raw}
			if err := canon.Unmarshal(raw, &r.Entry); err != nil {
				return nil, nil, fmt.Errorf("%w: entry %d: %w", enclave.ErrLogProof, r.Index, err)
			}
			hs, err := tlog.StoredHashes(r.Index, raw, tree)
			if err != nil {
				return nil, nil, fmt.Errorf("reading entry %d: %w", r.Index, err)
			}
			out, tree = append(out, r), append(tree, hs...)
		}
	}
	if int64(len(out)) != cp.Size {
		return nil, nil, fmt.Errorf("%w: the lab shows %d of %d entries", enclave.ErrLogProof, len(out), cp.Size)
	}
	root, err := tlog.TreeHash(cp.Size, tree)
	if err != nil {
		return nil, nil, err
	}
	if enclave.Digest(root) != cp.Root {
		return nil, nil, fmt.Errorf("%w: %d entries have another root than the checkpoint says", enclave.ErrLogProof, cp.Size)
	}
	return out, tree, nil
}

// hashes is tlog's stored-hash array in memory.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(h)) {
			return nil, fmt.Errorf("hash %d of %d", x, len(h))
		}
		out[i] = h[x]
	}
	return out, nil
}
