// Package docker runs a worker in a container of its own, made for one task and removed after it. The image holds the
// worker and nothing else, is built in memory (package image), is known by the digest of its config, and is checked
// again before each start. Nothing is ever pulled from a registry.
//
// What the container may not do is in hardening.go, line by line. The engine has to be on this machine. With runc the
// worker shares the host's kernel; with gVisor's runsc, where it is installed, it talks to one of its own.
//
// Output goes through an attached stream and nowhere else. A container that outlives the lab can be taken up while it runs
// (Adopt), and loses what it wrote meanwhile; one that ended has lost its answer: List finds it, Wait says
// runner.ErrOutputLost, and Remove ends it. One that nobody takes up ends by its limit on processor time.
package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/image"
)

// Config is how the back end is set up. The zero value works.
type Config struct {
	Host     string // "unix:///path/of/socket"; empty = DOCKER_HOST or Docker's usual one
	Runtime  string // OCI runtime, such as "runsc"; empty = the engine's default
	Instance string // tells this lab's tasks from those of others on the same engine; empty = "lab"
}

// repository is the name under which images are stored; the tag is the digest in hexadecimal.
const repository = "yingzhou-worker"

// Runner runs workers as containers.
type Runner struct {
	cfg Config
	eng *engine

	mu     sync.Mutex
	images map[string]*image.Image // by name: the digest of the config
	tasks  map[runner.Handle]*task

	alter func(*container.Config, *container.HostConfig) // set by tests only, to see what each line of hardening is for
}

var _ runner.Runner = (*Runner)(nil)

var validInstance = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Open connects to the engine. If none answers within two seconds, or it lacks the runtime, the error wraps
// runner.ErrUnavailable. Close disconnects.
func Open(ctx context.Context, cfg Config) (*Runner, error) {
	if cfg.Instance == "" {
		cfg.Instance = "lab"
	}
	if !validInstance.MatchString(cfg.Instance) {
		return nil, fmt.Errorf("docker: instance %q must match %s", cfg.Instance, validInstance)
	}
	eng, err := dial(ctx, cfg.Host)
	if err != nil {
		return nil, err
	}
	r := &Runner{cfg: cfg, eng: eng, images: map[string]*image.Image{}, tasks: map[runner.Handle]*task{}}
	if _, err := r.Probe(ctx); err != nil {
		return nil, errors.Join(err, eng.api.Close())
	}
	return r, nil
}

// Close disconnects. Tasks that were not removed go on, and nobody reads their output.
func (r *Runner) Close() error { return r.eng.api.Close() }

// Probe asks the engine what it applies.
func (r *Runner) Probe(ctx context.Context) (runner.Isolation, error) {
	info, err := r.eng.info(ctx)
	if err != nil {
		return runner.Isolation{}, fmt.Errorf("%w: asking Docker: %w", runner.ErrUnavailable, err)
	}
	if _, ok := info.Runtimes[r.cfg.Runtime]; r.cfg.Runtime != "" && !ok {
		known := slices.Sorted(maps.Keys(info.Runtimes))
		return runner.Isolation{}, fmt.Errorf("%w: Docker has no runtime %q, only %s", runner.ErrUnavailable, r.cfg.Runtime, strings.Join(known, ", "))
	}
	return judge(info, r.cfg.Runtime), nil
}

// Prepare makes the worker's image and loads it into the engine, where it stays.
func (r *Runner) Prepare(ctx context.Context, worker string, want enclave.Digest) (string, enclave.Digest, error) {
	program, err := readProgram(worker)
	if err != nil {
		return "", enclave.Digest{}, fmt.Errorf("preparing worker %q: %w", worker, err)
	}
	img, err := image.New(program)
	if err != nil {
		return "", enclave.Digest{}, fmt.Errorf("preparing worker %q: %w", worker, err)
	}
	if !want.IsZero() && img.Digest != want {
		return "", img.Digest, &runner.DigestError{Worker: worker, Want: want, Got: img.Digest}
	}
	if err := r.load(ctx, img); err != nil {
		return "", img.Digest, fmt.Errorf("preparing worker %q: %w", worker, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := img.Digest.String()
	r.images[name] = img
	return name, img.Digest, nil
}

func readProgram(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	program, err := io.ReadAll(io.LimitReader(f, runner.MaxProgram+1))
	if err == nil && len(program) > runner.MaxProgram {
		err = fmt.Errorf("%w: the file has more than %d bytes", runner.ErrInvalid, runner.MaxProgram)
	}
	return program, err
}

// load gives the engine an image that it lacks.
func (r *Runner) load(ctx context.Context, img *image.Image) error {
	if _, err := r.check(ctx, img); !errors.Is(err, runner.ErrNotFound) {
		return err
	}
	var archive bytes.Buffer
	if err := img.WriteTo(&archive, reference(img)); err != nil {
		return err
	}
	if err := r.eng.load(ctx, &archive); err != nil {
		return fmt.Errorf("loading image: %w", err)
	}
	_, err := r.check(ctx, img)
	return err
}

func reference(img *image.Image) string {
	return repository + ":" + strings.TrimPrefix(img.Digest.String(), "sha256:")
}

// check returns the engine's name for exactly this image. A classic engine names images by their config's digest. One
// that keeps them in containerd names them by a manifest of its own making; there the digest of the only layer decides,
// since the rest of the config is overridden when a container is made, but for the environment, which has to be empty.
func (r *Runner) check(ctx context.Context, img *image.Image) (id string, err error) {
	s, err := r.eng.image(ctx, reference(img))
	if err != nil {
		return "", fmt.Errorf("image %s: %w", reference(img), err)
	}
	if s.id != img.Digest.String() && (len(s.layers) != 1 || s.layers[0] != img.Layer || len(s.env) != 0) {
		return "", fmt.Errorf("the engine's image %s is not the one that was approved: remove it", reference(img))
	}
	return s.id, nil
}
