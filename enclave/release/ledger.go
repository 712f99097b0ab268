package release

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
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
type ledger struct {
	path   string
	signer keys.Signer
	verify func(custodian string) (ed25519.PublicKey, error)

	mu      sync.Mutex
	f       *os.File
	broken  error                     // a write failed: what is in memory may not be on disk
	chains  map[string][]canon.Signed // by custodian, in order
	heads   map[string]enclave.Digest
	known   map[enclave.Digest]bool // digests of all records
	charges map[enclave.Digest]*planCharge
	opens   map[enclave.Digest]*opened // by noise key
	spends  map[account]int64          // totals of what charges say
	opening map[enclave.Digest]int64   // noise keys by the keyset that they were charged to
	ends    map[enclave.Digest]enclave.Digest
}

// planCharge merges what custodians charged for one plan. Where they differ, the most that any of them charged to an
// account counts: a corrupt custodian that charges less, or elsewhere, takes nothing off what the others charge.
type planCharge struct {
	DatasetMicro int64
	by           map[string]bool
	on           map[account]int64
	job          string // the first job that asked; a later one repeats the question and pays nothing
	last         enclave.Time
}

// mostMicro is where totals stop growing: one custodian's absurd charges must not make them wrap around to nothing.
const mostMicro = math.MaxInt64 / 4

// account is what has a budget: a dataset in an epoch of its keys, a scenario on such a dataset, or a scenario.
type account struct {
	keyset   enclave.Digest // zero: of a scenario as a whole
	epoch    int64
	scenario enclave.Digest // zero: of a dataset as a whole
}

// amounts lists what a charge puts on which accounts.
func (c *Charge) amounts() map[account]int64 {
	out := map[account]int64{{scenario: c.Scenario}: c.ScenarioMicro}
	for _, d := range append([]AlsoCharged{{c.Keyset, c.Epoch}}, c.Also...) {
		out[account{keyset: d.Keyset, epoch: d.Epoch}] = c.DatasetMicro
		out[account{keyset: d.Keyset, epoch: d.Epoch, scenario: c.Scenario}] = c.ScenarioMicro
	}
	return out
}

// opened is what was charged for a noise key: the first ciphertext that a record ties to it, and who charged it to what.
type opened struct {
	ciphertext enclave.Digest
	keysets    map[enclave.Digest]bool
	scenarios  map[enclave.Digest]map[string]bool // custodians, by scenario
}

func openLedger(dir string, signer keys.Signer, verify func(string) (ed25519.PublicKey, error)) (*ledger, error) {
	l := &ledger{path: filepath.Join(dir, "ledger.jsonl"), signer: signer, verify: verify,
		chains: map[string][]canon.Signed{}, heads: map[string]enclave.Digest{}, known: map[enclave.Digest]bool{}, charges: map[enclave.Digest]*planCharge{},
		opens: map[enclave.Digest]*opened{}, spends: map[account]int64{}, opening: map[enclave.Digest]int64{}, ends: map[enclave.Digest]enclave.Digest{}}
	data, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	// A line without its end was being written when the power went: nothing was acted on, since acts follow the sync.
	whole := bytes.LastIndexByte(data, '\n') + 1
	for i, line := range bytes.Split(bytes.TrimSuffix(data[:whole], []byte("\n")), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var s canon.Signed
		if err := canon.Unmarshal(line, &s); err != nil {
			return nil, fmt.Errorf("opening ledger %s: line %d: %w: %w (move the file aside; the peers' copies restore it)", l.path, i+1, ErrLedger, err)
		}
		if _, err := l.admit(s); err != nil {
			return nil, fmt.Errorf("opening ledger %s: line %d: %w", l.path, i+1, err)
		}
	}
	if l.f, err = os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	if err := errors.Join(l.f.Truncate(int64(whole)), seekEnd(l.f), durable.SyncDir(dir)); err != nil {
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

// admit checks a record against its chain and adds it to the state in memory. It reports false for a known record.
func (l *ledger) admit(s canon.Signed) (bool, error) {
	var r Record
	if err := s.Open(KindLedger, &r); err != nil {
		return false, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	chain := l.chains[r.By]
	if n := int64(len(chain)); r.Seq <= n && r.Seq > 0 {
		if chain[r.Seq-1].Digest() != s.Digest() {
			return false, fmt.Errorf("%w: custodian %q signed two records number %d", ErrLedger, r.By, r.Seq)
		}
		return false, nil
	} else if r.Seq != n+1 || r.Prev != l.heads[r.By] {
		return false, fmt.Errorf("%w: record %d of custodian %q does not follow record %d", ErrLedger, r.Seq, r.By, n)
	}
	key, err := l.verify(r.By)
	if err == nil {
		err = s.Verify(r.By, key)
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	l.chains[r.By] = append(chain, s)
	l.heads[r.By] = s.Digest()
	l.known[l.heads[r.By]] = true
	l.apply(&r)
	return true, nil
}

func (l *ledger) apply(r *Record) {
	switch {
	case r.Type == recordRelease:
		l.ends[r.Plan] = r.Release
	case r.Type == recordCharge && r.Charge != nil:
		c := l.charges[r.Plan]
		if c == nil {
			c = &planCharge{by: map[string]bool{}, on: map[account]int64{}, job: r.Job, last: r.At}
			l.charges[r.Plan] = c
		}
		c.DatasetMicro = max(c.DatasetMicro, r.Charge.DatasetMicro)
		for a, n := range r.Charge.amounts() {
			if more := min(n, mostMicro) - c.on[a]; more > 0 {
				c.on[a] += more
				l.spends[a] = min(l.spends[a]+more, mostMicro)
			}
		}
		c.by[r.By] = true
		c.job = min(c.job, r.Job) // the same on every custodian, whatever order records came in; IDs sort by age
		if r.At.After(c.last.Time) {
			c.last = r.At
		}
		for _, o := range r.Charge.Opens {
			l.open(o, r)
		}
	}
}

func (l *ledger) open(o Opening, r *Record) {
	have := l.opens[o.Key]
	if have == nil {
		have = &opened{ciphertext: o.Ciphertext, keysets: map[enclave.Digest]bool{}, scenarios: map[enclave.Digest]map[string]bool{}}
		l.opens[o.Key] = have
	}
	if !have.keysets[r.Charge.Keyset] {
		have.keysets[r.Charge.Keyset] = true
		l.opening[r.Charge.Keyset]++
	}
	if have.scenarios[r.Charge.Scenario] == nil {
		have.scenarios[r.Charge.Scenario] = map[string]bool{}
	}
	have.scenarios[r.Charge.Scenario][r.By] = true
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
	r.By = l.signer.Name()
	r.Seq, r.Prev = int64(len(l.chains[r.By]))+1, l.heads[r.By]
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
		fresh, err := l.admit(s)
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
	_, err := l.f.Write(lines)
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
	for by, chain := range l.chains {
		out[by] = int64(len(chain))
	}
	return out
}

// since lists everything that a peer with the given heights lacks, each custodian's records in order.
func (l *ledger) since(heights map[string]int64) []canon.Signed {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []canon.Signed
	for by, chain := range l.chains {
		if from := heights[by]; from >= 0 && from < int64(len(chain)) {
			out = append(out, chain[from:]...)
		}
	}
	return out
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
	return l.spends[account{keyset: keyset, epoch: epoch}], l.spends[account{keyset: keyset, epoch: epoch, scenario: scenario}], l.spends[account{scenario: scenario}]
}

// openings counts the distinct ciphertexts opened under a keyset.
func (l *ledger) openings(keyset enclave.Digest) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opening[keyset]
}

// payment is what is known of a noise key.
type payment struct {
	ciphertext            enclave.Digest // the only one that may be opened under it; zero if none was charged
	byDataset, byScenario bool           // it was paid for, and again by a scenario: asking once more is free
	counted               bool           // it is among the openings of the keyset
}

// paid says what was charged for a noise key and whether that counts as payment. A charge that less than a quorum of
// custodians have on record does not, unless this one is among them: all of its authors may be corrupt, and a charge of
// nothing, written by one custodian before anybody has asked, would make the question free.
func (l *ledger) paid(key, keyset enclave.Digest, quorum int, scenario enclave.Digest) (p payment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.opens[key]
	if o == nil {
		return p
	}
	enough := func(by map[string]bool) bool { return by[l.signer.Name()] || len(by) >= quorum }
	all := map[string]bool{}
	for _, by := range o.scenarios {
		maps.Copy(all, by)
	}
	return payment{ciphertext: o.ciphertext, byDataset: enough(all), byScenario: enough(o.scenarios[scenario]), counted: o.keysets[keyset]}
}

// charged returns the merged charge of a plan.
func (l *ledger) charged(plan enclave.Digest) (c planCharge, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.charges[plan]
	if p == nil {
		return c, false
	}
	return *p, true
}

// released returns the release already endorsed for a plan, if any.
func (l *ledger) released(plan enclave.Digest) (enclave.Digest, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, ok := l.ends[plan]
	return d, ok
}
