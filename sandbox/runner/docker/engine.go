package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"yingzhou.dev/lab/sandbox/runner"
)

// engine is all of Docker's client that is used here. Its methods take containers by name. All but those that last as long
// as a container give up on a daemon that does not answer.
type engine struct {
	api      *client.Client
	patience time.Duration
}

// patience is how long one answer may take: a daemon under load takes seconds to start a container.
const patience = 30 * time.Second

// soon bounds one call.
func (e *engine) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, e.patience, fmt.Errorf("%w: the Docker daemon has not answered for %v", runner.ErrUnavailable, e.patience))
}

// answer gives an error of a call that was cut short its cause.
func answer(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if client.IsErrConnectionFailed(err) {
		return fmt.Errorf("%w: %w", runner.ErrUnavailable, err)
	}
	return err
}

// answerTimeout bounds how long a daemon may take to say that it is there.
const answerTimeout = 2 * time.Second

// dial finds an engine that answers. Only one on this machine will do: inputs are mounted from its file system.
func dial(ctx context.Context, host string) (*engine, error) {
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if host != "" {
		opts = append(opts, client.WithHost(host))
	}
	api, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: setting up Docker's client: %w", runner.ErrUnavailable, err)
	}
	if at := api.DaemonHost(); !strings.HasPrefix(at, "unix://") {
		return nil, errors.Join(fmt.Errorf("%w: Docker at %s may be another machine: use a unix socket", runner.ErrUnavailable, at), api.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := api.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: no Docker daemon answers: %w", runner.ErrUnavailable, err), api.Close())
	}
	return &engine{api, patience}, nil
}

func (e *engine) info(ctx context.Context) (system.Info, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	info, err := e.api.Info(ctx)
	return info, answer(ctx, err)
}

// load gives the engine an image archive.
func (e *engine) load(ctx context.Context, archive io.Reader) error {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	res, err := e.api.ImageLoad(ctx, archive)
	if err != nil {
		return answer(ctx, err)
	}
	defer res.Body.Close()
	// The image is there when the answer ends. What went wrong meanwhile is in the answer, whose status is good.
	for dec := json.NewDecoder(res.Body); ; {
		var line struct{ Error string }
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return answer(ctx, err)
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
	}
}

// stored is what the engine says of an image.
type stored struct {
	id     string
	layers []string
	env    []string
}

func (e *engine) image(ctx context.Context, ref string) (stored, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	in, err := e.api.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return stored{}, runner.ErrNotFound
	}
	if err != nil {
		return stored{}, answer(ctx, err)
	}
	s := stored{id: in.ID, layers: in.RootFS.Layers}
	if in.Config != nil {
		s.env = in.Config.Env
	}
	return s, nil
}

// create makes a container and attaches to its streams, so that nothing it writes is missed.
func (e *engine) create(ctx context.Context, name string, c *container.Config, h *container.HostConfig, n *network.NetworkingConfig) (*attached, error) {
	soon, cancel := e.soon(ctx)
	defer cancel()
	_, err := e.api.ContainerCreate(soon, c, h, n, nil, name)
	if errdefs.IsConflict(err) {
		return nil, runner.ErrExists
	}
	if err != nil {
		return nil, fmt.Errorf("creating container: %w", answer(soon, err))
	}
	stream, err := e.attach(ctx, name, c.AttachStdin)
	if err != nil {
		return nil, errors.Join(err, e.remove(context.WithoutCancel(ctx), name))
	}
	return stream, nil
}

// attach reads a container's streams from now on; with stdin it can also be told something.
func (e *engine) attach(ctx context.Context, name string, stdin bool) (*attached, error) {
	conn, err := e.api.ContainerAttach(ctx, name, container.AttachOptions{Stream: true, Stdout: true, Stderr: true, Stdin: stdin})
	if err != nil {
		return nil, fmt.Errorf("attaching: %w", err)
	}
	return &attached{conn.Reader, conn.Conn, conn}, nil
}

// found is a container that is there.
type found struct {
	running bool
	started time.Time
	labels  map[string]string
}

func (e *engine) find(ctx context.Context, name string) (found, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	in, err := e.api.ContainerInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return found{}, runner.ErrNotFound
	}
	if err != nil {
		return found{}, answer(ctx, err)
	}
	started, err := time.Parse(time.RFC3339Nano, in.State.StartedAt)
	return found{in.State.Running, started, in.Config.Labels}, err
}

// attached is a hijacked connection: read through its buffer, closed at the socket.
type attached struct {
	io.Reader
	io.Closer
	conn types.HijackedResponse
}

// tell writes to the container's standard input and ends it. A container that does not read it all, or has ended, is no
// failure here: what it makes of that shows in its own end.
func (a *attached) tell(data []byte) {
	_, _ = a.conn.Conn.Write(data)
	_ = a.conn.CloseWrite()
}

// split copies an attached stream until it ends, however that comes about: who ended is asked of the engine.
func split(stdout, stderr io.Writer, stream io.Reader) {
	_, _ = stdcopy.StdCopy(stdout, stderr, stream)
}

func (e *engine) start(ctx context.Context, name string) error {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	return answer(ctx, e.api.ContainerStart(ctx, name, container.StartOptions{}))
}

// wait returns a channel that gets the exit code, and one that gets an error instead. For a container that has not been
// started it waits for the next end, and cannot miss it.
func (e *engine) wait(ctx context.Context, name string, started bool) (<-chan container.WaitResponse, <-chan error) {
	if started {
		return e.api.ContainerWait(ctx, name, container.WaitConditionNotRunning)
	}
	return e.api.ContainerWait(ctx, name, container.WaitConditionNextExit)
}

// ended is how a container ended.
type ended struct {
	oom              bool
	started, stopped time.Time
}

func (e *engine) inspect(ctx context.Context, name string) (ended, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	in, err := e.api.ContainerInspect(ctx, name)
	if err != nil {
		return ended{}, answer(ctx, err)
	}
	started, err1 := time.Parse(time.RFC3339Nano, in.State.StartedAt)
	stopped, err2 := time.Parse(time.RFC3339Nano, in.State.FinishedAt)
	if stopped.Before(started) { // the engine notes the start late, and the end of a short run before it
		started = stopped
	}
	return ended{in.State.OOMKilled, started, stopped}, errors.Join(err1, err2)
}

// lateOOM is how long the word of a memory limit may come after the end that it caused.
const lateOOM = time.Second

// saidOOM asks the engine's events whether a container that was killed met its memory limit. The kernel tells of the limit
// and of the end on two ways, and the engine notes the limit with the container only if it hears of it first.
func (e *engine) saidOOM(ctx context.Context, name string, since time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*lateOOM)
	defer cancel()
	stamp := func(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }
	said, failed := e.api.Events(ctx, events.ListOptions{Since: stamp(since), Until: stamp(time.Now().Add(lateOOM)),
		Filters: filters.NewArgs(filters.Arg("type", "container"), filters.Arg("container", name), filters.Arg("event", "oom"))})
	select {
	case <-said:
		return true
	case <-failed: // the end of the time, too
		return false
	}
}

func (e *engine) exists(ctx context.Context, name string) (bool, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	_, err := e.api.ContainerInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, answer(ctx, err)
}

// kill ends what runs, if it does.
func (e *engine) kill(ctx context.Context, name string) error {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	err := e.api.ContainerKill(ctx, name, "SIGKILL")
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
		return nil
	}
	return answer(ctx, err)
}

// remove kills and removes a container, if there is one.
func (e *engine) remove(ctx context.Context, name string) error {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	err := e.api.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return answer(ctx, err)
}

// list returns the labels of the containers that have all of want, running or not.
func (e *engine) list(ctx context.Context, want map[string]string) ([]map[string]string, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	f := filters.NewArgs()
	for k, v := range want {
		f.Add("label", k+"="+v)
	}
	found, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
	if err != nil {
		return nil, answer(ctx, err)
	}
	labels := make([]map[string]string, 0, len(found))
	for _, c := range found {
		labels = append(labels, c.Labels)
	}
	return labels, nil
}

// cpuTime is what a running container has used, as the host's control group counts it.
func (e *engine) cpuTime(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	res, err := e.api.ContainerStatsOneShot(ctx, name)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var s container.StatsResponse
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return 0, err
	}
	return time.Duration(s.CPUStats.CPUUsage.TotalUsage), nil
}

// networkTries bounds how many subnets are tried for one that no other network has.
const networkTries = 16

// createNetwork makes a network that leads nowhere: internal, so without a route, and with no address of the host's on
// its bridge, so without a gateway.
func (e *engine) createNetwork(ctx context.Context, name string, labels map[string]string) (netip.Prefix, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	off := false
	var err error
	for i := range networkTries {
		p := subnet(name, i)
		_, err = e.api.NetworkCreate(ctx, name, network.CreateOptions{Driver: "bridge", Internal: true, EnableIPv6: &off, Labels: labels,
			IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: p.String()}}},
			Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true", "com.docker.network.bridge.enable_ip_masquerade": "false",
				"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}})
		switch {
		case err == nil:
			return p, nil
		case errdefs.IsConflict(err):
			return p, runner.ErrExists
		case !strings.Contains(err.Error(), "overlaps"): // the engine has no code for it
			return p, err
		}
	}
	return netip.Prefix{}, err
}

// members are the names of the containers on a network.
func (e *engine) members(ctx context.Context, name string) ([]string, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	in, err := e.api.NetworkInspect(ctx, name, network.InspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, runner.ErrNotFound
	}
	var names []string
	for _, c := range in.Containers {
		names = append(names, c.Name)
	}
	return names, err
}

func (e *engine) removeNetwork(ctx context.Context, name string) error {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	err := e.api.NetworkRemove(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return answer(ctx, err)
}

// networks are the values that a label has on the networks with another label.
func (e *engine) networks(ctx context.Context, with, label string) ([]string, error) {
	ctx, cancel := e.soon(ctx)
	defer cancel()
	found, err := e.api.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("label", with))})
	values := []string{}
	for _, n := range found {
		values = append(values, n.Labels[label])
	}
	slices.Sort(values)
	return values, answer(ctx, err)
}
