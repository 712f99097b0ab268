package release

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// KindLedger is one record of a custodian's ledger.
const KindLedger = "yingzhou.ledger.v1"

// Record is one entry of a custodian's own ledger: numbered, chained by digest and signed, so that peers who hold a
// copy notice a rewritten or rolled-back ledger.
type Record struct {
	By      string         `json:"by"`
	Seq     int64          `json:"seq"` // 1, 2, …
	Prev    enclave.Digest `json:"prev,omitzero"`
	Type    string         `json:"type"` // charge | refusal | release
	Plan    enclave.Digest `json:"plan"`
	Job     string         `json:"job"`
	Charge  *Charge        `json:"charge,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Release enclave.Digest `json:"release,omitzero"`
	At      enclave.Time   `json:"at"`
}

// Types of record.
const (
	recordCharge  = "charge"
	recordRefusal = "refusal"
	recordRelease = "release"
)

// Charge commits what a plan opens and what it costs. Amounts are in millionths of ε.
type Charge struct {
	Keyset        enclave.Digest `json:"keyset"`
	Epoch         int64          `json:"epoch"`
	Scenario      enclave.Digest `json:"scenario"`
	DatasetMicro  int64          `json:"dataset_micro"`
	ScenarioMicro int64          `json:"scenario_micro"`
	Opens         []Opening      `json:"opens"`
	Also          []AlsoCharged  `json:"also,omitempty"` // the other datasets of a join, each charged DatasetMicro as well
}

// AlsoCharged is one more keyset that a charge is on.
type AlsoCharged struct {
	Keyset enclave.Digest `json:"keyset"`
	Epoch  int64          `json:"epoch"`
}

// Opening ties a noise key to the one ciphertext that may ever be opened under it.
type Opening struct {
	Key        enclave.Digest `json:"key"`
	Ciphertext enclave.Digest `json:"ciphertext"`
}

// ledger is a custodian's durable copy of its own records and of its peers'. Each line of the file is one signed record.
// Kept in memory are only an index of the file and what the records add up to: a lab that runs for years has millions.
type ledger struct {
	path   string
	signer keys.Signer
	verify func(custodian string) (ed25519.PublicKey, error)

	mu     sync.Mutex
	f      *os.File
	size   int64 // of the file
	broken error // a write failed: what is in memory may not be on disk
	chains map[string]*chain
	known  map[enclave.Digest]bool // every record
	totals totals
}

// chain is the index of one custodian's records, in order.
type chain struct {
	digests []enclave.Digest
	at      []int64 // where each record's line begins
}

func (c *chain) head() (d enclave.Digest) {
	if n := len(c.digests); n > 0 {
		d = c.digests[n-1]
	}
	return d
}

func openLedger(dir string, signer keys.Signer, verify func(string) (ed25519.PublicKey, error)) (*ledger, error) {
	l := &ledger{path: filepath.Join(dir, "ledger.jsonl"), signer: signer, verify: verify, chains: map[string]*chain{}, known: map[enclave.Digest]bool{}, totals: newTotals()}
	data, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	// A line without its end was being written when the power went: nothing was acted on, since acts follow the sync.
	whole := bytes.LastIndexByte(data, '\n') + 1
	n := 0
	for line := range bytes.Lines(data[:whole]) {
		at := l.size
		n, l.size = n+1, l.size+int64(len(line))
		if len(line) == 1 {
			continue
		}
		var s canon.Signed
		if err := canon.Unmarshal(line[:len(line)-1], &s); err != nil {
			return nil, fmt.Errorf("opening ledger %s: line %d: %w: %w (move the file aside; the peers' copies restore it)", l.path, n, ErrLedger, err)
		}
		if _, err := l.admit(s, at); err != nil {
			return nil, fmt.Errorf("opening ledger %s: line %d: %w", l.path, n, err)
		}
	}
	if l.f, err = os.OpenFile(l.path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	if err := errors.Join(l.f.Truncate(l.size), seekEnd(l.f), durable.SyncDir(dir)); err != nil {
		l.f.Close()
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	return l, nil
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, 2)
	return err
}

func (l *ledger) close() error { return l.f.Close() }

// admit checks a record against its chain and adds it to the state in memory; its line begins at the given place of the
// file. It reports false for a known record.
func (l *ledger) admit(s canon.Signed, at int64) (bool, error) {
	var r Record
	if err := s.Open(KindLedger, &r); err != nil {
		return false, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	c := l.chains[r.By]
	if c == nil {
		c = &chain{}
	}
	digest := s.Digest()
	if n := int64(len(c.digests)); r.Seq <= n && r.Seq > 0 {
		if c.digests[r.Seq-1] != digest {
			return false, fmt.Errorf("%w: custodian %q signed two records number %d", ErrLedger, r.By, r.Seq)
		}
		return false, nil
	} else if r.Seq != n+1 || r.Prev != c.head() {
		return false, fmt.Errorf("%w: record %d of custodian %q does not follow record %d", ErrLedger, r.Seq, r.By, n)
	}
	key, err := l.verify(r.By)
	if err == nil {
		err = s.Verify(r.By, key)
	}
	if err == nil {
		err = l.totals.add(&r)
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	c.digests, c.at = append(c.digests, digest), append(c.at, at)
	l.chains[r.By], l.known[digest] = c, true
	return true, nil
}

// append writes a record of this custodian, durably, and returns it signed. prepared records are numbered here.
func (l *ledger) append(r Record) (canon.Signed, error) {
	s, err := l.prepare(r)
	if err != nil {
		return s, err
	}
	return s, l.commit(s)
}

// prepare numbers, chains and signs a record without writing it, so that its digest can be logged first.
func (l *ledger) prepare(r Record) (canon.Signed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return canon.Signed{}, l.broken
	}
	r.By, r.Seq = l.signer.Name(), 1
	if c := l.chains[r.By]; c != nil {
		r.Seq, r.Prev = int64(len(c.digests))+1, c.head()
	}
	return keys.SealWith(l.signer, KindLedger, r)
}

func (l *ledger) commit(records ...canon.Signed) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	var lines bytes.Buffer
	for _, s := range records {
		fresh, err := l.admit(s, l.size+int64(lines.Len()))
		if err != nil {
			// Records before the bad one are in memory already and must reach the disk as well.
			return errors.Join(err, l.write(lines.Bytes()))
		}
		if fresh {
			lines.Write(canon.MustMarshal(s))
			lines.WriteByte('\n')
		}
	}
	return l.write(lines.Bytes())
}

// write makes lines durable. After a failure the memory is ahead of the disk, and a repeated request would take a charge
// for committed that no restart remembers: nothing is done any more until the ledger has been opened again.
func (l *ledger) write(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	n, err := l.f.Write(lines)
	l.size += int64(n)
	if err == nil {
		failpoint.Hit(failpoint.LedgerWritten)
		err = l.f.Sync()
	}
	if err != nil {
		l.broken = fmt.Errorf("writing ledger %s: %w (make room and restart the custodian)", l.path, err)
	}
	return l.broken
}

// healthy reports whether everything in memory is on disk.
func (l *ledger) healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// heights says how many records of each custodian are known here.
func (l *ledger) heights() map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]int64{}
	for by, c := range l.chains {
		out[by] = int64(len(c.digests))
	}
	return out
}

// since lists everything that a peer with the given heights lacks, each custodian's records in order, from the file.
func (l *ledger) since(heights map[string]int64) ([]canon.Signed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, l.broken
	}
	var out []canon.Signed
	for by, c := range l.chains {
		for i := heights[by]; i >= 0 && i < int64(len(c.digests)); i++ {
			s, err := l.read(c.at[i])
			if err == nil && s.Digest() != c.digests[i] {
				err = errors.New("another one stands in its place")
			}
			if err != nil {
				return nil, fmt.Errorf("reading ledger %s: record %d of custodian %q: %w", l.path, i+1, by, err)
			}
			out = append(out, s)
		}
	}
	return out, nil
}

func (l *ledger) read(at int64) (s canon.Signed, err error) {
	line, err := bufio.NewReader(io.NewSectionReader(l.f, at, l.size-at)).ReadBytes('\n')
	if err != nil {
		return s, err
	}
	return s, canon.Unmarshal(line[:len(line)-1], &s)
}

// has reports whether a record is known, by its digest.
func (l *ledger) has(record enclave.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[record]
}

// spent totals the charges on a dataset's keyset in an epoch and on a scenario's use of it.
func (l *ledger) spent(keyset enclave.Digest, epoch int64, scenario enclave.Digest) (dataset, ofScenario, scenarioAll int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := func(a account) int64 { return l.totals.spent(a) }
	return of(account{keyset: keyset, epoch: epoch}), of(account{keyset: keyset, epoch: epoch, scenario: scenario}), of(account{scenario: scenario})
}

// openings counts the distinct ciphertexts opened under a keyset.
func (l *ledger) openings(keyset enclave.Digest) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals.openings[keyset]
}

// paid says what was charged for a noise key.
func (l *ledger) paid(key, keyset enclave.Digest, quorum int, scenario enclave.Digest) payment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals.paid(key, keyset, l.signer.Name(), quorum, scenario)
}

// charged returns what was charged for a plan.
func (l *ledger) charged(plan enclave.Digest) (charged, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals.charged(plan)
}

// released reports whether a release was endorsed for a plan.
func (l *ledger) released(plan enclave.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals.ended[plan]
}
