package engine

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"yingzhou.dev/lab/enclave/mpc"
)

// verify holds every dealt component to its commitment and to the program. Both holders of a component check it against
// the same commitment, so their copies are equal before anything is computed.
func (j *job) verify() error {
	for _, t := range j.program.Tables {
		for _, col := range t.Columns {
			name := t.Name + "." + col.Name
			parts, ok := j.dealt.Columns[name]
			if !ok {
				return fmt.Errorf("running program: column %q was not dealt to node %d", name, j.id)
			}
			for k, c := range parts {
				number := (j.id + k) % mpc.Nodes
				if c.Kind != col.Kind || int64(c.Rows) != t.Rows {
					return fmt.Errorf("running program: column %q: component %d has %d rows of kind %q, not %d of kind %q",
						name, number, c.Rows, c.Kind, t.Rows, col.Kind)
				}
				if c.Commitment() != j.dealt.Commitments[name][number] {
					return fmt.Errorf("running program: column %q: component %d: %w", name, number, mpc.ErrComponent)
				}
			}
		}
	}
	return nil
}

// agreement is a digest of all that the nodes must have in common.
func (j *job) agreement() [32]byte {
	h := sha256.New()
	program := j.program.Digest()
	h.Write(program[:])
	for _, name := range slices.Sorted(maps.Keys(j.questions)) {
		q := j.questions[name]
		fmt.Fprintf(h, "%d %s", len(name), name)
		h.Write(q[:])
	}
	return [32]byte(h.Sum(nil))
}

// same makes sure that all nodes have one digest.
func (p *party) same(digest [32]byte) {
	p.begin()
	mine := digestWords(digest)
	for _, d := range []*direction{&p.next, &p.prev} {
		p.send(d, mine[:])
	}
	for _, d := range []*direction{&p.next, &p.prev} {
		var theirs [4]uint64
		p.recv(d, theirs[:])
		if theirs != mine {
			p.fail(d.number, fmt.Errorf("%w: nodes have different programs or commitments", mpc.ErrInconsistent))
		}
	}
	p.rounds++
}

// column is a column's share, expanded from what was dealt at its first use. Nothing writes to it.
func (j *job) column(name string) share {
	if s, ok := j.values[name]; ok {
		return s
	}
	parts := j.dealt.Columns[name]
	s := share{parts[0].Expand(), parts[1].Expand()}
	j.values[name] = s
	return s
}

func (j *job) columns(names []string) []share {
	out := make([]share, len(names))
	for i, n := range names {
		out[i] = j.column(n)
	}
	return out
}

// where is a filter, nil if there is none.
func (j *job) where(name string) *share {
	if name == "" {
		return nil
	}
	s := j.column(name)
	return &s
}

// fields are key columns; beside, if any, are columns that they are to be compared with.
func (j *job) fields(names, beside []string) []field {
	out := make([]field, len(names))
	for i, n := range names {
		count := j.types[n].Bits()
		if beside != nil {
			count = max(count, j.types[beside[i]].Bits())
		}
		out[i] = wordField(j.column(n), count)
	}
	return out
}
