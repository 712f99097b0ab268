package audit

import (
	"context"
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// Record is one entry with its place.
type Record struct {
	Index int64
	Entry enclave.Entry
	Raw   []byte // canonical Entry: the leaf's bytes
}

// Checkpoint returns the latest cosigned checkpoint, as the note's text and parsed.
func (l *Log) Checkpoint(ctx context.Context) (text string, cp enclave.Checkpoint, err error) {
	cur, err := l.latest(ctx)
	return cur.text, cur.cp, err
}

func (l *Log) latest(ctx context.Context) (state, error) {
	if err := ctx.Err(); err != nil {
		return state{}, err
	}
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return state{}, ErrClosed
	}
	return l.refresh()
}

// Keys returns what verifies this log's proofs.
func (l *Log) Keys() enclave.LogKeys { return l.keys }

// Prove proves the entry at an index under the latest cosigned checkpoint. An index that is not in it is
// enclave.ErrNotFound.
func (l *Log) Prove(ctx context.Context, index int64) (enclave.LogProof, error) {
	cur, err := l.latest(ctx)
	if err != nil {
		return enclave.LogProof{}, fmt.Errorf("proving entry %d: %w", index, err)
	}
	if index < 0 || index >= cur.cp.Size {
		return enclave.LogProof{}, fmt.Errorf("proving entry %d of %d: %w", index, cur.cp.Size, enclave.ErrNotFound)
	}
	for _, e := range newTree(l.dir, cur.cp.Size).entries(ctx, cur.cp.Root, index, index+1) {
		if e.err != nil {
			return enclave.LogProof{}, fmt.Errorf("proving entry %d: %w", index, e.err)
		}
		proofs, err := l.proofs(cur, []int64{index}, [][]byte{e.data})
		if err != nil {
			return enclave.LogProof{}, err
		}
		return proofs[0], nil
	}
	return enclave.LogProof{}, fmt.Errorf("proving entry %d: %w", index, enclave.ErrNotFound)
}

// Consistency proves that the log of to entries extends the log of from entries (RFC 6962, section 2.1.2), for
// enclave.CheckConsistency. Sizes beyond the latest cosigned checkpoint are enclave.ErrNotFound.
func (l *Log) Consistency(ctx context.Context, from, to int64) ([]enclave.Digest, error) {
	cur, err := l.latest(ctx)
	if err != nil {
		return nil, fmt.Errorf("proving consistency: %w", err)
	}
	if from < 0 || from > to {
		return nil, fmt.Errorf("proving consistency: no log of %d entries extends one of %d", to, from)
	}
	if to > cur.cp.Size {
		return nil, fmt.Errorf("proving consistency with %d of %d entries: %w", to, cur.cp.Size, enclave.ErrNotFound)
	}
	if from == 0 || from == to {
		return digests(nil), nil
	}
	// A proof between two earlier trees uses only hashes of full subtrees, which the latest tree holds and vouches for.
	path, err := tlog.ProveTree(to, from, newTree(l.dir, cur.cp.Size).under(cur.cp.Root))
	if err != nil {
		return nil, fmt.Errorf("proving that %d entries extend %d: %w", to, from, err)
	}
	return digests(path), nil
}

// Entries yields the entries from ≤ index < to, each checked against the cosigned checkpoint of the moment of the call
// of the iterator; to may not exceed its size. A yielded error is the last pair.
func (l *Log) Entries(ctx context.Context, from, to int64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		cur, err := l.latest(ctx)
		if err == nil && (from < 0 || from > to || to > cur.cp.Size) {
			err = fmt.Errorf("log has %d entries: %w", cur.cp.Size, enclave.ErrNotFound)
		}
		if err != nil {
			yield(Record{}, fmt.Errorf("reading entries %d to %d: %w", from, to, err))
			return
		}
		for i, e := range newTree(l.dir, cur.cp.Size).entries(ctx, cur.cp.Root, from, to) {
			r := Record{Index: i, Raw: e.data}
			err := e.err
			if err == nil {
				err = canon.Unmarshal(e.data, &r.Entry)
			}
			if err != nil {
				yield(Record{Index: i}, fmt.Errorf("reading entry %d: %w", i, err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}
