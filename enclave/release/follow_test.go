package release_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
)

// countingLog notes which entries it is asked for.
type countingLog struct {
	logView
	from []int64
}

func (l *countingLog) Leaves(ctx context.Context, from, to int64) ([][]byte, error) {
	l.from = append(l.from, from)
	return l.logView.Leaves(ctx, from, to)
}

// A custodian keeps what it read of the log: a restart asks for nothing that it has, whatever a crash did to the file.
func TestFollowedEntriesAreKept(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	w.check(w.commit(b))
	path := filepath.Join(w.dir, "cust-a", "state", "log-entries")
	whole, err := os.ReadFile(path)
	w.check(err)
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		afresh bool
	}{
		{"untouched", func(b []byte) []byte { return b }, false},
		{"a save that broke off", func(b []byte) []byte { return append(b, 0, 0, 0, 9, 'x') }, false},
		{"cut short", func(b []byte) []byte { return b[:len(b)-3] }, true},
		{"flipped bit", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, true},
		{"gone", func([]byte) []byte { return nil }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.check(w.custodians["cust-a"].Close())
			w.check(os.WriteFile(path, c.change(slices.Clone(whole)), 0o600))
			log := &countingLog{logView: logView{Log: w.log}}
			cust := w.openCustodianOn("cust-a", log)
			w.connect()
			w.announce(enclave.EntryPlan, enclave.Digest{1}) // there is something new to read
			w.check(w.commit(b))
			if len(log.from) == 0 || (log.from[0] == 0) != c.afresh {
				t.Errorf("asked for entries from %v", log.from)
			}
			_, cp, err := w.log.Checkpoint(t.Context())
			w.check(err)
			if st := cust.Status(); st.LogSize != cp.Size || st.LogRoot != cp.Root {
				t.Errorf("status is %+v, the log is %+v", st, cp)
			}
			if whole, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A custodian that cannot read what it saw last must not take it for nothing, and names the file.
func TestDamagedCheckpointStopsACustodian(t *testing.T) {
	w := ready(t)
	w.check(w.commit(w.job(cubeQuery, 2_000_000)))
	path := filepath.Join(w.dir, "cust-a", "state", "log-seen.json")
	whole, err := os.ReadFile(path)
	w.check(err)
	w.check(w.custodians["cust-a"].Close())
	w.check(os.WriteFile(path, whole[:len(whole)/2], 0o600))
	if _, err := w.tryOpen("cust-a"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("opened with half a checkpoint: %v", err)
	}
}

// The journal has what the ledger and the log cannot take.
func TestJournalNeedsNobody(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	w.check(w.custodians["cust-a"].Close())
	log := &logView{Log: w.log}
	c := w.openCustodianOn("cust-a", log)
	w.connect()
	b.Statements = b.Statements[:1]
	log.down = true
	if err := c.Commit(t.Context(), b, []string{"cust-a", "cust-b"}); err == nil {
		t.Fatal("a dossier without statements was committed")
	}
	dir := filepath.Join(w.dir, "cust-a", "state")
	lines, err := release.ReadJournal(dir)
	w.check(err)
	if len(lines) != 1 || lines[0].Rule != release.ErrUnauthorized.Error() || lines[0].Plan != b.Plan.Digest() || c.Status().Refusals != 1 {
		t.Errorf("the journal holds %+v", lines)
	}
	// A line whose end is missing was never acted on.
	path := filepath.Join(dir, "refusals.jsonl")
	data, err := os.ReadFile(path)
	w.check(err)
	w.check(c.Close())
	w.check(os.WriteFile(path, append(data, `{"at":`...), 0o600))
	c = w.openCustodianOn("cust-a", log)
	if lines, err = release.ReadJournal(dir); err != nil || len(lines) != 1 || c.Status().Refusals != 1 {
		t.Errorf("after a torn write the journal holds %+v, %v", lines, err)
	}
}
