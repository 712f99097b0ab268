package audit

import (
	"github.com/transparency-dev/tessera/api"
	"golang.org/x/mod/sumdb/note"
)

// What the tests of the parsers reach.
var (
	CheckpointText  = checkpointText
	MergeSignatures = mergeSignatures
)

// SplitBundle is the parser that tree.bundle uses.
func SplitBundle(data []byte) ([][]byte, error) {
	var b api.EntryBundle
	err := b.UnmarshalText(data)
	return b.Entries, err
}

// Guard is the signer that a log's Tessera has.
func Guard(l *Log) note.Signer { return l.signer }
