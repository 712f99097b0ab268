package mirror

import (
	"context"
	"io"

	"yingzhou.dev/lab/enclave"
)

// Open yields the own copy of a blob of any kind and that size, fetched and hashed if it is not here yet.
func (m *Mirror) Open(ctx context.Context, d enclave.Digest, size int64) (io.ReadCloser, error) {
	if err := m.own.Pull(ctx, m.from, d, size); err != nil {
		return nil, err
	}
	return m.own.ReadBlob(ctx, d, 0)
}

// Forget deletes the own copy of a blob that Open has fetched.
func (m *Mirror) Forget(d enclave.Digest) error {
	if m.from == m.own {
		return nil
	}
	return m.own.Delete(d)
}
