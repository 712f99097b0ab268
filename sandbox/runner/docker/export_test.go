package docker

import (
	"context"
	"errors"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"

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

// Subnet is where a group's network lies.
func (r *Runner) Subnet(ctx context.Context, id string) (netip.Prefix, error) {
	in, err := r.eng.api.NetworkInspect(ctx, r.networkName(id), network.InspectOptions{})
	if errdefs.IsNotFound(err) {
		return netip.Prefix{}, runner.ErrNotFound
	}
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.ParsePrefix(in.IPAM.Config[0].Subnet)
}

// FirstSubnet is where a group's network will lie if nothing is there.
func FirstSubnet(r *Runner, id string) netip.Prefix { return subnet(r.networkName(id), 0) }
