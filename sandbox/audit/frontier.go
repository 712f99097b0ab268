package audit

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

func firstDifference(a, b []tlog.Hash) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func split(tile []byte) []tlog.Hash {
	out := make([]tlog.Hash, len(tile)/tlog.HashSize)
	for i := range out {
		copy(out[i][:], tile[i*tlog.HashSize:])
	}
	return out
}

// subtree is the root of a full tile.
func subtree(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	return tlog.NodeHash(subtree(hashes[:len(hashes)/2]), subtree(hashes[len(hashes)/2:]))
}

// frontier is the right edge of a growing tree: the roots of its perfect subtrees, largest first (RFC 6962, section
// 2.1: the leaves' count in binary is the list of their sizes).
type frontier struct {
	leaves int64
	peaks  []tlog.Hash
}

func (f *frontier) push(leaf tlog.Hash) {
	h := leaf
	for n := f.leaves; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(f.peaks[len(f.peaks)-1], h)
		f.peaks = f.peaks[:len(f.peaks)-1]
	}
	f.peaks = append(f.peaks, h)
	f.leaves++
}

func (f *frontier) root() tlog.Hash {
	if len(f.peaks) == 0 {
		h, _ := tlog.TreeHash(0, nil) // the empty tree reads nothing
		return h
	}
	h := f.peaks[len(f.peaks)-1]
	for i := len(f.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(f.peaks[i], h)
	}
	return h
}

func (f *frontier) clone() *frontier {
	return &frontier{leaves: f.leaves, peaks: slices.Clone(f.peaks)}
}
