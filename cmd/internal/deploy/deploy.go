// Package deploy lays a lab that was made in one folder out for its daemons and people: a folder each, with configuration,
// keys and certificate, to be carried to the machines where they belong. The lab moves: its log, its records and its
// custodians' ledgers go along, and the old folder can no longer be opened by mistake, because a log that grows in two
// places is a fork.
//
//	OUT/ca/                 the authority of certificates: belongs on a machine that runs nothing else
//	OUT/labd/               labd.yaml, signing keys, database, log, blobs
//	OUT/labd-2/ …           further control planes on the same PostgreSQL, log and blobs
//	OUT/witness/            witness.yaml, cosigning key, what it saw last
//	OUT/CUSTODIAN/          custodian.yaml, client.yaml, identity, keyring, ledger, copies of blobs
//	OUT/people/NAME/        client.yaml, identity, and for a steward the agency's keys
package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// Options say where things will be.
type Options struct {
	Host      string        // that daemons listen on and are reached at; "" = 127.0.0.1
	Port      int           // of labd; the witness and the custodians follow; 0 = 7443
	Ports     []int         // instead of Port: labd's, the witness's, the custodians' in the roster's order, their nodes' if they have some, further labds'
	Metrics   int           // first port for metrics, on loopback; 0 = none
	Valid     time.Duration // of certificates; 0 = pki.DefaultValid
	Worker    string        // path of the worker program
	Isolation string        // "", docker or process
	Postgres  string        // file with a connection string, or a field in the control plane's Vault; "" = SQLite in labd's folder
	Database  string        // connection string of the lab's database now, if that is PostgreSQL
	Labds     int           // control planes that share one PostgreSQL; 0 = 1
	Now       time.Time
}

// Laid is where everything is.
type Laid struct {
	Dir        string            `json:"dir"`
	Lab        string            `json:"lab"`
	Server     string            `json:"server"` // where clients reach the control plane: addresses separated by commas
	Labds      map[string]string `json:"labds"`  // folder → address
	Witness    string            `json:"witness"`
	Custodians map[string]string `json:"custodians"` // name → address
	People     []string          `json:"people"`
}

// laying is the end of the new folder's name until everything is in it.
const laying = ".laying"

// laidFile in the new folder says where everything is.
const laidFile = "laid.json"

// Lay moves the lab in a folder to a new folder of folders. Cut off anywhere, the lab is in one of the two and in no third
// state: calling again with the same folders ends it.
func Lay(ctx context.Context, from, out string, o Options) (*Laid, error) {
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Port == 0 {
		o.Port = 7443
	}
	if _, err := os.Lstat(out); err == nil {
		return nil, fmt.Errorf("laying out: %s is there already", out)
	}
	if laid, err := takeUp(from, out); err != nil || laid != nil {
		return laid, err
	}
	if o.Labds > 1 && o.Postgres == "" {
		return nil, fmt.Errorf("laying out: %w: %d control planes need a PostgreSQL that they share", sandbox.ErrInvalid, o.Labds)
	}
	if o.Database != "" && o.Postgres == "" {
		return nil, fmt.Errorf("laying out: %w: the lab's records are in PostgreSQL: say where labd finds its connection string", sandbox.ErrInvalid)
	}
	own, err := home.VaultOf(from, "lab")
	if err != nil {
		return nil, err
	}
	dsn, database, err := o.records(ctx, own)
	if err != nil {
		return nil, fmt.Errorf("laying out: %w", err)
	}
	h, err := home.Open(ctx, from, home.Options{Worker: o.Worker, Database: o.Database})
	if err != nil {
		return nil, err
	}
	signed, roster, err := h.Roster(ctx)
	root := h.Root
	if err = errors.Join(err, h.Close(ctx)); err != nil { // settles everything, and closes the database
		return nil, err
	}
	if err := home.BeginMove(from); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.MoveBegun)
	l := &layout{from: from, out: out + laying, o: o, roster: roster, signed: signed, root: root, port: o.Port, metrics: o.Metrics, database: database, vault: own}
	laid, err := l.lay()
	if err == nil && dsn != "" { // last: what fails before it leaves the database as it was
		err = home.MoveRecords(ctx, from, root, dsn)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(l.out), home.UndoMove(from))
	}
	failpoint.Hit(failpoint.MoveMade)
	// From here on there is no way back; calling again ends what fails.
	if err := home.EndMove(from); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.MoveEnded)
	return laid, laid.name(out)
}

// name gives a folder that is whole its name.
func (l *Laid) name(out string) error {
	l.Dir = out
	if err := os.Rename(out+laying, out); err != nil {
		return fmt.Errorf("laying out: %w", err)
	}
	return durable.SyncDir(filepath.Dir(out))
}

// takeUp looks for what a call before left that was cut off: an unfinished folder is thrown away and the lab opened again;
// a finished one gets its name.
func takeUp(from, out string) (*Laid, error) {
	moving, err := home.Moving(from)
	if err != nil {
		return nil, err
	}
	if moving {
		if err := os.RemoveAll(out + laying); err != nil {
			return nil, err
		}
		return nil, home.UndoMove(from)
	}
	moved, err := home.Moved(from)
	if err != nil || !moved {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(out+laying, laidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // moved elsewhere: home.Open says that there is no lab
	}
	laid := &Laid{}
	if err == nil {
		err = canon.Unmarshal(data, laid)
	}
	if err != nil {
		return nil, fmt.Errorf("laying out: %w", err)
	}
	return laid, laid.name(out)
}

// records says where labd's records will be: how to reach PostgreSQL, if they will be there, and the configuration's words
// for it.
func (o Options) records(ctx context.Context, own *vault.Config) (dsn, words string, err error) {
	if o.Postgres == "" {
		return "", "{sqlite: lab.db}", nil
	}
	var at daemon.Secret
	if err := at.UnmarshalText([]byte(o.Postgres)); err != nil {
		return "", "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	if err := at.CheckValue("postgres", here, own); err != nil {
		return "", "", err
	}
	words = at.File
	var c *vault.Client
	if at.Path != "" {
		words = o.Postgres
		if c, err = vault.New(*own); err != nil {
			return "", "", err
		}
	}
	dsn, err = at.Read(ctx, c)
	return dsn, fmt.Sprintf("{postgres: %q}", words), err
}

type layout struct {
	from, out     string
	o             Options
	roster        *operators.Roster
	signed        enclave.Signed
	root          []byte
	port, metrics int
	ca            *pki.Authority
	nodes         map[string]string // addresses of the custodians' compute nodes; nil if their programs are not beside the worker
	database      string            // the configuration's words
	vault         *vault.Config     // the control plane's; nil if its keys are in files
}

// withNodes gives every custodian a compute node, if the programs for it lie beside the worker.
func (l *layout) withNodes(custodians []operators.Party) error {
	for _, program := range []string{"node", "nodehost"} {
		if _, err := os.Stat(l.companion(program)); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	l.nodes = map[string]string{}
	for _, p := range custodians {
		l.nodes[p.Name] = l.next()
	}
	return nil
}

// companion is the path of a program that lies beside the worker.
func (l *layout) companion(program string) string {
	worker, err := filepath.Abs(l.o.Worker)
	if err != nil {
		worker = l.o.Worker
	}
	return filepath.Join(filepath.Dir(worker), program)
}

// nodeIsolation is what stands around nodes: gVisor, which can be asked for workers, connects to no sockets of the host's.
func (l *layout) nodeIsolation() string {
	if l.o.Isolation == "gvisor" {
		return "docker"
	}
	return l.o.Isolation
}

func (l *layout) lay() (*Laid, error) {
	if err := durable.MkdirAll(l.out, 0o700); err != nil {
		return nil, err
	}
	var err error
	if l.ca, err = pki.NewAuthority(l.roster.Lab, l.o.Now); err != nil {
		return nil, err
	}
	if err := l.ca.Save(filepath.Join(l.out, "ca")); err != nil {
		return nil, err
	}
	laid := &Laid{Dir: l.out, Lab: l.roster.Lab, Server: l.next(), Witness: l.next(), Custodians: map[string]string{}}
	laid.Labds = map[string]string{"labd": laid.Server}
	custodians := l.roster.WithRole(operators.RoleCustodian)
	for _, p := range custodians {
		laid.Custodians[p.Name] = l.next()
	}
	if err := l.withNodes(custodians); err != nil {
		return nil, err
	}
	if err := l.plane(laid); err != nil {
		return nil, err
	}
	for n := 2; n <= l.o.Labds; n++ {
		name := fmt.Sprintf("labd-%d", n)
		laid.Labds[name] = l.next()
		laid.Server += "," + laid.Labds[name]
		if err := l.beside(laid, name); err != nil {
			return nil, err
		}
	}
	if err := l.witness(laid); err != nil {
		return nil, err
	}
	for _, p := range custodians {
		if err := l.custodian(laid, p); err != nil {
			return nil, err
		}
	}
	for _, p := range l.roster.Parties {
		switch p.Role {
		case operators.RoleSteward, operators.RoleAnalyst, operators.RoleOfficial, operators.RoleAuditor:
			if p.Absent {
				continue
			}
			if err := l.person(laid, p); err != nil {
				return nil, err
			}
			laid.People = append(laid.People, p.Name)
		}
	}
	return laid, durable.WriteFile(filepath.Join(l.out, laidFile), canon.MustMarshal(laid), 0o600)
}

// next is the next address.
func (l *layout) next() string {
	port := l.port
	if len(l.o.Ports) > 0 {
		port, l.o.Ports = l.o.Ports[0], l.o.Ports[1:]
	} else {
		l.port++
	}
	return net.JoinHostPort(l.o.Host, strconv.Itoa(port))
}

// metricsLine is the configuration's line for the next metrics port, or nothing.
func (l *layout) metricsLine() string {
	if l.metrics == 0 {
		return ""
	}
	l.metrics++
	return fmt.Sprintf("metrics: 127.0.0.1:%d\n", l.metrics-1)
}

func (l *layout) issue(dir string, role, party string) error {
	return l.ca.IssueTo(dir, pki.Name{Lab: l.roster.Lab, Role: role, Party: party},
		pki.IssueOptions{Now: l.o.Now, Valid: l.o.Valid, Hosts: []string{l.o.Host, "localhost"}})
}

func (l *layout) write(name, text string) error {
	return durable.WriteFile(filepath.Join(l.out, name), []byte(text), 0o600)
}

// signing writes a party's signing key without its receiving key.
func (l *layout) signing(identity, to string) error {
	id, err := keys.LoadIdentity(filepath.Join(l.from, identity))
	if err != nil {
		return err
	}
	key, err := id.SigningPEM()
	if err != nil {
		return err
	}
	defer clear(key)
	return durable.WriteFile(filepath.Join(l.out, to), key, 0o600)
}

// common is what every daemon's configuration begins with.
func (l *layout) common(listen string) string {
	return fmt.Sprintf(`lab: %q
listen: %q
%stls: {cert: tls.crt, key: tls.key, ca: ca.crt}
root: %x
`, l.roster.Lab, listen, l.metricsLine(), l.root)
}

func (l *layout) plane(laid *Laid) error {
	files := [][2]string{{"plane/log", "labd/log"}, {"plane/blobs", "labd/blobs"}}
	if l.o.Postgres == "" {
		files = append(files, [2]string{"plane/lab.db", "labd/lab.db"})
	}
	for _, f := range files {
		if err := l.carry(f[0], f[1]); err != nil {
			return err
		}
	}
	return l.labd(laid, "labd", "")
}

// beside lays out one more control plane, with a state of its own, over the first one's log and blobs.
func (l *layout) beside(laid *Laid, name string) error { return l.labd(laid, name, "../labd/") }

// labd writes a control plane's keys, certificate and configuration; its log and blobs are under a path.
func (l *layout) labd(laid *Laid, dir, shared string) error {
	var lab string
	for _, p := range l.roster.WithRole(operators.RoleLab) {
		lab = p.Name
	}
	if err := l.issue(filepath.Join(l.out, dir), string(operators.RoleLab), lab); err != nil {
		return err
	}
	secrets, err := l.planeKeys(dir)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(l.out, dir, "roster.json"), canon.MustMarshal(l.signed), 0o644); err != nil {
		return err
	}
	text := "# The control plane. Every key is explained at cmd/internal/plane.Config.\n" + l.common(laid.Labds[dir]) + secrets + fmt.Sprintf(`roster: roster.json
witness: {name: witness, address: %q}
custodians:
`, laid.Witness)
	for _, p := range l.roster.WithRole(operators.RoleCustodian) {
		text += fmt.Sprintf("  - {name: %q, address: %q}\n", p.Name, laid.Custodians[p.Name])
	}
	worker, err := filepath.Abs(l.o.Worker)
	if err != nil {
		return err
	}
	text += fmt.Sprintf("database: %s\nlog_dir: %slog\nblobs: %sblobs\nstate: state\nworker: {program: %q, isolation: %q}\n", l.database, shared, shared, worker, l.o.Isolation)
	if l.nodes != nil {
		text += fmt.Sprintf("nodes: {program: %q, isolation: %q}\n", l.companion("node"), l.nodeIsolation())
	}
	return l.write(dir+"/labd.yaml", text)
}

// planeKeys puts the control plane's signing keys into its folder, or its Vault's credentials, and returns the
// configuration's lines for them.
func (l *layout) planeKeys(dir string) (string, error) {
	lines, err := l.vaultLines("vault", dir, l.vault)
	if err != nil {
		return "", err
	}
	if l.vault != nil { // on the same terms: it has the data keys of the blobs too
		lines += strings.Replace(lines, "vault:", "blob_vault:", 1)
	}
	if _, err := os.Stat(filepath.Join(l.from, "plane", "lab.key")); errors.Is(err, fs.ErrNotExist) && l.vault != nil {
		mount := cmp.Or(l.vault.Transit, "transit")
		return lines + fmt.Sprintf("keys: {lab: \"vault:%[1]s/keys/lab\", node: \"vault:%[1]s/keys/node\", log: \"vault:%[1]s/keys/log\"}\n", mount), nil
	}
	if err := l.carry("plane/log.key", dir+"/log.key"); err != nil {
		return "", err
	}
	for _, name := range []string{"lab", "node"} {
		if err := l.signing("plane/"+name+".key", dir+"/"+name+".key.pem"); err != nil {
			return "", err
		}
	}
	return lines + "keys: {lab: lab.key.pem, node: node.key.pem, log: log.key}\n", nil
}

// vaultLines copies a Vault's credentials to a daemon's folder and returns the configuration's lines for it.
func (l *layout) vaultLines(key, dir string, cfg *vault.Config) (string, error) {
	if cfg == nil {
		return "", nil
	}
	own := *cfg
	for path, name := range map[*string]string{&own.RoleIDFile: "role-id", &own.SecretIDFile: "secret-id", &own.CAFile: "vault-ca.crt"} {
		if *path == "" {
			continue
		}
		if err := copyFile(*path, filepath.Join(l.out, dir, name), 0o600); err != nil {
			return "", err
		}
		*path = name
	}
	text, err := yaml.Marshal(map[string]vault.Config{key: own})
	return string(text), err
}

func (l *layout) person(laid *Laid, p operators.Party) error {
	dir := filepath.Join("people", p.Name)
	if err := l.issue(filepath.Join(l.out, dir), string(p.Role), p.Name); err != nil {
		return err
	}
	key := filepath.Join("people", p.Name+".key")
	if _, err := os.Stat(filepath.Join(l.from, key)); err == nil {
		if err := l.carry(key, filepath.Join(dir, "identity.key")); err != nil {
			return err
		}
	}
	text := "# Where the lab is and who you are. Every key is explained at cmd/internal/desk.Config.\n" + l.client(laid) + "identity: identity.key\n"
	if p.Role == operators.RoleSteward {
		if err := durable.MkdirAll(filepath.Join(l.out, dir, "agency"), 0o700); err != nil {
			return err
		}
		if err := l.carry(filepath.Join("agencies", p.Body), filepath.Join(dir, "agency")); err != nil {
			return err
		}
		text += "agency: agency\n"
	}
	return l.write(filepath.Join(dir, "client.yaml"), text)
}

func (l *layout) witness(laid *Laid) error {
	if err := l.issue(filepath.Join(l.out, "witness"), "witness", "witness"); err != nil {
		return err
	}
	for _, c := range []struct{ from, to string }{{"witness/witness.key", "witness/witness.key"}, {"witness/state", "witness/state"}} {
		if err := l.carry(c.from, c.to); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("# The log's witness. Every key is explained at cmd/internal/witnessd.Config.\nlab: %q\nlisten: %q\n%stls: {cert: tls.crt, key: tls.key, ca: ca.crt}\nkey: witness.key\nstate: state\nof: %q\n",
		l.roster.Lab, laid.Witness, l.metricsLine(), l.roster.Log)
	return l.write("witness/witness.yaml", text)
}

func (l *layout) custodian(laid *Laid, p operators.Party) error {
	dir := p.Name
	if err := l.issue(filepath.Join(l.out, dir), string(operators.RoleCustodian), p.Name); err != nil {
		return err
	}
	if err := l.carry(filepath.Join("custodians", p.Name), dir); err != nil {
		return err
	}
	lines := "identity: identity.key\nkeyring: keyring\n"
	own, err := home.VaultOf(l.from, p.Name)
	if err != nil {
		return err
	}
	if own != nil {
		if lines, err = l.vaultLines("vault", dir, own); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(l.out, dir, "vault.yaml")); err != nil { // it is in the configuration now
			return err
		}
	}
	if err := durable.WriteFile(filepath.Join(l.out, dir, "roster.json"), canon.MustMarshal(l.signed), 0o644); err != nil {
		return err
	}
	text := "# A custodian. Every key is explained at cmd/internal/custody.Config.\n" + l.common(laid.Custodians[p.Name])
	text += "roster: roster.json\n" + lines + "state: state\nmirror: mirror\n"
	for _, party := range l.roster.WithRole(operators.RoleLab) {
		text += fmt.Sprintf("labd: {name: %q, address: %q}\n", party.Name, laid.Server)
	}
	text += "peers:\n"
	for _, peer := range l.roster.WithRole(operators.RoleCustodian) {
		if peer.Name != p.Name {
			text += fmt.Sprintf("  - {name: %q, address: %q}\n", peer.Name, laid.Custodians[peer.Name])
		}
	}
	if l.nodes != nil {
		text += fmt.Sprintf("node:\n  host: %q\n  program: %q\n  isolation: %q\n  listen: %q\n  peers:\n", l.companion("nodehost"), l.companion("node"), l.nodeIsolation(), l.nodes[p.Name])
		for _, peer := range l.roster.WithRole(operators.RoleCustodian) {
			if peer.Name != p.Name {
				text += fmt.Sprintf("    - {name: %q, address: %q}\n", peer.Name, l.nodes[peer.Name])
			}
		}
	}
	if err := l.write(filepath.Join(dir, "custodian.yaml"), text); err != nil {
		return err
	}
	// So that its people can rotate its wrapping keys from its folder.
	return l.write(filepath.Join(dir, "client.yaml"), "# Where the lab is, for `lab --client` in the custodian's own name. Every key is explained at cmd/internal/desk.Config.\n"+l.client(laid))
}

// client is what every client's configuration begins with.
func (l *layout) client(laid *Laid) string {
	return fmt.Sprintf("lab: %q\nserver: %q\nroot: %x\ntls: {cert: tls.crt, key: tls.key, ca: ca.crt}\n", l.roster.Lab, laid.Server, l.root)
}
