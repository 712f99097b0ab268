// Package nodejob is what passes between a custodian and its compute node, each a process: JSON on the pipes between
// them. It holds keys and goes nowhere else.
package nodejob

import (
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/shares"
)

// Job is a node's standard input.
type Job struct {
	Plan     enclave.Digest
	Party    int
	Program  mpc.Program
	Sources  []Source          // by table of the program
	Blobs    map[string]string // path of each blob, by the text of its digest
	NoiseKey []byte

	Certificate, Key []byte // PEM
	Pins             [mpc.Nodes]link.Pin
	Network          string // "unix" or "tcp"
	Listen, Next     string // addresses: of this node, for the one before it, and of the one after it
	StallSeconds     int
}

// Source is one dataset.
type Source struct {
	Keyset enclave.Digest
	Layout enclave.Layout
	Keys   [2]shares.Key
}

// Result is a node's standard output.
type Result struct {
	Output                                         mpc.Output
	SentNext, SentPrev, ReceivedNext, ReceivedPrev enclave.Digest
	SentBytes                                      int64
}
