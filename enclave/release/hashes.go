package release

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// hashes are the stored hashes of the log's tree, as package tlog numbers them: about two for each entry, for as long as the
// lab lives. They lie in a file, so that a custodian's memory does not grow with the log. The file has no name: a custodian
// computes them from the entries whenever it starts, which also checks those.
type hashes struct {
	file  *os.File
	kept  int64       // how many are in the file
	fresh []tlog.Hash // those after them
}

func newHashes(dir string) (hashes, error) {
	f, err := os.CreateTemp(dir, "log-hashes-*")
	if err != nil {
		return hashes{}, fmt.Errorf("following the log: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return hashes{}, errors.Join(fmt.Errorf("following the log: %w", err), f.Close())
	}
	return hashes{file: f}, nil
}

// ReadHashes implements tlog.HashReader.
func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		switch {
		case x < 0 || x >= h.kept+int64(len(h.fresh)):
			return nil, fmt.Errorf("hash %d of %d", x, h.kept+int64(len(h.fresh)))
		case x >= h.kept:
			out[i] = h.fresh[x-h.kept]
		default:
			if _, err := h.file.ReadAt(out[i][:], x*tlog.HashSize); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// keep writes the fresh ones to the file. Whoever holds h as it was before sees what it saw: what is behind its kept ones is
// written again.
func (h hashes) keep() (hashes, error) {
	buf := make([]byte, 0, len(h.fresh)*tlog.HashSize)
	for _, x := range h.fresh {
		buf = append(buf, x[:]...)
	}
	if _, err := h.file.WriteAt(buf, h.kept*tlog.HashSize); err != nil {
		return h, fmt.Errorf("following the log: %w", err)
	}
	return hashes{file: h.file, kept: h.kept + int64(len(h.fresh))}, nil
}
