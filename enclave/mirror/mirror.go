// Package mirror keeps a node's own checked copy of sealed blobs: a custodian's, for its own execution, or that of the
// node which runs workers. It holds no keys and opens nothing.
package mirror

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/failpoint"
)

// Mirror is a node's copy of blobs taken from elsewhere: another folder, or the control plane over the network.
// Every blob is hashed on its way in, parsed, compared with its manifest and, for rows, expanded once.
type Mirror struct {
	own   *store.Store
	from  store.Source
	files *evaluator.Files
}

// New keeps copies in own of blobs taken from a source. The two may be the same store: then nothing is copied, but
// everything is still checked once.
func New(own *store.Store, from store.Source) *Mirror {
	return &Mirror{own: own, from: from, files: evaluator.NewFiles(func(d enclave.Digest, kind string) string {
		if kind == evaluator.KindBlob {
			return own.Path(d)
		}
		return own.DerivedPath(d, kind)
	})}
}

// checkedKind marks a blob that was checked here: an empty-but-one-byte derived file.
const checkedKind = "checked"

// Fetch implements release.Mirror: it makes the blobs of a layout's vectors available here and checks them.
func (m *Mirror) Fetch(ctx context.Context, keyset enclave.Digest, params string, layout *enclave.Layout, vectors []int) error {
	for _, i := range vectors {
		v := layout.Vectors[i]
		if err := m.own.Pull(ctx, m.from, v.Blob, v.Bytes); err != nil {
			return fmt.Errorf("vector %q: %w", v.Name, err)
		}
		failpoint.Hit(failpoint.BlobCopied)
		if layout.Kind == enclave.Shares { // opened by the node, which has the key; here only its digest can be checked
			if err := m.whole(ctx, v.Blob); err != nil {
				return fmt.Errorf("vector %q: %w", v.Name, err)
			}
			failpoint.Hit(failpoint.BlobChecked)
			continue
		}
		b, err := m.files.Blob(v.Blob)
		if err != nil {
			return fmt.Errorf("vector %q: %w", v.Name, err)
		}
		if err := b.Matches(keyset, params, layout.Kind, v); err != nil {
			return err
		}
		if err := m.ingest(ctx, b, v); err != nil {
			return err
		}
		failpoint.Hit(failpoint.BlobChecked)
	}
	return nil
}

// ingest does once what makes a blob ready: hash it (if it was not copied here, which hashes too), scan its residues
// and expand it.
func (m *Mirror) ingest(ctx context.Context, b *evaluator.Blob, v enclave.Vector) error {
	err := m.own.Derive(v.Blob, checkedKind, 1, func(w io.WriterAt) error {
		if m.from == m.own {
			if err := m.own.Verify(ctx, v.Blob); err != nil {
				return err
			}
		}
		if err := b.CheckReduced(); err != nil {
			return err
		}
		_, err := w.WriteAt([]byte{1}, 0)
		return err
	})
	if err != nil {
		return err
	}
	if b.Header.Layout != enclave.Rows {
		return nil
	}
	return m.own.Derive(v.Blob, evaluator.KindPanel, b.Params.PanelBytes(b.Chunks), b.Expand)
}

// Stage implements lab.Inputs: it links what a worker needs into its input folder, named as enclave.TaskFile says.
func (m *Mirror) Stage(ctx context.Context, ks *enclave.Keyset, keyset enclave.Digest, layout *enclave.Layout, vectors []int, dir string) error {
	if err := m.Fetch(ctx, keyset, ks.Params, layout, vectors); err != nil {
		return err
	}
	kind := evaluator.KindBlob
	if layout.Kind == enclave.Rows {
		kind = evaluator.KindPanel
	}
	for _, v := range vectors {
		d := layout.Vectors[v].Blob
		if err := store.Stage(m.path(d, layout.Kind), dir, hex.EncodeToString(d[:])+"."+kind); err != nil {
			return err
		}
	}
	return nil
}

// Blob implements evaluator.Inputs.
func (m *Mirror) Blob(d enclave.Digest) (*evaluator.Blob, error) { return m.files.Blob(d) }

// Panel implements evaluator.Inputs.
func (m *Mirror) Panel(d enclave.Digest) (*evaluator.Panel, error) {
	b, err := m.files.Blob(d)
	if err != nil {
		return nil, err
	}
	return m.files.Panel(b.Params, d)
}

// path is where a blob or its panel lies, for staging a job's inputs.
func (m *Mirror) path(d enclave.Digest, layout string) string {
	if layout == enclave.Rows {
		return m.own.DerivedPath(d, evaluator.KindPanel)
	}
	return m.own.Path(d)
}

// Damaged implements release.Mirror: it hashes the blobs again and drops everything derived from them, so that a panel that
// went bad is expanded afresh at the next attempt. A bad blob is deleted here, to be copied and checked again.
func (m *Mirror) Damaged(ctx context.Context, blobs []enclave.Digest) []enclave.Digest {
	var bad []enclave.Digest
	for _, d := range blobs {
		err := m.own.Verify(ctx, d)
		if cerr := ctx.Err(); cerr != nil {
			return bad
		}
		drop := []error{m.files.Forget(d), m.own.DropDerived(d, evaluator.KindPanel), m.own.DropDerived(d, checkedKind)}
		if err != nil {
			bad = append(bad, d)
			if m.from != m.own {
				drop = append(drop, m.own.Delete(d))
			}
		}
		if errors.Join(drop...) != nil {
			bad = append(bad, d)
		}
	}
	return slices.Compact(bad)
}

// Drop implements release.Mirror: it deletes the copies of a lineage's blobs, whatever version they are of, and what was
// derived from them. Where the copies are the lab's own blobs, those are for the lab to delete.
func (m *Mirror) Drop(ctx context.Context, lineage enclave.Digest) error {
	if m.from == m.own {
		return nil
	}
	all, err := m.own.List()
	if err != nil {
		return err
	}
	for _, d := range all {
		of, err := m.lineage(ctx, d)
		if err != nil {
			return err
		}
		if of != lineage {
			continue
		}
		if err := errors.Join(m.files.Forget(d), m.own.Delete(d)); err != nil {
			return err
		}
	}
	return nil
}

// lineage reads which lineage a copy is of; of a damaged one it is nobody's.
func (m *Mirror) lineage(ctx context.Context, d enclave.Digest) (of enclave.Digest, _ error) {
	r, err := m.own.ReadBlob(ctx, d, 0)
	if err != nil {
		return of, err
	}
	defer r.Close()
	head, err := io.ReadAll(io.LimitReader(r, store.MaxHead))
	if err != nil {
		return of, err
	}
	if of, err = store.LineageOf(head); errors.Is(err, enclave.ErrBlob) {
		return enclave.Digest{}, nil
	}
	return of, err
}

// Close unmaps everything.
func (m *Mirror) Close() error { return m.files.Close() }

// whole hashes a blob once, if it was not hashed on its way in.
func (m *Mirror) whole(ctx context.Context, d enclave.Digest) error {
	return m.own.Derive(d, checkedKind, 1, func(w io.WriterAt) error {
		if err := m.own.Verify(ctx, d); err != nil {
			return err
		}
		_, err := w.WriteAt([]byte{1}, 0)
		return err
	})
}
