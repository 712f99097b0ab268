// Package plane is the control plane as labd runs it: the parts of a lab but for custodians, wired by one configuration.
package plane

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/rpc"
)

// Config is labd's configuration: one YAML file. Paths are relative to its folder. A key that is not here is an error.
type Config struct {
	daemon.Common `yaml:",inline"`

	Root       string `yaml:"root"`       // the lab's root public key in hexadecimal
	Roster     string `yaml:"roster"`     // file with the lab's first roster, signed by the root key
	Production bool   `yaml:"production"` // refuse what is for development only

	Vault      *vault.Config `yaml:"vault"` // labd's own Vault, which keys and database may refer to
	Keys       Keys          `yaml:"keys"`
	Witness    Address       `yaml:"witness"`    // who cosigns the log
	Custodians []Address     `yaml:"custodians"` // all of the roster

	Database  Database      `yaml:"database"`
	LogDir    string        `yaml:"log_dir"`    // the audit log
	Blobs     string        `yaml:"blobs"`      // folder of the sealed blobs
	BlobVault *vault.Config `yaml:"blob_vault"` // Vault with the data keys that blobs are encrypted with at rest; default: they lie as they are
	State     string        `yaml:"state"`      // folder for work under way, on the file system of blobs
	Worker    Worker        `yaml:"worker"`     // what computes
	Nodes     Nodes         `yaml:"nodes"`      // what the custodians' compute nodes are, for joint jobs; default: there are none
	Limits    Limits        `yaml:"limits"`     //
	Drain     Duration      `yaml:"drain"`      // how long calls under way have when labd ends; default: 30s
	SweepDays int           `yaml:"sweep_days"` // days after which an uploaded blob that no manifest names is removed; default: 2

	root ed25519.PublicKey
}

// Keys are the control plane's own signing keys, each a file or a key of labd's Vault, as in vault:transit/keys/log, which
// then signs there. None of them opens anything.
type Keys struct {
	Lab  daemon.Secret `yaml:"lab"`  // signs grants; in a file: Ed25519, PKCS #8 in PEM
	Node daemon.Secret `yaml:"node"` // signs receipts; in a file: the same
	Log  daemon.Secret `yaml:"log"`  // signs checkpoints; in a file: C2SP signed-note
}

// Address is where another daemon is. Its certificate must name it.
type Address struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"` // host:port
}

// Database says where metadata is kept. Exactly one key is given.
type Database struct {
	SQLite string `yaml:"sqlite"` // file
	// Postgres is where the connection string is, which may hold a password: a file that labd alone can read, or a field in
	// labd's Vault, as in vault:kv/labd#dsn, which is read when labd starts.
	Postgres daemon.Secret `yaml:"postgres"`
}

// Worker says what runs jobs.
type Worker struct {
	Program   string `yaml:"program"`   // path of the worker program
	Isolation string `yaml:"isolation"` // docker, gvisor or process; default: the best there is
	AtOnce    int    `yaml:"at_once"`   // jobs driven at a time, most of which wait for the node or the custodians; default: 32
}

// Nodes says what receipts of joint jobs say of the custodians' compute nodes. labd runs none of them; a custodian whose
// node is another takes no part.
type Nodes struct {
	Program   string `yaml:"program"`   // path of a copy of the node's program, for its digest
	Isolation string `yaml:"isolation"` // docker, or process for development only; default: docker in production, otherwise as labd's own workers have it
}

// Limits bound what one caller may ask for.
type Limits struct {
	PerSecond float64 `yaml:"per_second"` // calls, weighed by their cost; default: 50
	Burst     int     `yaml:"burst"`      // saved up while idle; default: 200
	AtOnce    int     `yaml:"at_once"`    // calls under way, watched jobs among them; default: 64
	MaxBlob   int64   `yaml:"max_blob"`   // bytes; default: 64 GiB
}

// Duration is a time.Duration written like 30s.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Shared implements daemon.Daemon.
func (c *Config) Shared() *daemon.Common { return &c.Common }

// Check implements daemon.Daemon.
func (c *Config) Check(dir string) error {
	daemon.In(dir, &c.Roster, &c.Database.SQLite, &c.LogDir, &c.Blobs, &c.State, &c.Worker.Program, &c.Nodes.Program)
	errs := []error{daemon.CheckVault("vault", dir, c.Vault), daemon.CheckVault("blob_vault", dir, c.BlobVault), c.Keys.Lab.CheckKey("keys.lab", dir, c.Vault),
		c.Keys.Node.CheckKey("keys.node", dir, c.Vault), c.Keys.Log.CheckKey("keys.log", dir, c.Vault)}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	root, err := hex.DecodeString(c.Root)
	if err != nil || len(root) != ed25519.PublicKeySize {
		fault("root: want a public key of %d hexadecimal digits", 2*ed25519.PublicKeySize)
	}
	c.root = root
	for key, path := range map[string]string{"roster": c.Roster, "worker.program": c.Worker.Program} {
		errs = append(errs, daemon.File(key, path))
	}
	for key, path := range map[string]string{"log_dir": c.LogDir, "blobs": c.Blobs, "state": c.State} {
		if path == "" {
			fault("%s: name a folder", key)
		}
	}
	if (c.Database.SQLite == "") == c.Database.Postgres.IsZero() {
		fault("database: want one of sqlite and postgres")
	}
	if !c.Database.Postgres.IsZero() {
		errs = append(errs, c.Database.Postgres.CheckValue("database.postgres", dir, c.Vault))
	}
	errs = append(errs, c.Witness.check("witness"))
	if len(c.Custodians) == 0 {
		fault("custodians: name them")
	}
	seen := map[string]bool{}
	for i, a := range c.Custodians {
		errs = append(errs, a.check(fmt.Sprintf("custodians[%d]", i)))
		if seen[a.Name] {
			fault("custodians[%d]: %q is there twice", i, a.Name)
		}
		seen[a.Name] = true
	}
	switch c.Worker.Isolation {
	case "", "docker", "gvisor", "process":
	default:
		fault("worker.isolation: %q is not docker, gvisor or process", c.Worker.Isolation)
	}
	if c.Production && c.Worker.Isolation == "process" {
		fault("worker.isolation: process is for development only, and this is production")
	}
	if c.Nodes.Program != "" {
		errs = append(errs, daemon.File("nodes.program", c.Nodes.Program))
	}
	switch c.Nodes.Isolation {
	case "", "docker":
	case "process":
		if c.Production {
			fault("nodes.isolation: process is for development only, and this is production")
		}
	default:
		fault("nodes.isolation: %q is not docker or process", c.Nodes.Isolation)
	}
	for key, v := range map[string]float64{"worker.at_once": float64(c.Worker.AtOnce), "limits.per_second": c.Limits.PerSecond, "limits.burst": float64(c.Limits.Burst),
		"limits.at_once": float64(c.Limits.AtOnce), "limits.max_blob": float64(c.Limits.MaxBlob), "drain": float64(c.Drain), "sweep_days": float64(c.SweepDays)} {
		if v < 0 {
			fault("%s: it is negative", key)
		}
	}
	c.defaults()
	return errors.Join(errs...)
}

func (a Address) check(key string) error {
	if a.Name == "" {
		return fmt.Errorf("%s.name: want its name in the roster", key)
	}
	return daemon.HostPort(key+".address", a.Address)
}

func (c *Config) defaults() {
	set(&c.Worker.AtOnce, 32)
	set(&c.Limits.PerSecond, 50)
	set(&c.Limits.Burst, 200)
	set(&c.Limits.AtOnce, 64)
	set(&c.Drain, Duration(30*time.Second))
	set(&c.SweepDays, 2)
}

func set[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

func (l Limits) rate() rpc.Rate {
	return rpc.Rate{PerSecond: l.PerSecond, Burst: l.Burst, AtOnce: l.AtOnce}
}
