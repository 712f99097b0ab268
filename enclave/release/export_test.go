package release

import (
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// Charges counts this custodian's own charge records.
func (c *Custodian) Charges() (n int) {
	records, err := c.ledger.since(nil)
	if err != nil {
		panic(err)
	}
	for _, s := range records {
		var r Record
		if s.Open(KindLedger, &r) == nil && r.By == c.Name() && r.Type == recordCharge {
			n++
		}
	}
	return n
}

// Spent is what the custodian's merged ledger says was charged to a keyset.
func (c *Custodian) Spent(keyset enclave.Digest, epoch int64) int64 {
	d, _, _ := c.ledger.spent(keyset, epoch, enclave.Digest{})
	return d
}

// ForceCharge writes a charge into the custodian's own ledger as if a job had been committed.
func (c *Custodian) ForceCharge(plan enclave.Digest, charge Charge, at canon.Time) error {
	_, err := c.ledger.append(Record{Type: recordCharge, Plan: plan, Job: "job-0", Charge: &charge, At: at})
	return err
}

// BreakLedger makes every further write to the custodian's ledger fail, as a full disk would.
func (c *Custodian) BreakLedger() error { return c.ledger.f.Close() }
