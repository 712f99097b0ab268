package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/deploy"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// compose is the program that reads deploy/docker/compose.yaml, and what it is called with.
type compose struct {
	args []string
	dir  string
	env  []string
}

func (c compose) run(ctx context.Context, args ...string) ([]byte, error) {
	all := append(append([]string{}, c.args[1:]...), args...)
	cmd := exec.CommandContext(ctx, c.args[0], all...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	return cmd.CombinedOutput()
}

// The compose file, run: our images, made from our programs alone, as another user than root, on read-only file systems;
// a job goes through with its worker in a container of its own. PostgreSQL and Vault are others' images and stay out.
func TestCompose(t *testing.T) {
	if testing.Short() {
		t.Skip("its daemons are programs of their own, which a race detector here does not see")
	}
	if err := exec.CommandContext(t.Context(), "docker", "info").Run(); err != nil {
		t.Skip("no Docker daemon answers: .ci/setup starts one")
	}
	program := []string{"docker-compose"}
	if _, err := exec.LookPath(program[0]); err != nil {
		if exec.CommandContext(t.Context(), "docker", "compose", "version").Run() != nil {
			t.Skip("neither docker-compose nor docker compose is installed: .ci/setup installs one")
		}
		program = []string{"docker", "compose"}
	}
	// As the repository is laid out, but with nothing in it that an image should not get.
	root := t.TempDir()
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(hometest.Build(t.Context(), bin, "labd", "custodian", "witness", "worker", "node", "nodehost"), os.CopyFS(filepath.Join(root, "deploy", "docker"), os.DirFS("../../../deploy/docker"))); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "services")
	from := filepath.Join(t.TempDir(), "lab")
	o := hometest.Options{Rows: 200, Worker: filepath.Join(bin, "worker")}
	if err := hometest.Make(t.Context(), from, o); err != nil {
		t.Fatal(err)
	}
	base := freeBase(t)
	if _, err := deploy.Lay(t.Context(), from, folder, deploy.Options{Port: base, Worker: "/usr/local/bin/worker", Isolation: "docker", Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	user, group, err := ownedBy(folder)
	if err != nil {
		t.Fatal(err)
	}
	project := fmt.Sprint("yingzhou-test-", base)
	c := compose{args: append(program, "-p", project, "-f", "deploy/docker/compose.yaml"), dir: root,
		env: []string{"LAB_SERVICES=" + folder, "LAB_DB=" + t.TempDir(), "LAB_USER=" + user, "DOCKER_GROUP=" + group, "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0"}}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			said, _ := c.run(ctx, "logs", "--no-color")
			t.Logf("%s", said)
		}
		if said, err := c.run(ctx, "down", "-v", "--rmi", "local"); err != nil {
			t.Errorf("down: %v: %s", err, said)
		}
	})
	if said, err := c.run(t.Context(), "up", "-d", "--build"); err != nil {
		t.Fatalf("up: %v: %s", err, said)
	}
	r, err := desk.OpenRemote(filepath.Join(folder, "people", hometest.Analyst), "", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		if _, err = r.Info(ctx); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("labd does not answer: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	id, err := r.Identity(hometest.Analyst)
	if err != nil {
		t.Fatal(err)
	}
	scenario, _, err := r.Scenario(t.Context(), hometest.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	job, err := r.Submit(t.Context(), lab.Request{Analyst: hometest.Analyst, Scenario: scenario, Query: "SELECT COUNT(*) AS n FROM health"},
		func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) })
	if err == nil {
		job, err = r.Run(t.Context(), job.ID, nil)
	}
	if err != nil || job.State != sandbox.Released {
		t.Fatalf("the job is %s: %s, %v", job.State, job.Reason, err)
	}
	if isolation, why, err := r.Isolation(t.Context()); err != nil || !strings.HasPrefix(isolation, "docker") {
		t.Errorf("the worker ran in %s (%s), %v", isolation, why, err)
	}
}

// ownedBy gives the folder to the images' user, if this user may do that, and returns that user and Docker's group.
func ownedBy(folder string) (user, group string, err error) {
	out, err := exec.Command("stat", "-c", "%g", "/var/run/docker.sock").Output()
	if err != nil {
		return "", "", err
	}
	group = strings.TrimSpace(string(out))
	if os.Getuid() != 0 {
		return fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), group, nil
	}
	err = filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, 65532, 65532))
	})
	return "65532:65532", group, err
}
