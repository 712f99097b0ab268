package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

// filing is the statements of one of the two tables of envelopes, which have the same columns.
type filing struct {
	find, insert, replace string
	ordered               bool // places are handed out in the order in which they can be seen
	pending               bool // what is filed may have been kept as pending
}

var (
	statementFiling = filing{
		find:    "SELECT seq, envelope FROM statements WHERE kind = $1 AND digest = $2",
		insert:  "INSERT INTO statements (kind, digest, envelope, recorded) VALUES ($1, $2, $3, $4) RETURNING seq",
		replace: "UPDATE statements SET envelope = $1 WHERE seq = $2",
		ordered: true,
		pending: true,
	}
	artefactFiling = filing{
		find:    "SELECT seq, envelope FROM artefacts WHERE kind = $1 AND digest = $2",
		insert:  "INSERT INTO artefacts (kind, digest, envelope, recorded) VALUES ($1, $2, $3, $4) RETURNING seq",
		replace: "UPDATE artefacts SET envelope = $1 WHERE seq = $2",
	}
)

// encode gives the stored form of an envelope.
func encode(s enclave.Signed, at time.Time) ([]byte, error) {
	if s.Kind == "" || len(s.Body) == 0 || at.IsZero() {
		return nil, fmt.Errorf("%w: an envelope needs a kind, a body and a time", sandbox.ErrInvalid)
	}
	data, err := canon.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w", s.Kind, s.Digest(), sandbox.ErrInvalid, err)
	}
	if _, err := envelope(s.Kind, s.Digest(), data); err != nil {
		return nil, fmt.Errorf("%w: it would not parse again", sandbox.ErrInvalid)
	}
	return data, nil
}

// file keeps an envelope, merging signatures with the one that is there.
func (t tables) file(ctx context.Context, to filing, s enclave.Signed, at time.Time) (seq int64, err error) {
	d := s.Digest()
	data, err := encode(s, at)
	if err != nil {
		return 0, err
	}
	err = t.write(ctx, func(q querier) error {
		if to.pending {
			if _, err := q.exec(ctx, dropPending, s.Kind, d.String()); err != nil {
				return err
			}
		}
		var old []byte
		err := q.row(ctx, to.find, s.Kind, d.String()).Scan(&seq, &old)
		if errors.Is(err, sql.ErrNoRows) {
			if to.ordered && t.arrive != "" {
				if _, err := q.exec(ctx, t.arrive); err != nil {
					return err
				}
			}
			return q.row(ctx, to.insert, s.Kind, d.String(), data, at.UnixMicro()).Scan(&seq)
		}
		if err != nil {
			return err
		}
		stored, err := envelope(s.Kind, d, old)
		if err != nil {
			return err
		}
		_, replaced, err := sandbox.MergeSigned(stored, s)
		if err != nil || !replaced {
			return err
		}
		return one(q.exec(ctx, to.replace, data, seq))
	})
	return seq, err
}

// AppendStatement implements sandbox.Records.
func (t tables) AppendStatement(ctx context.Context, s enclave.Signed, at time.Time) (seq int64, err error) {
	seq, err = t.file(ctx, statementFiling, s, at)
	return seq, named(err, "recording statement")
}

// KeepPending implements sandbox.Records.
func (t tables) KeepPending(ctx context.Context, s enclave.Signed, at time.Time) error {
	data, err := encode(s, at)
	if err != nil {
		return named(err, "keeping statement")
	}
	return named(t.write(ctx, func(q querier) error {
		return one(q.exec(ctx, `INSERT INTO pending (kind, digest, envelope, recorded) VALUES ($1, $2, $3, $4)
			ON CONFLICT (kind, digest) DO UPDATE SET envelope = excluded.envelope, recorded = excluded.recorded`, s.Kind, s.Digest().String(), data, at.UnixMicro()))
	}), "keeping statement")
}

// Pending implements sandbox.Records.
func (t tables) Pending(ctx context.Context) ([]sandbox.Statement, error) {
	out, err := collect(ctx, t.read, func(r row) (s sandbox.Statement, err error) {
		var kind string
		var d enclave.Digest
		var data []byte
		if err := r.Scan(&kind, digest{&d}, &data, instant{&s.Recorded}); err != nil {
			return s, err
		}
		s.Signed, err = envelope(kind, d, data)
		return s, err
	}, "SELECT kind, digest, envelope, recorded FROM pending ORDER BY recorded, digest")
	return out, named(err, "listing statements on their way")
}

const dropPending = "DELETE FROM pending WHERE kind = $1 AND digest = $2"

// DropPending implements sandbox.Records.
func (t tables) DropPending(ctx context.Context, kind string, d enclave.Digest) error {
	return named(t.write(ctx, func(q querier) error {
		_, err := q.exec(ctx, dropPending, kind, d.String())
		return err
	}), "forgetting statement")
}

// Statements implements sandbox.Records.
func (t tables) Statements(ctx context.Context, after int64) ([]sandbox.Statement, error) {
	out, err := collect(ctx, t.read, func(r row) (s sandbox.Statement, err error) {
		var kind string
		var d enclave.Digest
		var data []byte
		if err := r.Scan(&s.Seq, &kind, digest{&d}, &data, instant{&s.Recorded}); err != nil {
			return s, err
		}
		s.Signed, err = t.parsed.envelope(kind, d, data)
		return s, err
	}, "SELECT seq, kind, digest, envelope, recorded FROM statements WHERE seq > $1 ORDER BY seq", after)
	return out, named(err, "listing statements")
}

// PutArtefact implements sandbox.Records.
func (t tables) PutArtefact(ctx context.Context, s enclave.Signed, at time.Time) (enclave.Digest, error) {
	if _, err := t.file(ctx, artefactFiling, s, at); err != nil {
		return enclave.Digest{}, named(err, "recording artefact")
	}
	return s.Digest(), nil
}

// Artefact implements sandbox.Records.
func (t tables) Artefact(ctx context.Context, kind string, d enclave.Digest) (enclave.Signed, error) {
	var seq int64
	var data []byte
	err := t.read.row(ctx, artefactFiling.find, kind, d.String()).Scan(&seq, &data)
	if err != nil {
		return enclave.Signed{}, find(err, fmt.Sprintf("%s %s", kind, d))
	}
	if kind == enclave.KindKeyset || kind == enclave.KindManifest { // others are read a few times, soon after they were stored
		return t.parsed.envelope(kind, d, data)
	}
	return envelope(kind, d, data)
}

// Artefacts implements sandbox.Records.
func (t tables) Artefacts(ctx context.Context, kind string) ([]enclave.Signed, error) {
	out, err := collect(ctx, t.read, func(r row) (enclave.Signed, error) {
		var d enclave.Digest
		var data []byte
		if err := r.Scan(digest{&d}, &data); err != nil {
			return enclave.Signed{}, err
		}
		return t.parsed.envelope(kind, d, data)
	}, "SELECT digest, envelope FROM artefacts WHERE kind = $1 ORDER BY seq", kind)
	return out, named(err, "listing artefacts")
}

// BindKeyset implements sandbox.Records.
func (t tables) BindKeyset(ctx context.Context, dataset string, keyset enclave.Digest) error {
	what := fmt.Sprintf("dataset %q", dataset)
	if dataset == "" || keyset.IsZero() {
		return fmt.Errorf("%s: %w: it needs a name and a keyset", what, sandbox.ErrInvalid)
	}
	return named(t.write(ctx, func(q querier) error {
		old, err := scanDataset(q.row(ctx, datasetByName, dataset))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return one(q.exec(ctx, "INSERT INTO datasets (name, keyset) VALUES ($1, $2)", dataset, text(keyset)))
		case err != nil:
			return err
		case old.Keyset != keyset:
			return fmt.Errorf("%w: its keyset is %s, for good; seal under a new dataset name instead", sandbox.ErrConflict, old.Keyset)
		}
		return nil
	}), what)
}

// Publish implements sandbox.Records.
func (t tables) Publish(ctx context.Context, dataset string, previous, manifest enclave.Digest) error {
	what := fmt.Sprintf("publishing dataset %q", dataset)
	if manifest.IsZero() || manifest == previous {
		return fmt.Errorf("%s: %w: a new version needs a manifest of its own", what, sandbox.ErrInvalid)
	}
	return named(t.write(ctx, func(q querier) error {
		old, err := scanDataset(q.row(ctx, datasetByName, dataset))
		switch {
		case err != nil:
			return find(err, "keyset")
		case old.Manifest == manifest:
			return nil
		case old.Manifest != previous:
			return fmt.Errorf("%w: another version is current", sandbox.ErrConflict)
		}
		return one(q.exec(ctx, "UPDATE datasets SET manifest = $1 WHERE name = $2", text(manifest), dataset))
	}), what)
}

const datasetByName = "SELECT name, keyset, manifest FROM datasets WHERE name = $1"

func scanDataset(r row) (d sandbox.Dataset, err error) {
	err = r.Scan(&d.Name, digest{&d.Keyset}, digest{&d.Manifest})
	return d, err
}

// Dataset implements sandbox.Records.
func (t tables) Dataset(ctx context.Context, name string) (sandbox.Dataset, error) {
	d, err := scanDataset(t.read.row(ctx, datasetByName, name))
	return d, find(err, fmt.Sprintf("dataset %q", name))
}

// Datasets implements sandbox.Records.
func (t tables) Datasets(ctx context.Context) ([]sandbox.Dataset, error) {
	out, err := collect(ctx, t.read, scanDataset, "SELECT name, keyset, manifest FROM datasets ORDER BY name")
	return out, named(err, "listing datasets")
}
