// Package custody is a custodian as its daemon runs it: key pieces, ledger and copies of blobs of one body, its service for
// peers, owners and the control plane, and its own view of the log.
package custody

import (
	"cmp"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/enclave/vault"
)

// Config is a custodian's configuration: one YAML file. Paths are relative to its folder. A key that is not here is an
// error. Secrets are named by path or lie in the Vault; none stands in the file.
type Config struct {
	daemon.Common `yaml:",inline"`

	Root       string `yaml:"root"`       // the lab's root public key in hexadecimal, pinned
	Roster     string `yaml:"roster"`     // file with a roster, signed by the root key; later ones come with dossiers
	Production bool   `yaml:"production"` // refuse keys in files, and a compute node that is not in a container

	// The custodian's keys: in its own Vault, or in files, for development only.
	Vault    *vault.Config `yaml:"vault"`    // its Vault, with the signing and receiving keys and the key pieces
	Identity string        `yaml:"identity"` // file with the signing and receiving keys
	Keyring  string        `yaml:"keyring"`  // folder with the key pieces

	State   string    `yaml:"state"`   // folder with ledger, journal, shares and what was read of the log: back it up
	Mirror  string    `yaml:"mirror"`  // folder with the custodian's copies of blobs: can be fetched again
	Plane   Address   `yaml:"labd"`    // the control plane, for log and blobs; several that share a database: their addresses, separated by commas
	Peers   []Address `yaml:"peers"`   // the other custodians
	Workers int       `yaml:"workers"` // goroutines that execute a plan; default: 1
	Node    *Node     `yaml:"node"`    // this body's compute node; default: none, and joint jobs are refused
	Limits  Limits    `yaml:"limits"`  // of what one caller may ask for
	Drain   Duration  `yaml:"drain"`   // how long calls under way have when the custodian ends; default: 30s

	root ed25519.PublicKey
}

// Limits bound what one caller may ask for. A refusal costs an entry in the journal, the ledger and the log.
type Limits struct {
	PerSecond float64 `yaml:"per_second"` // calls; default: 20
	Burst     int     `yaml:"burst"`      // saved up while idle; default: 100
	AtOnce    int     `yaml:"at_once"`    // calls under way; default: 16
}

// Duration is a time.Duration written like 30s.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Address is where another daemon is. Its certificate must name it.
type Address struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"` // host:port
}

// Shared implements daemon.Daemon.
func (c *Config) Shared() *daemon.Common { return &c.Common }

// Check implements daemon.Daemon.
func (c *Config) Check(dir string) error {
	daemon.In(dir, &c.Roster, &c.Identity, &c.Keyring, &c.State, &c.Mirror)
	errs := []error{daemon.File("roster", c.Roster), c.checkKeys(dir), c.Plane.checkAny("labd")}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	root, err := hex.DecodeString(c.Root)
	if err != nil || len(root) != ed25519.PublicKeySize {
		fault("root: want a public key of %d hexadecimal digits", 2*ed25519.PublicKeySize)
	}
	c.root = root
	for key, path := range map[string]string{"state": c.State, "mirror": c.Mirror} {
		if path == "" {
			fault("%s: name a folder", key)
		}
	}
	seen := map[string]bool{}
	for i, a := range c.Peers {
		errs = append(errs, a.check(fmt.Sprintf("peers[%d]", i)))
		if seen[a.Name] {
			fault("peers[%d]: %q is there twice", i, a.Name)
		}
		seen[a.Name] = true
	}
	for key, v := range map[string]float64{"workers": float64(c.Workers), "limits.per_second": c.Limits.PerSecond, "limits.burst": float64(c.Limits.Burst),
		"limits.at_once": float64(c.Limits.AtOnce), "drain": float64(c.Drain)} {
		if v < 0 {
			fault("%s: it is negative", key)
		}
	}
	if c.Node != nil {
		errs = append(errs, c.Node.check(dir, c.Production))
	}
	c.Limits = Limits{PerSecond: cmp.Or(c.Limits.PerSecond, 20), Burst: cmp.Or(c.Limits.Burst, 100), AtOnce: cmp.Or(c.Limits.AtOnce, 16)}
	return errors.Join(errs...)
}

// checkKeys insists on one place for the keys.
func (c *Config) checkKeys(dir string) error {
	if c.Vault != nil {
		if c.Identity != "" || c.Keyring != "" {
			return errors.New("vault: the keys are in the Vault or in files (identity, keyring), not in both")
		}
		return daemon.CheckVault("vault", dir, c.Vault)
	}
	if c.Production {
		return errors.New("vault: in production a custodian keeps its keys in its Vault")
	}
	err := daemon.File("identity", c.Identity)
	if c.Keyring == "" {
		err = errors.Join(err, errors.New("keyring: name a folder, or name a vault instead of identity and keyring"))
	}
	return err
}

func (a Address) check(key string) error {
	if a.Name == "" {
		return fmt.Errorf("%s.name: want its name in the roster", key)
	}
	return daemon.HostPort(key+".address", a.Address)
}

// checkAny is check where the address may be several.
func (a Address) checkAny(key string) error {
	if a.Name == "" {
		return fmt.Errorf("%s.name: want its name in the roster", key)
	}
	return daemon.HostPorts(key+".address", a.Address)
}
