package prio3

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// Peer is the helper of one batch as the leader calls it: a Session, here or at another body.
type Peer interface {
	Name() string
	// Join takes the leader's verification key.
	Join(ctx context.Context, invitation canon.Signed) error
	// Begin starts or restarts a batch. One whose total was given here can be prepared again, because the other aggregator
	// may have gone before it gave its own, or was put back from an old copy.
	Begin(ctx context.Context, number int64) error
	// Prepare checks the next chunk of the helper's own copy of the reports, takes the leader's prep shares and answers with
	// its own.
	Prepare(ctx context.Context, leader canon.Signed) (canon.Signed, error)
	// Commit checks the leader's summary of the batch and has the batch charged.
	Commit(ctx context.Context, summary canon.Signed) error
	// Finish checks the leader's summary of the batch and gives the noised total share.
	Finish(ctx context.Context, summary canon.Signed) (canon.Signed, error)
	// Endorse signs a result that agrees with both total shares, after its log entry.
	Endorse(ctx context.Context, c enclave.Collected, proof enclave.LogProof, leader canon.Signed) (canon.Signature, error)
}

// Reports yields reports in the order of their delivery until io.EOF.
type Reports func() ([]byte, error)

// Session helps with one batch. It is for one caller at a time.
type Session struct {
	a    *Aggregator
	b    *enclave.CollectionBundle
	open func() (Reports, error) // from the beginning
	next Reports
}

// Session makes the helper's side of a batch. open gives the helper's own copy of the reports, from the beginning.
func (a *Aggregator) Session(b *enclave.CollectionBundle, open func() (Reports, error)) *Session {
	return &Session{a: a, b: b, open: open}
}

var _ Peer = (*Session)(nil)

// Name implements Peer.
func (s *Session) Name() string { return s.a.Name() }

// Join implements Peer.
func (s *Session) Join(_ context.Context, invitation canon.Signed) error { return s.a.join(invitation) }

// Begin implements Peer.
func (s *Session) Begin(_ context.Context, number int64) (err error) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.next, err = s.open(); err != nil {
		return err
	}
	return s.a.begin(number)
}

// Prepare implements Peer.
func (s *Session) Prepare(ctx context.Context, leader canon.Signed) (canon.Signed, error) {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.batch == nil || s.next == nil {
		return canon.Signed{}, a.refuse(ErrNotPrepared, "no batch has begun")
	}
	reports, _, err := readChunk(s.next)
	var p *pendingChunk
	if err == nil {
		p, err = a.prepare(ctx, a.batch, reports)
	}
	if err == nil {
		err = a.settle(ctx, a.batch, p, leader)
	}
	if err != nil {
		a.batch = nil // half of a chunk may be added up: the batch begins again
		return canon.Signed{}, err
	}
	return p.message, nil
}

// readChunk takes the next reports; last says that there are no more after them.
func readChunk(next Reports) (reports [][]byte, last bool, err error) {
	for len(reports) < ChunkReports {
		data, err := next()
		if errors.Is(err, io.EOF) {
			return reports, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		reports = append(reports, data)
	}
	return reports, false, nil
}

// Commit implements Peer.
func (s *Session) Commit(ctx context.Context, summary canon.Signed) error {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	agreed, err := s.a.agreement(summary)
	if err != nil {
		return err
	}
	if s.next != nil { // prepared now: all of what was delivered
		if _, err := s.next(); !errors.Is(err, io.EOF) {
			return s.a.refuse(ErrPeer, "it left out reports at the end of the delivery")
		}
	}
	return s.a.commit(ctx, s.b, agreed)
}

// Finish implements Peer.
func (s *Session) Finish(ctx context.Context, summary canon.Signed) (canon.Signed, error) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	agreed, err := s.a.agreement(summary)
	if err != nil {
		return canon.Signed{}, err
	}
	return s.a.finish(ctx, s.b, agreed)
}

// Endorse implements Peer.
func (s *Session) Endorse(ctx context.Context, c enclave.Collected, proof enclave.LogProof, leader canon.Signed) (canon.Signature, error) {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	mine, total, err := a.given(c.Batch)
	if errors.Is(err, fs.ErrNotExist) {
		err = a.refuse(ErrNotPrepared, "the total of batch %d was not given", c.Batch)
	}
	if err != nil {
		return canon.Signature{}, err
	}
	_, again, err := a.result(ctx, s.b, leader, mine)
	if err != nil {
		return canon.Signature{}, err
	}
	if canon.DigestOf(c) != canon.DigestOf(again) {
		return canon.Signature{}, a.refuse(ErrPeer, "result %s, %q has %s", canon.DigestOf(c).Short(), a.Name(), canon.DigestOf(again).Short())
	}
	return a.cfg.Gate.Endorse(ctx, s.b, total.Batch, c, proof)
}
