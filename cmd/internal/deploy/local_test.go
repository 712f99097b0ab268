package deploy_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/examples"
)

// script runs one of deploy/local with its programs and folder.
type script struct {
	t        *testing.T
	bin, dir string
	port     int
}

func (s script) run(ctx context.Context, name string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "../../../deploy/local/"+name)
	cmd.Env = append(os.Environ(), "LAB_UP_BIN="+s.bin, "LAB_UP_DIR="+s.dir, fmt.Sprint("LAB_UP_PORT=", s.port), "LAB_UP_VAULT=1", "LAB_UP_POSTGRES=1", "LAB_ISOLATION=process")
	// The daemons that lab-up starts outlive it, with its standard error: a file, and no pipe whose end somebody waits for.
	out, err := os.CreateTemp(s.t.TempDir(), name)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	said, _ := os.ReadFile(out.Name())
	return said, err
}

// as runs a command line as a person.
func (s script) as(person, program string, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(s.bin, program), args...)
	cmd.Env = append(os.Environ(), "LAB_CLIENT="+s.person(person))
	said, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %s %s: %v: %s", person, program, strings.Join(args, " "), err, said)
	}
	return string(said)
}

func (s script) person(name string) string { return filepath.Join(s.dir, "services", "people", name) }

// pids are of what lab-up says it has started.
func (s script) pids() map[string]string {
	out := map[string]string{}
	files, err := filepath.Glob(filepath.Join(s.dir, "run", "*.pid"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			s.t.Fatal(err)
		}
		out[filepath.Base(f)] = strings.TrimSpace(string(data))
	}
	return out
}

// freeBase finds a port from which lab-up's are free.
func freeBase(t *testing.T) int {
	t.Helper()
	free := func(base int) bool {
		for _, offset := range []int{0, 100, 200} {
			for i := range 6 {
				l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", base+offset+i))
				if err != nil {
					return false
				}
				l.Close()
			}
		}
		return true
	}
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		base := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if base < 60000 && free(base) {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// make lab-up with Vaults and PostgreSQL: every program as it is shipped, each party with a Vault of its own, from nothing
// to a released result; no key in any log or audit file; then down, with nothing left running, and up again.
func TestLabUp(t *testing.T) {
	if testing.Short() {
		t.Skip("its daemons are programs of their own, which a race detector here does not see")
	}
	if os.Getenv(string(vaulttest.Vault)) == "" {
		t.Skipf("%s names no server program: .ci/setup builds one, or name a stock one", vaulttest.Vault)
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(found) == 0 {
		t.Skip("PostgreSQL is not installed: .ci/setup installs it")
	}
	// PostgreSQL, as another user, must reach its folder, and a socket's path is short.
	dir, err := os.MkdirTemp("/tmp", "lab-up-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := script{t: t, bin: t.TempDir(), dir: filepath.Join(dir, "up"), port: freeBase(t)}
	if err := hometest.Build(t.Context(), s.bin, "lab", "seal", "labd", "custodian", "witness", "worker"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if said, err := s.run(context.WithoutCancel(t.Context()), "lab-down"); err != nil {
			t.Errorf("lab-down: %v: %s", err, said)
		}
	})
	up := func() {
		t.Helper()
		if said, err := s.run(t.Context(), "lab-up"); err != nil {
			t.Fatalf("lab-up: %v: %s", err, said)
		}
	}
	up()

	table, err := hometest.Table(300)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := examples.Files.ReadFile("health/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	for name, data := range map[string][]byte{"health.csv": table, "schema.json": schema} {
		if err := os.WriteFile(filepath.Join(files, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.as("lin.hua", "lab", "dataset", "register", filepath.Join(files, "schema.json"))
	s.as("lin.hua", "seal", filepath.Join(files, "health.csv"), "--dataset", "health")
	s.as("wang.fang", "lab", "operator", "license", "崇明数科", "--until", time.Now().AddDate(1, 0, 0).Format(time.DateOnly), "--review", "安审[2026]17", "--agreement", "保密[2026]9")
	s.as("chen.yu", "lab", "scenario", "apply", "care", "--purpose", "就医需求规划", "--epsilon", "6", "--job-epsilon", "1", "--until", time.Now().AddDate(0, 6, 0).Format(time.DateOnly),
		"--use", "health: health=group+filter, mdvis=aggregate")
	s.as("lin.hua", "lab", "scenario", "consent", "care")
	s.as("wang.fang", "lab", "scenario", "approve", "care", "--reason", "目的明确")
	s.as("li.jun", "lab", "scenario", "approve", "care", "--reason", "列最少够用")
	if said := s.as("chen.yu", "lab", "job", "submit", "--scenario", "care", "SELECT health, COUNT(*) AS n, AVG(mdvis) AS visits FROM health GROUP BY health"); !strings.Contains(said, "visits") {
		t.Errorf("the job gives %s", said)
	}
	s.leaks()

	before := s.pids()
	if len(before) != 11 { // labd, witness, three custodians, five Vaults, PostgreSQL
		t.Errorf("started: %v", before)
	}
	if said, err := s.run(t.Context(), "lab-down"); err != nil {
		t.Fatalf("lab-down: %v: %s", err, said)
	}
	for name, pid := range before {
		if line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); err == nil && bytes.Contains(line, []byte(s.dir)) {
			t.Errorf("%s still runs: %s", name, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	up()
	if said := s.as("chen.yu", "lab", "job", "list"); !strings.Contains(said, "released") {
		t.Errorf("up again, the jobs are %s", said)
	}
}

// leaks looks for what the parties' Vaults keep in everything that was logged.
func (s script) leaks() {
	t := s.t
	t.Helper()
	r, err := desk.OpenRemote(s.person("lin.hua"), "", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Client.Close()
	d, err := r.Dataset(t.Context(), hometest.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) vault.Config {
		dir := filepath.Join(s.dir, "vaults", name)
		address, err := os.ReadFile(filepath.Join(dir, "address"))
		if err != nil {
			t.Fatal(err)
		}
		return vault.Config{Address: strings.TrimSpace(string(address)), RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id")}
	}
	custodians := map[string]vault.Config{"custodian-bureau": at("bureau"), "custodian-cyber": at("cyber"), "custodian-notary": at("notary")}
	secrets := hometest.Secrets(t, custodians, *d.Keyset, d.KeysetDigest)
	c, err := vault.New(at("agency"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := transit.NewSafe(c).Get(t.Context(), "dataset key "+hometest.Dataset+" "+d.KeysetDigest.String())
	if err != nil {
		t.Fatal(err)
	}
	secrets["owner's key"] = own[len(own)/2:][:30]
	for _, name := range []string{"labd", "agency"} {
		for _, file := range []string{"secret-id", "root-token", "unseal-key"} {
			data, err := os.ReadFile(filepath.Join(s.dir, "vaults", name, file))
			if err != nil {
				t.Fatal(err)
			}
			secrets[name+"'s "+file] = bytes.TrimSpace(data)
		}
	}
	texts := map[string][]byte{}
	for _, pattern := range []string{"run/*.log", "vaults/*/audit.log"} {
		found, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil || len(found) < 5 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, f := range found {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Base(f) != "ready.log" { // of the last attempt to reach labd, which succeeded
				texts[f] = data
			}
		}
	}
	hometest.NotIn(t, secrets, texts)
	// No signing or dataset key is in a file: only what opens connections and logs in, and what people sign with.
	for _, pattern := range []string{"services/labd/l*.key", "services/labd/*.pem", "services/custodian-*/identity.key", "services/custodian-*/keyring", "services/people/lin.hua/agency/keyring"} {
		if found, err := filepath.Glob(filepath.Join(s.dir, pattern)); err != nil || len(found) > 0 {
			t.Errorf("in files: %v, %v", found, err)
		}
	}
}
