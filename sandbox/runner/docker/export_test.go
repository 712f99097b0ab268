package docker

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"

	"yingzhou.dev/lab/sandbox/runner"
)

// RemoveImages removes from the engine what Prepare loaded.
func (r *Runner) RemoveImages(ctx context.Context) error {
	var err error
	for _, img := range r.images {
		_, gone := r.eng.api.ImageRemove(ctx, reference(img), image.RemoveOptions{Force: true})
		if !errdefs.IsNotFound(gone) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// Ended reports whether a container is there and no longer runs.
func (r *Runner) Ended(ctx context.Context, h runner.Handle) (bool, error) {
	f, err := r.eng.find(ctx, r.name(h))
	return err == nil && !f.running, err
}
