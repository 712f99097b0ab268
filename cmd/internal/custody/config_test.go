package custody

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/pki/pkitest"
)

// The configuration of the manual, and each way to have it wrong, with what the message must name.
func TestConfig(t *testing.T) {
	ca := pkitest.New(t, "test", nil)
	dir := ca.Dir(t, "custodian", "cust-a")
	id, err := keys.NewIdentity("cust-a")
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Save(filepath.Join(dir, "identity.key")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"roster.json", "role-id", "secret-id"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"node", "nodehost"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const node = "node:\n  host: nodehost\n  program: node\n  isolation: docker\n  listen: 127.0.0.1:7011\n  memory_mib: 2048\n  time: 5m\n  peers:\n" +
		"    - {name: cust-b, address: \"127.0.0.1:7012\"}\n    - {name: cust-c, address: \"127.0.0.1:7013\"}\n"
	const files = "identity: identity.key\nkeyring: keyring\n"
	const inVault = "vault:\n  address: https://127.0.0.1:8200\n  role_id_file: role-id\n  secret_id_file: secret-id\n  patience: 20s\n"
	base := fmt.Sprintf(`lab: test
listen: 127.0.0.1:0
metrics: 127.0.0.1:0
tls: {cert: tls.crt, key: tls.key, ca: ca.crt}
log: {level: warn, format: text}
root: %s
roster: roster.json
state: state
mirror: mirror
labd: {name: lab, address: "127.0.0.1:7000"}
peers:
  - {name: cust-b, address: "127.0.0.1:7002"}
  - {name: cust-c, address: "127.0.0.1:7003"}
workers: 2
limits: {per_second: 5}
drain: 10s
`, hex.EncodeToString(make([]byte, ed25519.PublicKeySize)))
	load := func(text string) (*Config, error) {
		path := filepath.Join(dir, "custodian.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var c Config
		return &c, daemon.Load(path, &c)
	}
	for name, text := range map[string]string{"keys in files": base + files, "keys in a Vault": base + inVault, "in production": base + inVault + "production: true\n",
		"with a node": base + files + node, "with a node in production": base + inVault + node + "production: true\n"} {
		c, err := load(text)
		if err != nil || !filepath.IsAbs(c.State) || c.Limits.PerSecond != 5 || c.Limits.AtOnce != 16 {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":             {base + files + "keyrings: x\n", "keyrings"},
		"twice":                   {base + files + "state: other\n", "state"},
		"no keys":                 {base, "identity"},
		"keys in two places":      {base + files + inVault, "vault"},
		"files in production":     {base + files + "production: true\n", "production"},
		"short root key":          {strings.Replace(base, "root: 00", "root: ", 1) + files, "root"},
		"node without a host":     {base + files + strings.Replace(node, "  host: nodehost\n", "", 1), "node.host"},
		"node without a program":  {base + files + strings.Replace(node, "program: node", "program: nothing", 1), "node.program"},
		"node in gVisor":          {base + files + strings.Replace(node, "docker", "gvisor", 1), "node.isolation"},
		"process in production":   {base + inVault + strings.Replace(node, "docker", "process", 1) + "production: true\n", "node.isolation"},
		"node without an address": {base + files + strings.Replace(node, "127.0.0.1:7011", "7011", 1), "node.listen"},
		"node with one peer":      {base + files + node[:strings.Index(node, "    - {name: cust-c")], "node.peers"},
		"node's peer twice":       {base + files + strings.Replace(node, "cust-c", "cust-b", 1), "node.peers[1]"},
		"too long":                {base + files + strings.Replace(node, "5m", "20m", 1), "node.time"},
		"negative memory":         {base + files + strings.Replace(node, "2048", "-1", 1), "node.memory_mib"},
		"no such roster":          {strings.Replace(base, "roster.json", "nothing.json", 1) + files, "roster"},
		"peer twice":              {strings.Replace(base, "cust-c", "cust-b", 1) + files, "peers[1]"},
		"peer without port":       {strings.Replace(base, "127.0.0.1:7003", "127.0.0.1", 1) + files, "peers[1].address"},
		"no labd":                 {strings.Replace(base, "name: lab,", "", 1) + files, "labd.name"},
		"negative":                {strings.Replace(base, "per_second: 5", "per_second: -5", 1) + files, "limits.per_second"},
		"no state":                {strings.Replace(base, "state: state\n", "", 1) + files, "state"},
		"no secret":               {base + strings.Replace(inVault, "secret_id_file: secret-id", "secret_id_file: nothing", 1), "secret_id"},
		"a secret in the file":    {base + inVault + "  secret_id: hunter2\n", "secret_id"},
	} {
		_, err := load(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s gives %v, want it to name %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the message repeats a secret: %v", name, err)
		}
	}
}

// What is the matter with a custodian's Vault its callers may know: it is nobody's refusal, and it passes.
func TestVaultTroubleIsNoRefusal(t *testing.T) {
	for _, cause := range []error{vault.ErrSealed, vault.ErrUnreachable, vault.ErrSlow, vault.ErrNoAudit} {
		st, ok := statusOf("cust-a")(fmt.Errorf("piece at https://vault.body.internal: %w", cause))
		if !ok {
			t.Fatalf("%v is opaque", cause)
		}
		err := refusal.FromStatus("x", st.Err())
		if refusal.Final(err) || !strings.Contains(err.Error(), "cust-a") || !strings.Contains(err.Error(), cause.Error()) || strings.Contains(err.Error(), "internal") {
			t.Errorf("%v arrives as %v", cause, err)
		}
	}
}
