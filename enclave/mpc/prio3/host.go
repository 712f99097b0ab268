package prio3

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/operators"
)

// Blobs hands out the custodian's own copies of blobs.
type Blobs interface {
	// Open yields a blob of that many bytes, which were checked against its name.
	Open(ctx context.Context, d enclave.Digest, size int64) (io.ReadCloser, error)
	// Forget deletes the copy.
	Forget(d enclave.Digest) error
}

// HostConfig is what a custodian's aggregators work with. All fields but Clock and Workers are required.
type HostConfig struct {
	Dir      string // durable state, a folder for each collection
	Identity Identity
	Gate     Gate
	Roster   func() *operators.Roster
	Blobs    Blobs
	Clock    func() time.Time
	Workers  int // goroutines; 0 = one per processor
}

// Host keeps a custodian's aggregators, one for each collection that it was asked about.
type Host struct {
	cfg HostConfig

	mu  sync.Mutex
	all map[enclave.Digest]*Aggregator
}

// NewHost opens no aggregator yet.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Dir == "" || cfg.Identity == nil || cfg.Gate == nil || cfg.Roster == nil || cfg.Blobs == nil {
		return nil, errors.New("aggregators: folder, identity, gate, roster and blobs are all required")
	}
	return &Host{cfg: cfg, all: map[enclave.Digest]*Aggregator{}}, nil
}

// Close ends use of all state.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	for _, a := range h.all {
		err = errors.Join(err, a.Close())
	}
	clear(h.all)
	return err
}

// Lead runs the batch of a dossier as the leader of its collection. dial reaches the helper.
func (h *Host) Lead(ctx context.Context, b *enclave.CollectionBundle, dial func(ctx context.Context, helper string) (Peer, error)) (*Outcome, error) {
	a, d, err := h.aggregator(ctx, b)
	if err != nil {
		return nil, err
	}
	t := a.cfg.Task
	if a.me != 0 {
		return nil, a.refuse(ErrBatch, "%q helps and does not lead", a.Name())
	}
	analyst, ok := h.cfg.Roster().Find(t.By)
	if !ok {
		return nil, a.refuse(ErrBatch, "its analyst %q is not in the roster", t.By)
	}
	peer, err := dial(ctx, t.Aggregators[1])
	if err != nil {
		return nil, err
	}
	r := h.reports(ctx, d)
	defer r.close()
	out, err := a.Lead(ctx, b, peer, d.Batch, r.next, analyst.HPKE)
	if err == nil {
		err = h.drop(d)
	}
	return out, err
}

// Help makes this custodian's side of the batch of a dossier, as the helper of its collection. end says that the leader is
// done, with a release or not.
func (h *Host) Help(ctx context.Context, b *enclave.CollectionBundle) (s *Session, end func(released bool) error, err error) {
	a, d, err := h.aggregator(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	if a.me != 1 {
		return nil, nil, a.refuse(ErrPeer, "%q leads and does not help", a.Name())
	}
	var r *deliveryReader
	s = a.Session(b, func() (Reports, error) {
		if r != nil {
			r.close()
		}
		r = h.reports(ctx, d)
		return r.next, nil
	})
	return s, func(released bool) error {
		if r != nil {
			r.close()
		}
		if released {
			return h.drop(d)
		}
		return nil
	}, nil
}

// aggregator opens the state of a dossier's collection, once the custodian has found the dossier sound.
func (h *Host) aggregator(ctx context.Context, b *enclave.CollectionBundle) (*Aggregator, *enclave.Delivery, error) {
	if err := h.cfg.Gate.Check(ctx, b); err != nil {
		return nil, nil, err
	}
	d := &enclave.Delivery{}
	if err := b.Delivery.Open(enclave.KindDelivery, d); err != nil {
		return nil, nil, err
	}
	digest := b.Collection.Digest()
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.all[digest]
	if a == nil {
		var err error
		if a, err = h.open(ctx, b); err != nil {
			return nil, nil, err
		}
		h.all[digest] = a
	}
	// Above this are no reports of the collection, whatever is in it.
	if most := int64(enclave.MaxReports) * int64(4+a.cfg.Task.ReportBytes()); bytesOf(d) > most {
		return nil, nil, a.refuse(ErrBatch, "a delivery of %d bytes is more than %d, which the largest batch has", bytesOf(d), most)
	}
	return a, d, nil
}

func bytesOf(d *enclave.Delivery) (n int64) {
	for _, b := range d.Blobs {
		n += b.Bytes
	}
	return n
}

// blob opens the own copy. What came in its place is somebody's fault, and no fault of this custodian.
func (h *Host) blob(ctx context.Context, d enclave.Digest, size int64) (io.ReadCloser, error) {
	r, err := h.cfg.Blobs.Open(ctx, d, size)
	if errors.Is(err, enclave.ErrBlob) {
		no := refusal.New(ErrBatch, "blob %s is not what its name promises", d.Short()).Because(err)
		no.Custodian = h.cfg.Identity.Name()
		return nil, no
	}
	return r, err
}

func (h *Host) open(ctx context.Context, b *enclave.CollectionBundle) (*Aggregator, error) {
	var c enclave.Collection
	if err := b.Collection.Open(enclave.KindCollection, &c); err != nil {
		return nil, err
	}
	r, err := h.blob(ctx, c.Enrolment, c.EnrolmentBytes)
	if err != nil {
		return nil, fmt.Errorf("collection %q: list of reporters: %w", c.Name, err)
	}
	defer r.Close()
	list, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("collection %q: list of reporters: %w", c.Name, err)
	}
	t, err := NewTask(b.Collection, list)
	if err != nil {
		return nil, err
	}
	me, err := t.index(h.cfg.Identity.Name())
	if err != nil {
		return nil, err
	}
	peer, _ := h.cfg.Roster().Find(t.Aggregators[1-me]) // NewAggregator refuses who is no custodian
	return NewAggregator(Config{Dir: filepath.Join(h.cfg.Dir, fmt.Sprintf("%x", t.Digest[:])), Task: t, Identity: h.cfg.Identity, Peer: peer, Gate: h.cfg.Gate,
		Clock: h.cfg.Clock, Workers: h.cfg.Workers})
}

// deliveryReader reads the blobs of a delivery one after the other.
type deliveryReader struct {
	ctx  context.Context // of the batch
	h    *Host
	left []enclave.DeliveryBlob
	at   enclave.Digest
	now  io.ReadCloser
	buf  *bufio.Reader
}

func (h *Host) reports(ctx context.Context, d *enclave.Delivery) *deliveryReader {
	return &deliveryReader{ctx: ctx, h: h, left: d.Blobs}
}

func (r *deliveryReader) next() ([]byte, error) {
	for {
		if r.now != nil {
			data, err := ReadReport(r.buf)
			if errors.Is(err, errFrame) {
				return nil, refusal.New(ErrBatch, "blob %s of the delivery is not framed reports", r.at.Short()).Because(err)
			}
			if !errors.Is(err, io.EOF) {
				return data, err
			}
			r.close()
		}
		if len(r.left) == 0 {
			return nil, io.EOF
		}
		f, err := r.h.blob(r.ctx, r.left[0].Blob, r.left[0].Bytes)
		if err != nil {
			return nil, err
		}
		r.now, r.buf, r.at, r.left = f, bufio.NewReaderSize(f, 1<<20), r.left[0].Blob, r.left[1:]
	}
}

func (r *deliveryReader) close() {
	if r.now != nil {
		r.now.Close()
		r.now = nil
	}
}

// drop deletes the copies of what was counted. The journal of reports stays.
func (h *Host) drop(d *enclave.Delivery) error {
	var err error
	for _, b := range d.Blobs {
		err = errors.Join(err, h.cfg.Blobs.Forget(b.Blob))
	}
	return err
}
