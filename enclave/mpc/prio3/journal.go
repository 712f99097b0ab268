package prio3

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/durable"
)

// journal remembers for ever which report was taken into which batch, and who sent it. A record is on disk before the
// prep share of its report leaves, so that after a crash the same batch can be prepared again (to the same bytes, as
// preparation draws no coins) and no other batch can take the report.
type journal struct {
	path    string
	f       *os.File
	broken  error
	reports map[[idBytes]byte]taken
	sent    map[sender]enclave.Digest // report of a reporter in a batch
}

type taken struct {
	batch  uint32
	digest enclave.Digest // of the whole report
}

type sender struct {
	batch    uint32
	reporter uint32
}

// record: id (16) | reporter | batch | digest (32) | CRC-32C of all before; integers uint32 LE.
const recordBytes = idBytes + 4 + 4 + 32 + 4

// castagnoli is a table of constants.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errJournal means that the file is not what was written.
var errJournal = errors.New("journal of reports is damaged")

func openJournal(dir string) (*journal, error) {
	j := &journal{path: filepath.Join(dir, "reports.log"), reports: map[[idBytes]byte]taken{}, sent: map[sender]enclave.Digest{}}
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	// A record without its end was being written when the power went; its prep share had not left.
	whole := len(data) / recordBytes * recordBytes
	for at := 0; at < whole; at += recordBytes {
		rec := data[at : at+recordBytes]
		if crc32.Checksum(rec[:recordBytes-4], castagnoli) != binary.LittleEndian.Uint32(rec[recordBytes-4:]) {
			return nil, fmt.Errorf("opening %s: record %d: %w", j.path, at/recordBytes, errJournal)
		}
		var id [idBytes]byte
		copy(id[:], rec)
		t := taken{batch: binary.LittleEndian.Uint32(rec[idBytes+4:]), digest: enclave.Digest(rec[idBytes+8 : idBytes+40])}
		j.note(id, binary.LittleEndian.Uint32(rec[idBytes:]), t)
	}
	if j.f, err = os.OpenFile(j.path, os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	_, serr := j.f.Seek(int64(whole), 0)
	if err := errors.Join(j.f.Truncate(int64(whole)), serr, durable.SyncDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("opening journal: %w", err), j.f.Close())
	}
	return j, nil
}

func (j *journal) note(id [idBytes]byte, reporter uint32, t taken) {
	j.reports[id] = t
	j.sent[sender{t.batch, reporter}] = t.digest
}

// admit decides whether a report may take part in a batch: it is new, or it was taken into the same batch before, which
// is being prepared again.
func (j *journal) admit(r *report, t taken) verdict {
	if have, ok := j.reports[r.id]; ok && have != t {
		return replayed
	}
	if have, ok := j.sent[sender{t.batch, r.reporter}]; ok && have != t.digest {
		return second
	}
	return good
}

// entry is a report that was admitted and must be written down before anything leaves.
type entry struct {
	id       [idBytes]byte
	reporter uint32
	taken
}

// write makes entries durable. After a failure the journal takes nothing more: memory may be ahead of the disk.
func (j *journal) write(entries []entry) error {
	if j.broken != nil {
		return j.broken
	}
	var buf []byte
	for _, e := range entries {
		from := len(buf)
		buf = append(buf, e.id[:]...)
		buf = binary.LittleEndian.AppendUint32(buf, e.reporter)
		buf = binary.LittleEndian.AppendUint32(buf, e.batch)
		buf = append(buf, e.digest[:]...)
		buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf[from:], castagnoli))
	}
	if len(buf) == 0 {
		return nil
	}
	_, err := j.f.Write(buf)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.broken = fmt.Errorf("writing %s: %w (make room and restart the aggregator)", j.path, err)
	}
	return j.broken
}

func (j *journal) close() error { return j.f.Close() }
