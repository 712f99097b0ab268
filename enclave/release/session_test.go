package release

import (
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
)

func TestSessionsMakeRoom(t *testing.T) {
	c := &Custodian{sessions: map[enclave.Digest]*session{}}
	var all []*session
	for i := range 5 {
		s := &session{cts: []evaluator.Ciphertext{{A1: make([]uint64, 1000)}}, own: map[int]*ShareSet{1: {Pieces: []PieceShares{{Shares: make([]byte, 100)}}}}, used: int64(10 - i)}
		c.sessions[enclave.Digest{byte(i)}] = s
		all = append(all, s)
	}
	each := all[0].size()
	if each < 8100 {
		t.Fatalf("a session has %d bytes", each)
	}
	left := func() (out []int) {
		for i := range all {
			if c.sessions[enclave.Digest{byte(i)}] != nil {
				out = append(out, i)
			}
		}
		return out
	}
	c.makeRoom(all[4], 5*each)
	if got := left(); len(got) != 5 {
		t.Errorf("room for all, left are %v", got)
	}
	c.makeRoom(all[4], 3*each)
	if got := left(); len(got) != 3 || got[0] != 0 || got[1] != 1 || got[2] != 4 {
		t.Errorf("left are %v, want the two used last and the current one", got)
	}
	c.makeRoom(all[4], 0)
	if got := left(); len(got) != 1 || got[0] != 4 {
		t.Errorf("left are %v, want the current one", got)
	}
}
