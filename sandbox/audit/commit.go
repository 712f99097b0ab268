package audit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/transparency-dev/tessera"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// request is one call of Append. Whoever removes it from Log.pending answers it.
type request struct {
	raws   [][]byte
	result chan result // capacity 1: the committer never waits for a caller
}

type result struct {
	proofs []enclave.LogProof
	err    error
}

// Append adds entries, in order and next to each other, and returns their proofs under one cosigned checkpoint. It
// returns an error unless every entry is integrated, signed, cosigned, stored and proved: the caller must then not do
// what the entries announce, though they may be in the log. If ctx ends before the round has begun, they are not.
func (l *Log) Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error) {
	raws := make([][]byte, len(entries))
	for i, e := range entries {
		raw, err := encode(e)
		if err != nil {
			return nil, fmt.Errorf("appending to audit log: %w", err)
		}
		raws[i] = raw
	}
	proofs, err := l.submit(ctx, &request{raws: raws, result: make(chan result, 1)})
	if err != nil {
		return nil, fmt.Errorf("appending to audit log: %w", err)
	}
	return proofs, nil
}

func encode(e enclave.Entry) ([]byte, error) {
	if e.Type == "" {
		return nil, errors.New("entry has no type")
	}
	raw, err := canon.Marshal(e)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxEntry {
		return nil, fmt.Errorf("%s entry has %d bytes, more than %d: shorten its reason", e.Type, len(raw), maxEntry)
	}
	return raw, nil
}

func (l *Log) submit(ctx context.Context, req *request) ([]enclave.LogProof, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, ErrClosed
	}
	if len(req.raws) == 0 {
		l.mu.Unlock()
		return nil, nil
	}
	l.pending = append(l.pending, req)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // already awake
	}
	select {
	case r := <-req.result:
		return r.proofs, r.err
	case <-ctx.Done():
		l.withdraw(req)
		return nil, ctx.Err()
	}
}

// withdraw removes a request whose caller left, if no round has taken it.
func (l *Log) withdraw(req *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.pending, req); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
	}
}

func (l *Log) take() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	reqs := l.pending
	l.pending = nil
	return reqs
}

// run is the committer: it answers all requests that wait with one round, then looks again. Close waits for it.
func (l *Log) run(ctx context.Context) {
	defer close(l.done)
	for {
		select {
		case <-l.wake:
			l.round(ctx)
		case <-l.stop:
			l.round(ctx) // none can follow: closed was set before stop
			return
		}
	}
}

// round answers, in one turn, all requests that wait by the time it comes. Their callers may leave until then.
func (l *Log) round(ctx context.Context) {
	if l.idle() {
		return
	}
	patience := 2 * l.timeout // a round of another process waits for the witness once or twice
	slow := time.AfterFunc(patience, func() { l.log.WarnContext(ctx, "another process holds the log", "dir", l.dir, "for", patience) })
	end, err := l.turn(ctx)
	slow.Stop()
	if err == nil {
		defer end()
		var cur state
		cur, err = l.refresh()
		l.witnessed = max(l.witnessed, cur.cp.Size)
	}
	reqs := l.take()
	if err != nil {
		for _, req := range reqs {
			req.result <- result{err: err}
		}
		return
	}
	l.commit(ctx, reqs)
}

func (l *Log) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) == 0
}

// commit takes requests through one round.
func (l *Log) commit(ctx context.Context, reqs []*request) {
	futures := make([][]tessera.IndexFuture, len(reqs))
	for i, req := range reqs {
		for _, raw := range req.raws {
			futures[i] = append(futures[i], l.add(ctx, tessera.NewEntry(raw)))
		}
	}
	indexes := make([][]int64, len(reqs))
	integrated := 0
	for i, req := range reqs {
		var err error
		if indexes[i], err = resolve(futures[i]); err != nil {
			req.result <- result{err: fmt.Errorf("integrating: %w", l.room(err))}
			continue
		}
		integrated++
	}
	if integrated == 0 {
		return
	}
	failpoint.Hit(failpoint.LogIntegrated)
	cur, err := l.advance(ctx)
	for i, req := range reqs {
		switch {
		case indexes[i] == nil: // answered above
		case err != nil:
			req.result <- result{err: err}
		default:
			proofs, err := l.proofs(cur, indexes[i], req.raws)
			req.result <- result{proofs: proofs, err: err}
		}
	}
}

func resolve(futures []tessera.IndexFuture) ([]int64, error) {
	indexes := make([]int64, len(futures))
	var errs error
	for i, f := range futures { // wait for all, even after an error: none may still be in flight when Close goes on
		index, err := f()
		if err != nil && errs == nil {
			errs = err
		}
		indexes[i] = int64(index.Index)
	}
	if errs != nil {
		return nil, errs
	}
	return indexes, nil
}

// advance has the integrated tree signed by the log and by the witness, stores the checkpoint and makes it current.
// Only Open and then the committer call it, in a turn.
func (l *Log) advance(ctx context.Context) (state, error) {
	n, err := l.integrated(ctx)
	if err != nil {
		return state{}, fmt.Errorf("reading tree state: %w", err)
	}
	l.mu.Lock()
	last := l.current
	l.mu.Unlock()
	if int64(n) == last.cp.Size && last.text != "" {
		return last, nil
	}
	if int64(n) < last.cp.Size {
		return state{}, fmt.Errorf("%w: tree state has %d entries, the cosigned checkpoint %d", ErrDamaged, n, last.cp.Size)
	}
	next := enclave.Checkpoint{Origin: l.keys.Origin, Size: int64(n)}
	tree := newTree(l.dir, next.Size)
	if next.Root, err = tree.root(); err != nil {
		return state{}, fmt.Errorf("hashing the tree of %d entries: %w", n, err)
	}
	// The entries added must be on disk as the tree has them, so that no fault of the disk or of Tessera is ever signed.
	for _, e := range tree.entries(ctx, next.Root, last.cp.Size, next.Size) {
		if e.err != nil {
			return state{}, fmt.Errorf("refusing to sign: %w", e.err)
		}
	}
	signed, err := note.Sign(&note.Note{Text: checkpointText(next)}, l.signer)
	if err != nil {
		return state{}, fmt.Errorf("signing checkpoint: %w", err)
	}
	failpoint.Hit(failpoint.LogSigned)
	text, err := l.cosign(ctx, tree, next, signed)
	if err != nil {
		return state{}, fmt.Errorf("having the checkpoint of %d entries witnessed by %q: %w", n, l.keys.Witness.Name(), err)
	}
	failpoint.Hit(failpoint.LogWitnessed)
	if err := durable.WriteFile(filepath.Join(l.dir, cosignedFile), []byte(text), 0o644); err != nil {
		return state{}, err
	}
	failpoint.Hit(failpoint.LogStored)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = state{text: text, cp: next}
	return l.current, nil
}

// proofs builds the proofs of entries and verifies each as its reader will, but for the signatures on the checkpoint: they
// were verified when it became current.
func (l *Log) proofs(cur state, indexes []int64, raws [][]byte) ([]enclave.LogProof, error) {
	hashes := newTree(l.dir, cur.cp.Size).under(cur.cp.Root)
	out := make([]enclave.LogProof, len(raws))
	for i, raw := range raws {
		path, err := tlog.ProveRecord(cur.cp.Size, indexes[i], hashes)
		if err != nil {
			return nil, fmt.Errorf("proving entry %d: %w", indexes[i], err)
		}
		p := enclave.LogProof{Entry: raw, Index: indexes[i], Path: digests(path), Checkpoint: cur.text}
		if _, err := p.Under(cur.cp); err != nil {
			return nil, fmt.Errorf("proving entry %d: %w", indexes[i], err)
		}
		out[i] = p
	}
	return out, nil
}

// digests converts a proof's hashes. It is never nil, as an empty path is written [] and not null.
func digests(hashes []tlog.Hash) []enclave.Digest {
	out := make([]enclave.Digest, len(hashes))
	for i, h := range hashes {
		out[i] = enclave.Digest(h)
	}
	return out
}
