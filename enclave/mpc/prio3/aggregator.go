package prio3

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/operators"
)

// Rules that callers branch on. Errors of them are *refusal.Refusal, so that they keep their form between aggregators.
var (
	// ErrBatch means that a batch cannot be released: too few good reports, out of turn, or one too many.
	ErrBatch = refusal.ErrBatch
	// ErrPeer means that the other aggregator sent what does not verify or disagrees.
	ErrPeer = refusal.ErrAggregator
	// ErrNotPrepared means that an aggregator has not prepared the batch it is asked to finish, as after a restart.
	ErrNotPrepared = refusal.ErrNotPrepared
)

// Gate is the custodian beside an aggregator: release.Collections, through which jobs' releases go too. It examines the
// dossier and the batch afresh in every call, so that a revocation stops what comes next.
type Gate interface {
	// Check examines a dossier before any work is done for it.
	Check(ctx context.Context, b *enclave.CollectionBundle) error
	// Commit charges the batch, once, however often it is asked.
	Commit(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch) error
	// Opening gives the terms and the noise key once both aggregators' custodians have charged the batch.
	Opening(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch) (*enclave.BatchOpening, error)
	// Announce logs an entry of this custodian's before its effect.
	Announce(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch, entry string, subject enclave.Digest) (enclave.LogProof, error)
	// Endorse signs a release that was found to agree with both totals and that was logged.
	Endorse(ctx context.Context, b *enclave.CollectionBundle, of enclave.Batch, out enclave.Collected, proof enclave.LogProof) (canon.Signature, error)
}

// Identity signs as the aggregator and opens what was encrypted to it.
type Identity interface {
	keys.Signer
	Open(info, sealed []byte) ([]byte, error)
}

// Config is what an aggregator works with. All fields but Clock and Workers are required.
type Config struct {
	Dir      string // durable state of this collection at this aggregator
	Task     *Task
	Identity Identity
	Peer     operators.Party // the other aggregator, from the roster
	Gate     Gate
	Clock    func() time.Time
	Workers  int // goroutines; 0 = one per processor
}

// Aggregator holds one share of every report and of every total.
type Aggregator struct {
	cfg     Config
	me      int
	verify  [32]byte
	journal *journal

	mu    sync.Mutex // serialises batches
	batch *batch
}

// batch is a batch being prepared.
type batch struct {
	number   int64
	chunks   int64
	total    total
	accepted int64
	digest   [32]byte // chain over the identifiers of accepted reports
	refused  [verdicts]int64
	seen     map[[idBytes]byte]bool // admitted since the batch began
}

// NewAggregator opens an aggregator's state. The helper has no verification key until the leader has sent one (Peer.Join).
func NewAggregator(cfg Config) (*Aggregator, error) {
	if cfg.Dir == "" || cfg.Task == nil || cfg.Identity == nil || cfg.Gate == nil {
		return nil, errors.New("opening aggregator: folder, task, identity and gate are all required")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Workers == 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	me, err := cfg.Task.index(cfg.Identity.Name())
	if err != nil {
		return nil, err
	}
	if cfg.Peer.Name != cfg.Task.Aggregators[1-me] || cfg.Peer.Role != operators.RoleCustodian {
		return nil, fmt.Errorf("opening aggregator %q: its peer is custodian %q, not %q", cfg.Identity.Name(), cfg.Task.Aggregators[1-me], cfg.Peer.Name)
	}
	if err := durable.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening aggregator: %w", err)
	}
	if err := durable.Sweep(cfg.Dir); err != nil {
		return nil, fmt.Errorf("opening aggregator: %w", err)
	}
	a := &Aggregator{cfg: cfg, me: me}
	if a.verify, err = secret(filepath.Join(cfg.Dir, "verify.key"), me == 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if a.journal, err = openJournal(cfg.Dir); err != nil {
		return nil, err
	}
	return a, nil
}

// secret reads 32 bytes from a file, or draws them once.
func secret(path string, draw bool) (key [32]byte, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && draw {
		rand.Read(key[:])
		return key, durable.WriteFile(path, key[:], 0o600)
	}
	if err != nil {
		return key, fmt.Errorf("opening aggregator: %w", err)
	}
	if len(data) != len(key) {
		return key, fmt.Errorf("opening aggregator: %s has %d bytes, want %d", path, len(data), len(key))
	}
	return [32]byte(data), nil
}

// Close ends the use of the aggregator's files.
func (a *Aggregator) Close() error { return a.journal.close() }

// Name is the custodian's name in the roster.
func (a *Aggregator) Name() string { return a.cfg.Identity.Name() }

func (a *Aggregator) refuse(rule error, format string, args ...any) *refusal.Refusal {
	r := refusal.New(rule, "collection %q: %s", a.cfg.Task.Name, fmt.Sprintf(format, args...))
	r.Custodian = a.Name()
	return r
}

// KindVerifyKey is the leader's verification key on its way to the helper.
const KindVerifyKey = "yingzhou.verify-key.v1"

// VerifyKey carries the key by which both draw the same challenges. No reporter may know it, or it could forge proofs.
type VerifyKey struct {
	Collection enclave.Digest `json:"collection"`
	By         string         `json:"by"`
	Sealed     []byte         `json:"sealed"` // to the helper
}

func verifyInfo(t *Task) []byte { return append([]byte("yingzhou verify key v1\x00"), t.Digest[:]...) }

// invite makes the leader's message for Peer.Join.
func (a *Aggregator) invite() (canon.Signed, error) {
	sealed, err := keys.SealTo(a.cfg.Peer.HPKE, verifyInfo(a.cfg.Task), a.verify[:])
	if err != nil {
		return canon.Signed{}, err
	}
	return keys.SealWith(a.cfg.Identity, KindVerifyKey, VerifyKey{Collection: a.cfg.Task.Digest, By: a.Name(), Sealed: sealed})
}

// join takes the verification key from the leader, once: another key later is refused, because challenges that a
// reporter saw the outcome of could then be drawn again.
func (a *Aggregator) join(invitation canon.Signed) error {
	var k VerifyKey
	if err := a.fromPeer(invitation, KindVerifyKey, &k, func() bool { return k.Collection == a.cfg.Task.Digest && k.By == a.cfg.Peer.Name }); err != nil {
		return err
	}
	key, err := a.cfg.Identity.Open(verifyInfo(a.cfg.Task), k.Sealed)
	if err != nil || len(key) != len(a.verify) {
		return a.refuse(ErrPeer, "the verification key does not open")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.verify != ([32]byte{}) {
		if a.verify != [32]byte(key) {
			return a.refuse(ErrPeer, "it sent another verification key before")
		}
		return nil
	}
	if err := durable.WriteFile(filepath.Join(a.cfg.Dir, "verify.key"), key, 0o600); err != nil {
		return fmt.Errorf("joining collection %q: %w", a.cfg.Task.Name, err)
	}
	a.verify = [32]byte(key)
	return nil
}

// fromPeer opens a message, signed by the other aggregator and saying what it must.
func (a *Aggregator) fromPeer(s canon.Signed, kind string, v any, right func() bool) error {
	err := s.Open(kind, v)
	if err == nil {
		err = s.Verify(a.cfg.Peer.Name, ed25519.PublicKey(a.cfg.Peer.Verify))
	}
	if err == nil && !right() {
		err = errors.New("it is for something else")
	}
	if err != nil {
		return a.refuse(ErrPeer, "%s from %q", kind, a.cfg.Peer.Name).Because(err)
	}
	return nil
}

// KindPrepShares is an aggregator's side of a chunk.
const KindPrepShares = "yingzhou.prep-shares.v1"

// PrepShares holds one prep share for every report of a chunk that its sender admits. The signature is what makes the
// shares authentic, on which the soundness of the proofs rests.
type PrepShares struct {
	Collection enclave.Digest `json:"collection"`
	By         string         `json:"by"`
	Batch      int64          `json:"batch"`
	Chunk      int64          `json:"chunk"`
	Reports    enclave.Digest `json:"reports"`  // of the chunk's reports, each behind its length
	Verdicts   []byte         `json:"verdicts"` // one per report
	Shares     []byte         `json:"shares"`   // of those admitted, back to back
}

// ChunkReports is how many reports are prepared at once.
const ChunkReports = 512

type pendingChunk struct {
	message  canon.Signed
	body     PrepShares
	prepared []*prepared
	ids      [][idBytes]byte
}

// prepare is the first step on a chunk: what both aggregators do alone. The same chunk gives the same bytes.
func (a *Aggregator) prepare(ctx context.Context, b *batch, reports [][]byte) (*pendingChunk, error) {
	if a.verify == ([32]byte{}) {
		return nil, a.refuse(ErrNotPrepared, "it has not joined and has no verification key")
	}
	if len(reports) == 0 || len(reports) > ChunkReports {
		return nil, a.refuse(ErrPeer, "a chunk of %d reports is not 1 to %d", len(reports), ChunkReports)
	}
	p := &pendingChunk{prepared: make([]*prepared, len(reports)), ids: make([][idBytes]byte, len(reports))}
	found := make([]verdict, len(reports))
	parsed := make([]*report, len(reports))
	err := a.each(ctx, len(reports), func(i int) { parsed[i], found[i] = a.cfg.Task.check(reports[i]) })
	if err != nil {
		return nil, err
	}
	var entries []entry
	h := sha256.New()
	for i, data := range reports {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(data))))
		h.Write(data)
		if found[i] != good {
			continue
		}
		t := taken{batch: uint32(b.number), digest: canon.Sum(data)}
		if found[i] = a.journal.admit(parsed[i], t); found[i] == good && b.seen[parsed[i].id] {
			found[i] = replayed
		}
		if found[i] != good {
			continue
		}
		b.seen[parsed[i].id] = true
		p.ids[i] = parsed[i].id
		if _, known := a.journal.reports[parsed[i].id]; !known {
			entries = append(entries, entry{parsed[i].id, parsed[i].reporter, t})
			a.journal.note(parsed[i].id, parsed[i].reporter, t)
		}
	}
	if err := a.journal.write(entries); err != nil {
		return nil, err
	}
	err = a.each(ctx, len(reports), func(i int) {
		if found[i] == good {
			p.prepared[i], found[i] = a.open(parsed[i])
		}
	})
	if err != nil {
		return nil, err
	}
	p.body = PrepShares{Collection: a.cfg.Task.Digest, By: a.Name(), Batch: b.number, Chunk: b.chunks, Reports: enclave.Digest(h.Sum(nil)), Verdicts: make([]byte, len(reports)), Shares: []byte{}}
	for i, v := range found {
		p.body.Verdicts[i] = byte(v)
		if v == good {
			p.body.Shares = append(p.body.Shares, p.prepared[i].share...)
		}
	}
	p.message, err = keys.SealWith(a.cfg.Identity, KindPrepShares, p.body)
	return p, err
}

// check judges what a report shows to everybody.
func (t *Task) check(data []byte) (*report, verdict) {
	r, err := t.parse(data)
	if err != nil {
		return nil, malformed
	}
	if r.collection != t.Digest {
		return r, foreign
	}
	key, ok := t.reporter(r.reporter)
	if !ok {
		return r, stranger
	}
	if !ed25519.Verify(key, signedText(r.signed), r.signature) {
		return r, forged
	}
	return r, good
}

// open decrypts this aggregator's share and computes its prep share.
func (a *Aggregator) open(r *report) (*prepared, verdict) {
	input, err := a.cfg.Identity.Open(r.info(a.me), r.sealed[a.me])
	if err != nil {
		return nil, sealedWrong
	}
	var p *prepared
	a.cfg.Task.with(func(v *vdaf) { p, err = v.prepare(a.verify, r.id, a.me, r.public, input) })
	if err != nil {
		return nil, invalid
	}
	return p, good
}

// each runs f for 0..n−1 on the configured goroutines.
func (a *Aggregator) each(ctx context.Context, n int, f func(int)) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range a.cfg.Workers {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				f(i)
			}
		})
	}
	return g.Wait()
}

// settle is the second step: verify every proof on both prep shares and add the good reports up.
func (a *Aggregator) settle(ctx context.Context, b *batch, p *pendingChunk, peer canon.Signed) error {
	var theirs PrepShares
	mine := p.body
	if err := a.fromPeer(peer, KindPrepShares, &theirs, func() bool {
		return theirs.Collection == mine.Collection && theirs.By == a.cfg.Peer.Name && theirs.Batch == mine.Batch && theirs.Chunk == mine.Chunk &&
			theirs.Reports == mine.Reports && len(theirs.Verdicts) == len(mine.Verdicts)
	}); err != nil {
		return err
	}
	width, at := a.cfg.Task.vdaf.prep, 0
	found := make([]verdict, len(mine.Verdicts))
	shares := make([][]byte, len(found))
	for i := range found {
		if verdict(theirs.Verdicts[i]) >= verdicts {
			return a.refuse(ErrPeer, "verdict %d", theirs.Verdicts[i])
		}
		found[i] = max(verdict(mine.Verdicts[i]), verdict(theirs.Verdicts[i]))
		if verdict(theirs.Verdicts[i]) == good {
			if at+width > len(theirs.Shares) {
				return a.refuse(ErrPeer, "too few prep shares")
			}
			shares[i] = theirs.Shares[at : at+width]
			at += width
		}
	}
	if at != len(theirs.Shares) {
		return a.refuse(ErrPeer, "too many prep shares")
	}
	outputs := make([]any, len(found))
	err := a.each(ctx, len(found), func(i int) {
		if found[i] != good {
			return
		}
		a.cfg.Task.with(func(v *vdaf) {
			var err error
			if outputs[i], err = v.finish(p.prepared[i], a.me, shares[i]); err != nil {
				found[i] = invalid
			}
		})
	})
	if err != nil {
		return err
	}
	for i, v := range found {
		if v != good {
			b.refused[v]++
			continue
		}
		b.total.add(outputs[i])
		b.accepted++
		b.digest = sha256.Sum256(append(b.digest[:], p.ids[i][:]...))
	}
	b.chunks++
	return nil
}
