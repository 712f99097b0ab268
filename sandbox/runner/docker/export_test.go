package docker

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
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

// SetPatience changes how long an answer of the engine may take.
func (r *Runner) SetPatience(d time.Duration) { r.eng.patience = d }

// LogPath is where the engine keeps a container's output.
func (r *Runner) LogPath(ctx context.Context, h runner.Handle) (string, error) {
	in, err := r.eng.api.ContainerInspect(ctx, r.name(h))
	if err != nil {
		return "", err
	}
	return in.LogPath, nil
}

// Everything lists all that the engine has of containers and networks, whoever made them.
func (r *Runner) Everything(ctx context.Context) (containers, networks []string, err error) {
	cs, err1 := r.eng.api.ContainerList(ctx, container.ListOptions{All: true})
	ns, err2 := r.eng.api.NetworkList(ctx, network.ListOptions{})
	for _, c := range cs {
		containers = append(containers, c.ID)
	}
	for _, n := range ns {
		networks = append(networks, n.ID)
	}
	slices.Sort(networks)
	return containers, networks, errors.Join(err1, err2)
}

// ControlGroups are the folders of a running container's control groups on this machine.
func (r *Runner) ControlGroups(ctx context.Context, h runner.Handle) []string {
	in, err := r.eng.api.ContainerInspect(ctx, r.name(h))
	if err != nil {
		return nil
	}
	var found []string
	for _, p := range []string{"/sys/fs/cgroup/docker/", "/sys/fs/cgroup/*/docker/", "/sys/fs/cgroup/system.slice/docker-"} {
		g, _ := filepath.Glob(p + in.ID + "*")
		found = append(found, g...)
	}
	return found
}

// BeforeCreate has f called before each container is made.
func (r *Runner) BeforeCreate(f func()) {
	r.alter = nil
	if f != nil {
		r.alter = func(*container.Config, *container.HostConfig) { f() }
	}
}

// SaidOOM reports what the engine's events say of a task that has ended and is still there.
func (r *Runner) SaidOOM(ctx context.Context, h runner.Handle) (bool, error) {
	state, err := r.eng.inspect(ctx, r.name(h))
	return err == nil && r.eng.saidOOM(ctx, r.name(h), state.started), err
}
