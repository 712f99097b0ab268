package seal

import (
	"context"
	"io"

	"yingzhou.dev/lab/enclave"
)

// Disk decides what becomes of a blob's writes and of its commit, for tests of disks that fail.
type Disk interface {
	Write(blob io.Writer, p []byte) (int, error)
	Commit(commit func() (enclave.Digest, int64, error)) (enclave.Digest, int64, error)
}

// SealOn is Seal onto such a disk.
func SealOn(ctx context.Context, cfg Config, d Disk) (*Result, error) {
	return run(ctx, cfg, func() (blobWriter, error) {
		w, err := cfg.Blobs.Create()
		if err != nil {
			return nil, err
		}
		return onDisk{w, d}, nil
	})
}

type onDisk struct {
	blobWriter
	d Disk
}

func (o onDisk) Write(p []byte) (int, error) { return o.d.Write(o.blobWriter, p) }
func (o onDisk) Commit() (enclave.Digest, int64, error) {
	return o.d.Commit(o.blobWriter.Commit)
}
