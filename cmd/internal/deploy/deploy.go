// Package deploy lays a lab that was made in one folder out for its daemons and people: a folder each, with configuration,
// keys and certificate, to be carried to the machines where they belong. The lab moves: its log, its records and its
// custodians' ledgers go along, and the old folder can no longer be opened by mistake, because a log that grows in two
// places is a fork.
//
//	OUT/ca/                 the authority of certificates: belongs on a machine that runs nothing else
//	OUT/labd/               labd.yaml, signing keys, database, log, blobs
//	OUT/witness/            witness.yaml, cosigning key, what it saw last
//	OUT/CUSTODIAN/          custodian.yaml, identity, keyring, ledger, copies of blobs
//	OUT/people/NAME/        client.yaml, identity, and for a steward the agency's keys
package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// Options say where things will be.
type Options struct {
	Host      string        // that daemons listen on and are reached at; "" = 127.0.0.1
	Port      int           // of labd; the witness and the custodians follow; 0 = 7443
	Ports     []int         // instead of Port: labd's, the witness's, then the custodians' in the roster's order, then their nodes'
	Metrics   int           // first port for metrics, on loopback; 0 = none
	Valid     time.Duration // of certificates; 0 = pki.DefaultValid
	Worker    string        // path of the worker program
	Isolation string        // "", docker or process
	Postgres  string        // file with a connection string; "" = SQLite in labd's folder
	Now       time.Time
}

// Laid is where everything is.
type Laid struct {
	Dir        string
	Lab        string            `json:"lab"`
	Server     string            `json:"server"`
	Witness    string            `json:"witness"`
	Custodians map[string]string `json:"custodians"` // name → address
	People     []string          `json:"people"`
}

// Lay moves the lab in a folder to a new folder of folders.
func Lay(ctx context.Context, from, out string, o Options) (_ *Laid, err error) {
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Port == 0 {
		o.Port = 7443
	}
	if _, err := os.Lstat(out); err == nil {
		return nil, fmt.Errorf("laying out: %s is there already", out)
	}
	h, err := home.Open(ctx, from, home.Options{Worker: o.Worker})
	if err != nil {
		return nil, err
	}
	signed, roster, err := h.Roster(ctx)
	if err == nil && o.Postgres != "" {
		err = fresh(ctx, h)
	}
	root := h.Root
	if err = errors.Join(err, h.Close(ctx)); err != nil { // settles everything, and closes the database
		return nil, err
	}
	if err := home.Retire(from); err != nil {
		return nil, err
	}
	l := &layout{from: from, out: out, o: o, roster: roster, signed: signed, root: root, port: o.Port, metrics: o.Metrics}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(out), home.Reinstate(from))
		}
	}()
	return l.lay()
}

// fresh refuses a lab with records: deploy carries a SQLite file along, and cannot write it into PostgreSQL. Records that
// are missing where the log announces them would stop every release.
func fresh(ctx context.Context, h *home.Home) error {
	st, err := h.Statements(ctx)
	if err != nil {
		return err
	}
	datasets, err := h.Datasets(ctx)
	if err != nil {
		return err
	}
	if len(st.All) > 0 || len(datasets) > 0 {
		return fmt.Errorf("laying out with PostgreSQL: %w: the lab has %d statements and %d datasets in SQLite already; lay it out without --postgres, or before its first statement",
			sandbox.ErrConflict, len(st.All), len(datasets))
	}
	return nil
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
}

// withNodes gives every custodian a compute node, if the programs for it lie beside the worker.
func (l *layout) withNodes(custodians []operators.Party) error {
	for _, program := range []string{"node", "nodehost"} {
		if _, err := os.Stat(l.beside(program)); errors.Is(err, fs.ErrNotExist) {
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

// beside is the path of a program that lies beside the worker.
func (l *layout) beside(program string) string {
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
	return laid, nil
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
	var lab string
	for _, p := range l.roster.WithRole(operators.RoleLab) {
		lab = p.Name
	}
	if err := l.issue(filepath.Join(l.out, "labd"), string(operators.RoleLab), lab); err != nil {
		return err
	}
	for _, c := range []struct{ from, to string }{
		{"plane/log", "labd/log"}, {"plane/blobs", "labd/blobs"}, {"plane/pending", "labd/state/pending"}, {"plane/log.key", "labd/log.key"}, {"plane/lab.db", "labd/lab.db"},
	} {
		if err := l.carry(c.from, c.to); err != nil {
			return err
		}
	}
	for _, name := range []string{"lab", "node"} {
		if err := l.signing("plane/"+name+".key", "labd/"+name+".key.pem"); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(filepath.Join(l.out, "labd", "roster.json"), canon.MustMarshal(l.signed), 0o644); err != nil {
		return err
	}
	database := "{sqlite: lab.db}"
	if l.o.Postgres != "" {
		database = fmt.Sprintf("{postgres: %q}", l.o.Postgres)
	}
	text := "# The control plane. Every key is explained at cmd/internal/plane.Config.\n" + l.common(laid.Server) + fmt.Sprintf(`roster: roster.json
keys: {lab: lab.key.pem, node: node.key.pem, log: log.key}
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
	text += fmt.Sprintf("database: %s\nlog_dir: log\nblobs: blobs\nstate: state\nworker: {program: %q, isolation: %q}\n", database, worker, l.o.Isolation)
	if l.nodes != nil {
		text += fmt.Sprintf("nodes: {program: %q, isolation: %q}\n", l.beside("node"), l.nodeIsolation())
	}
	return l.write("labd/labd.yaml", text)
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
	text := "# Where the lab is and who you are. Every key is explained at cmd/internal/desk.Config.\n" +
		fmt.Sprintf("lab: %q\nserver: %q\nroot: %x\ntls: {cert: tls.crt, key: tls.key, ca: ca.crt}\nidentity: identity.key\n", l.roster.Lab, laid.Server, l.root)
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
	if err := durable.WriteFile(filepath.Join(l.out, dir, "roster.json"), canon.MustMarshal(l.signed), 0o644); err != nil {
		return err
	}
	text := "# A custodian. Every key is explained at cmd/internal/custody.Config.\n" + l.common(laid.Custodians[p.Name])
	text += "roster: roster.json\nidentity: identity.key\nkeyring: keyring\nstate: state\nmirror: mirror\n"
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
		text += fmt.Sprintf("node:\n  host: %q\n  program: %q\n  isolation: %q\n  listen: %q\n  peers:\n", l.beside("nodehost"), l.beside("node"), l.nodeIsolation(), l.nodes[p.Name])
		for _, peer := range l.roster.WithRole(operators.RoleCustodian) {
			if peer.Name != p.Name {
				text += fmt.Sprintf("    - {name: %q, address: %q}\n", peer.Name, l.nodes[peer.Name])
			}
		}
	}
	return l.write(filepath.Join(dir, "custodian.yaml"), text)
}
