package seal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/operators"
)

// Sharing says for whom a table is split.
type Sharing struct {
	ProjectKey []byte // identifier.KeyBytes, held by the agencies only
	Scenario   enclave.Digest
	Nodes      []operators.Party // three custodians at whose bodies the nodes run
	Keyset     *enclave.Keyset   // the latest of the dataset, dealt to all of them
}

// splitting is the state of sealing shares.
type splitting struct {
	keys       [mpc.Nodes]shares.Key
	secrets    [mpc.Nodes]shares.NodeSecret
	pseudonyms *identifier.Pseudonyms
}

// prepareShares draws the component keys if any layout is of shares.
func (s *sealing) prepareShares(plan []schema.SealedLayout) error {
	any := false
	for _, l := range plan {
		any = any || l.Kind == enclave.Shares
	}
	if !any {
		return nil
	}
	cfg := s.cfg.Shares
	if cfg == nil || len(cfg.Nodes) != mpc.Nodes || cfg.Scenario.IsZero() || cfg.Keyset == nil || s.cfg.Key == nil {
		return errors.New("sealing shares: the dataset's key and keyset, project key, scenario and three nodes are needed")
	}
	s.sharing = &splitting{}
	for n, node := range cfg.Nodes {
		var err error
		if s.sharing.secrets[n], err = nodeSecret(s.cfg.Key, cfg.Keyset, node.Name); err != nil {
			return fmt.Errorf("sealing shares: %w", err)
		}
	}
	for c := range s.sharing.keys {
		if _, err := rand.Read(s.sharing.keys[c][:]); err != nil {
			return fmt.Errorf("sealing shares: %w", err)
		}
	}
	var err error
	if s.sharing.pseudonyms, err = identifier.NewPseudonyms(cfg.ProjectKey, cfg.Scenario); err != nil {
		return fmt.Errorf("sealing shares: %w", err)
	}
	return nil
}

// pseudonym is the entity's, 0 where no shares are sealed.
func (s *sealing) pseudonym(key string) uint64 {
	if s.sharing == nil {
		return 0
	}
	return s.sharing.pseudonyms.Of(key)
}

// addShare begins a shared column.
func (s *sealing) addShare(st *layoutState, v *vectorState) (err error) {
	if v.w, err = s.create(); err != nil {
		return err
	}
	st.vectors = append(st.vectors, v)
	v.share, err = shares.NewColumn(v.name, s.sharing.keys)
	return err
}

// shareOf computes the columns that other layouts have not: pseudonyms, single labels, and numbers as they are.
func (s *sealing) shareOf(name string) (valueOf, bool) {
	letter, rest, _ := strings.Cut(name, ":")
	switch letter {
	case enclave.EntityShare:
		return func(c *chunk, out []int64) {
			for r, e := range c.entity[:c.rows] {
				out[r] = int64(e)
			}
		}, true
	case "i":
		cut := strings.LastIndexByte(rest, ':')
		at, col := s.column(rest[:cut])
		for k := range col.Domain {
			if enclave.IndicatorName([]string{col.Name}, int64(k)) == name {
				return indicator(axis{cols: []int{at}, size: []int64{int64(len(col.Domain))}}, int64(k)), true
			}
		}
	case "v":
		at, col := s.column(rest)
		centre := col.Centre()
		return func(c *chunk, out []int64) {
			for r, x := range c.value[at][:c.rows] {
				if out[r] = 0; c.present[at][r] {
					out[r] = x + centre
				}
			}
		}, true
	}
	return nil, false
}

// pad fills the last rows of shares up to the unit: rows of zeros, with pseudonyms of nobody.
func (s *sealing) pad() error {
	for _, st := range s.layouts {
		if st.Kind != enclave.Shares {
			continue
		}
		n := (enclave.ShareRowsUnit - st.rows%enclave.ShareRowsUnit) % enclave.ShareRowsUnit
		st.rows += n
		for _, v := range st.vectors {
			values := make([]int64, n)
			if v.name == enclave.EntityShare {
				random := make([]byte, 8*n)
				if _, err := rand.Read(random); err != nil {
					return fmt.Errorf("sealing shares: %w", err)
				}
				for i := range values {
					values[i] = int64(binary.LittleEndian.Uint64(random[8*i:]))
				}
			}
			if err := v.share.Add(values); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishShare writes a shared column's blob; nil for other vectors.
func (s *sealing) finishShare(v *vectorState) (commitments []enclave.Digest, err error) {
	if v.share == nil {
		return nil, nil
	}
	commitments, v.chunks, err = v.share.Finish(s.cfg.Keyset, s.cfg.Shares.Scenario, v.w)
	return commitments, err
}

// handOut encrypts the component keys to the nodes that hold them: with what their custodians' pieces give, and that under
// HPKE to the custodian. The keyset's end is the end of the first, the second keeps other custodians out.
func (s *sealing) handOut(l *enclave.Layout, rows int64) error {
	l.Shares = &enclave.ShareSet{Scenario: s.cfg.Shares.Scenario, Rows: rows, Keys: [][]byte{}}
	for _, n := range s.cfg.Shares.Nodes {
		l.Shares.Nodes = append(l.Shares.Nodes, n.Name)
	}
	var sealed [][]byte
	for c := range s.sharing.keys {
		for _, h := range mpc.Holders(c) {
			node := s.cfg.Shares.Nodes[h]
			info := l.ShareInfo(s.cfg.Keyset, c, node.Name)
			b, err := s.sharing.secrets[h].Wrap(info, s.sharing.keys[c])
			if err == nil {
				b, err = keys.SealTo(node.HPKE, info, b)
			}
			if err != nil {
				return fmt.Errorf("sealing shares: component key %d for %q: %w", c, node.Name, err)
			}
			sealed = append(sealed, b)
		}
	}
	l.Shares.Keys = sealed
	return l.CheckShares()
}

// closeShares lets go of the files in which components waited.
func (s *sealing) closeShares() error {
	var errs []error
	for _, st := range s.layouts {
		for _, v := range st.vectors {
			if v.share != nil {
				errs = append(errs, v.share.Close())
			}
		}
	}
	if s.sharing != nil {
		clear(s.sharing.keys[:])
		clear(s.sharing.secrets[:])
	}
	return errors.Join(errs...)
}
