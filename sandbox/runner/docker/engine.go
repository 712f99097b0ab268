package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"yingzhou.dev/lab/sandbox/runner"
)

// engine is all of Docker's client that is used here. Its methods take containers by name.
type engine struct{ api *client.Client }

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
	return &engine{api}, nil
}

func (e *engine) info(ctx context.Context) (system.Info, error) { return e.api.Info(ctx) }

// load gives the engine an image archive.
func (e *engine) load(ctx context.Context, archive io.Reader) error {
	res, err := e.api.ImageLoad(ctx, archive)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body) // the image is there when the answer ends
	return errors.Join(err, res.Body.Close())
}

// stored is what the engine says of an image.
type stored struct {
	id     string
	layers []string
	env    []string
}

func (e *engine) image(ctx context.Context, ref string) (stored, error) {
	in, err := e.api.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return stored{}, runner.ErrNotFound
	}
	if err != nil {
		return stored{}, err
	}
	s := stored{id: in.ID, layers: in.RootFS.Layers}
	if in.Config != nil {
		s.env = in.Config.Env
	}
	return s, nil
}

// create makes a container and attaches to its streams, so that nothing it writes is missed.
func (e *engine) create(ctx context.Context, name string, c *container.Config, h *container.HostConfig) (io.ReadCloser, error) {
	_, err := e.api.ContainerCreate(ctx, c, h, nil, nil, name)
	if errdefs.IsConflict(err) {
		return nil, runner.ErrExists
	}
	if err != nil {
		return nil, fmt.Errorf("creating container: %w", err)
	}
	conn, err := e.api.ContainerAttach(ctx, name, container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attaching: %w", err), e.remove(context.WithoutCancel(ctx), name))
	}
	return attached{conn.Reader, conn.Conn}, nil
}

// attached is a hijacked connection: read through its buffer, closed at the socket.
type attached struct {
	io.Reader
	io.Closer
}

// split copies an attached stream until it ends, however that comes about: who ended is asked of the engine.
func split(stdout, stderr io.Writer, stream io.Reader) {
	_, _ = stdcopy.StdCopy(stdout, stderr, stream)
}

func (e *engine) start(ctx context.Context, name string) error {
	return e.api.ContainerStart(ctx, name, container.StartOptions{})
}

// wait returns a channel that gets the exit code, and one that gets an error instead. Called before start, it cannot
// miss the end.
func (e *engine) wait(ctx context.Context, name string) (<-chan container.WaitResponse, <-chan error) {
	return e.api.ContainerWait(ctx, name, container.WaitConditionNextExit)
}

// ended is how a container ended.
type ended struct {
	oom              bool
	started, stopped time.Time
}

func (e *engine) inspect(ctx context.Context, name string) (ended, error) {
	in, err := e.api.ContainerInspect(ctx, name)
	if err != nil {
		return ended{}, err
	}
	started, err1 := time.Parse(time.RFC3339Nano, in.State.StartedAt)
	stopped, err2 := time.Parse(time.RFC3339Nano, in.State.FinishedAt)
	if stopped.Before(started) { // the engine notes the start late, and the end of a short run before it
		started = stopped
	}
	return ended{in.State.OOMKilled, started, stopped}, errors.Join(err1, err2)
}

func (e *engine) exists(ctx context.Context, name string) (bool, error) {
	_, err := e.api.ContainerInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// kill ends what runs, if it does.
func (e *engine) kill(ctx context.Context, name string) error {
	err := e.api.ContainerKill(ctx, name, "SIGKILL")
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
		return nil
	}
	return err
}

// remove kills and removes a container, if there is one.
func (e *engine) remove(ctx context.Context, name string) error {
	err := e.api.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// list returns the labels of the containers that have all of want, running or not.
func (e *engine) list(ctx context.Context, want map[string]string) ([]map[string]string, error) {
	f := filters.NewArgs()
	for k, v := range want {
		f.Add("label", k+"="+v)
	}
	found, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
	if err != nil {
		return nil, err
	}
	labels := make([]map[string]string, 0, len(found))
	for _, c := range found {
		labels = append(labels, c.Labels)
	}
	return labels, nil
}

// cpuTime is what a running container has used, as the host's control group counts it.
func (e *engine) cpuTime(ctx context.Context, name string) (time.Duration, error) {
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
