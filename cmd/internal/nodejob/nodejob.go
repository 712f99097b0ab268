// Package nodejob is what passes between a custodian, the host that runs its compute node, and the node: three programs,
// of which the second knows nothing of what the first tells the third.
package nodejob

import (
	"cmp"
	"fmt"
	"runtime"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/shares"
)

// Job is a node's standard input, as JSON. It holds keys and goes nowhere else. Blobs are in the node's input folder, each
// under BlobName.
type Job struct {
	Plan     enclave.Digest
	Party    int
	Program  mpc.Program
	Sources  []Source // by table of the program
	NoiseKey []byte

	Certificate, Key []byte // PEM
	Pins             [mpc.Nodes]link.Pin
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

// BlobName is a blob's name in the input folder.
func BlobName(d enclave.Digest) string { return fmt.Sprintf("%x", d[:]) }

// Identity is what a host says of itself: which program it runs, and what stands around it.
type Identity struct {
	Program     enclave.Digest // SHA-256 of the program
	Image       enclave.Digest // of the container image that is made of the program alone
	Isolation   string         // back end and protections, for people
	Development bool           // not fit for production
}

// Is reports whether a digest is one of the program's two names.
func (i Identity) Is(d enclave.Digest) bool { return d == i.Program || d == i.Image }

// Limits bound one node. A zero field is the default.
type Limits struct {
	MemoryMiB int64         // default: 4096
	CPUs      float64       // default: all
	Time      time.Duration // default: nine minutes, less than custodians wait for each other
}

// OrDefault fills in defaults.
func (l Limits) OrDefault() Limits {
	return Limits{MemoryMiB: cmp.Or(l.MemoryMiB, 4096), CPUs: cmp.Or(l.CPUs, float64(runtime.NumCPU())), Time: cmp.Or(l.Time, 9*time.Minute)}
}

// Run is one node's run.
type Run struct {
	ID      string         // unique among the host's
	Program enclave.Digest // the host runs no other
	Inputs  string         // absolute folder
	Links   string         // absolute folder with two sockets
	Stdin   []byte         // a Job
	Limits  Limits
	// Progress hears each line that the node writes to standard error; may be nil.
	Progress func(line string)
}
