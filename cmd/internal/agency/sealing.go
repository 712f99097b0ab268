package agency

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// SealOptions adjust a sealing.
type SealOptions struct {
	Schema   *schema.Schema // nil = the dataset's registered one
	Forms    seal.Forms     // 0 = HE
	Project  string         // form Split: whose project key makes the pseudonyms
	Scenario enclave.Digest // form Split
	Table    table.Options
	Progress func(rows int64)
}

// Sealed tells an agency what became of its table.
type Sealed struct {
	Manifest *enclave.Manifest
	Digest   enclave.Digest
	Rows     int64
	Quality  *schema.Quality
	Bytes    int64
}

// Seal seals a file as the next version of a dataset. If anything is wrong with it, nothing changes; the report is
// returned along with the error when the table itself is at fault.
func (a *Agency) Seal(ctx context.Context, path, dataset string, opts SealOptions) (*Sealed, error) {
	d, err := a.owned(ctx, dataset)
	if err != nil {
		return nil, err
	}
	if d.Disposal != nil {
		return nil, fmt.Errorf("sealing dataset %q: %w: it was disposed of, for good", dataset, sandbox.ErrConflict)
	}
	version := int64(1)
	if d.Manifest != nil {
		version = d.Manifest.Version + 1
	}
	sc := opts.Schema
	if sc == nil {
		if sc, err = a.loadSchema(dataset, version-1); err != nil {
			return nil, err
		}
	}
	switch {
	case sc.Sealing.Dataset != dataset:
		return nil, fmt.Errorf("%w: the schema describes dataset %q, not %q", sandbox.ErrConflict, sc.Sealing.Dataset, dataset)
	case sc.Params() != d.Keyset.Params || sc.Sealing.EntityRows != d.Keyset.EntityRows || d.Keyset.Epoch == 1 && sc.BudgetMicro() != d.Keyset.BudgetMicro:
		return nil, fmt.Errorf("%w: dataset %q was registered with parameter set %s, %d row(s) per entity and budget ε %s; these belong to its key and cannot change",
			sandbox.ErrConflict, dataset, d.Keyset.Params, d.Keyset.EntityRows, enclave.FormatScaled(d.Keyset.BudgetMicro, 6))
	}
	params, err := he.Compile(d.Keyset.Params)
	if err != nil {
		return nil, err
	}
	key, err := a.ownKey(ctx, params, d)
	if err != nil {
		return nil, err
	}
	defer key.Erase()
	var sharing *seal.Sharing
	if opts.Forms&seal.Split != 0 {
		if sharing, err = a.sharing(ctx, d, opts); err != nil {
			return nil, err
		}
		defer clear(sharing.ProjectKey)
	}
	topts := opts.Table
	topts.Keys = sc.Keys()
	in, err := table.Open(path, topts)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	cfg := seal.Config{Table: in, Schema: sc, Key: key, Params: params, Keyset: d.KeysetDigest, Blobs: a.cfg.Blobs, Forms: opts.Forms, Shares: sharing, Workers: runtime.GOMAXPROCS(0), Progress: opts.Progress}
	res, err := seal.Seal(ctx, cfg)
	if err != nil {
		if res != nil && res.Quality != nil {
			return &Sealed{Quality: res.Quality}, fmt.Errorf("sealing %s as dataset %q: %w", filepath.Base(path), dataset, err)
		}
		return nil, fmt.Errorf("sealing %s as dataset %q: %w", filepath.Base(path), dataset, err)
	}
	failpoint.Hit(failpoint.BlobsStored)
	m, digest, err := a.publish(ctx, d, cfg, res, version)
	if err != nil {
		return nil, errors.Join(err, a.cfg.Sweep(context.WithoutCancel(ctx))) // blobs without a manifest, also when the caller has gone
	}
	out := &Sealed{Manifest: m, Digest: digest, Rows: res.Rows, Quality: res.Quality}
	for _, l := range m.Layouts {
		for _, v := range l.Vectors {
			out.Bytes += v.Bytes
		}
	}
	return out, nil
}

// ownKeyName is what a dataset's key is called in its owner's keyring.
func ownKeyName(d *lab.Dataset) string { return keyName(d.Name) + " " + d.KeysetDigest.String() }

// ownKey reads a dataset's key from its owner's keyring.
func (a *Agency) ownKey(ctx context.Context, params *he.Params, d *lab.Dataset) (*he.SecretKey, error) {
	secret, err := a.ring.Get(ctx, ownKeyName(d))
	if err != nil {
		return nil, fmt.Errorf("key of dataset %q: %w", d.Name, err)
	}
	defer clear(secret)
	return he.ParseSecretKey(params, secret)
}

// publish signs the manifest of a sealed table and hands it to the control plane, after its blobs.
func (a *Agency) publish(ctx context.Context, d *lab.Dataset, cfg seal.Config, res *seal.Result, version int64) (*enclave.Manifest, enclave.Digest, error) {
	signed, m, err := seal.Manifest(res, cfg, version, d.ManifestDigest, a.party.Body, cfg.Table.Format(), a.steward, canon.At(a.cfg.Clock()))
	if err != nil {
		return nil, enclave.Digest{}, err
	}
	if err := a.saveSchema(cfg.Schema, version); err != nil {
		return nil, enclave.Digest{}, err
	}
	if a.cfg.Send != nil {
		var blobs []enclave.Digest
		for _, l := range m.Layouts {
			for _, v := range l.Vectors {
				blobs = append(blobs, v.Blob)
			}
		}
		if err := a.cfg.Send(ctx, blobs); err != nil {
			return nil, enclave.Digest{}, err
		}
	}
	return m, signed.Digest(), a.cfg.Lab.Publish(ctx, signed)
}
