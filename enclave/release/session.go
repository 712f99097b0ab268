package release

import (
	"context"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
)

// maxSessions bounds what sessions hold, in bytes. A release forgets its session at its end; those that never end, because
// a job was refused or given up, make room for others.
const maxSessions = 512 << 20

// session keeps what was computed for a plan between the calls of one release. Without it the plan is executed again.
type session struct {
	dossier *Dossier
	cts     []evaluator.Ciphertext
	output  enclave.Digest   // of cts
	keys    []enclave.Digest // noise key per term
	// own shares by stage. They are what the custodian hands out; keeping them saves unwrapping its pieces at every check.
	own  map[int]*ShareSet
	used int64 // the turn of its last use
}

// size is what a session holds in bytes, roughly: mapped blobs are not counted.
func (s *session) size() (n int64) {
	for i := range s.cts {
		n += 8*int64(len(s.cts[i].A1)+len(s.cts[i].A2)+len(s.cts[i].B)+len(s.cts[i].Cells)) + 64
	}
	for _, set := range s.own {
		for _, p := range set.Pieces {
			n += int64(len(p.Shares))
		}
	}
	return n
}

// session returns what was computed for a plan, or computes it.
func (c *Custodian) session(ctx context.Context, d *Dossier) (*session, error) {
	s := c.sessions[d.PlanDigest]
	if s == nil {
		var err error
		if s, err = c.execute(ctx, d); err != nil {
			return nil, err
		}
		c.sessions[d.PlanDigest] = s
		c.makeRoom(s, maxSessions)
	}
	// Not only when the plan is executed: another dossier may bring the same plan with another receipt, and a release names it.
	if d.Program == nil && s.output != d.Receipt.Output {
		return nil, refuse(ErrOutput, "receipt of node %q says %s, this custodian has computed %s", d.Receipt.By, d.Receipt.Output.Short(), s.output.Short())
	}
	c.turn++
	s.dossier, s.used = d, c.turn
	return s, nil
}

// makeRoom forgets sessions, the one unused for the longest first and current never, until all hold at most limit bytes.
func (c *Custodian) makeRoom(current *session, limit int64) {
	var held int64
	for _, s := range c.sessions {
		held += s.size()
	}
	for held > limit {
		var oldest enclave.Digest
		var found *session
		for d, s := range c.sessions {
			if s != current && (found == nil || s.used < found.used) {
				oldest, found = d, s
			}
		}
		if found == nil {
			return
		}
		held -= found.size()
		delete(c.sessions, oldest)
	}
}
