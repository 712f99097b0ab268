package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"yingzhou.dev/lab/cmd/internal/custody"
	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/plane"
	"yingzhou.dev/lab/internal/pki/pkitest"
)

// Every configuration that the operations manual shows is one that the daemon takes, as it stands there.
func TestManualsConfigurations(t *testing.T) {
	manual, err := os.ReadFile("../../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(manual), -1)
	if len(blocks) != 2 {
		t.Fatalf("the manual shows %d configurations: this test knows the custodian's and labd's", len(blocks))
	}
	ca := pkitest.New(t, "pudong", nil)
	dir := ca.Dir(t, "custodian", "custodian-bureau")
	for _, name := range []string{"roster.json", "role-id", "secret-id", "worker"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := strings.Repeat("6f", 32)
	check := func(name, text string, d daemon.Daemon) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := daemon.Load(path, d); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	custodian := strings.Replace(blocks[0][1], "6f1c…", root, 1)
	check("custodian.yaml", custodian, &custody.Config{})
	// labd's shows what is different with a Vault; the rest is as `lab deploy` writes it.
	check("labd.yaml", `lab: pudong
listen: 127.0.0.1:7443
tls: {cert: tls.crt, key: tls.key, ca: ca.crt}
root: `+root+`
roster: roster.json
witness: {name: witness, address: "127.0.0.1:7444"}
custodians: [{name: custodian-bureau, address: "127.0.0.1:7445"}]
log_dir: log
blobs: blobs
state: state
worker: {program: worker}
`+blocks[1][1], &plane.Config{})
}
