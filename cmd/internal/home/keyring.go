package home

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/store/datakey"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/signer"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/strict"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// A custodian's keys are in its folder, identity.key and keyring/, or in its Vault: then vault.yaml says where that is.

const vaultFile = "vault.yaml"

// party is a custodian as its keys let it act.
type party interface {
	keys.Signer
	Open(info, sealed []byte) ([]byte, error)
}

// controlPlane is what a file for UseVaults calls the control plane, whose Vault has its signing keys and the data keys of
// the blob store.
const controlPlane = "lab"

// UseVaults says, before Create, which custodians have their keys in a Vault, and whether the control plane has its own in
// one, under the name "lab". file maps names to what vault.Config has; paths in it are relative to the file. Whom it
// does not name gets keys in the lab's folder, and without "lab" blobs lie as they are.
func UseVaults(dir, file string) error {
	var all map[string]vault.Config
	if err := strict.ReadYAML(file, &all); err != nil {
		return err
	}
	for name, cfg := range all {
		if err := checkName(name); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, path := range []*string{&cfg.CAFile, &cfg.RoleIDFile, &cfg.SecretIDFile} {
			if *path != "" && !filepath.IsAbs(*path) {
				*path = filepath.Join(filepath.Dir(file), *path)
			}
			if *path != "" {
				abs, err := filepath.Abs(*path)
				if err != nil {
					return err
				}
				*path = abs
			}
		}
		if _, err := vault.New(cfg); err != nil {
			return fmt.Errorf("%s: %q: %w", file, name, err)
		}
		data, err := yaml.Marshal(cfg)
		if err != nil {
			return err
		}
		own := filepath.Join(dir, "custodians", name)
		if name == controlPlane {
			own = filepath.Join(dir, "plane")
		}
		if err := durable.MkdirAll(own, 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(own, vaultFile), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// VaultOf is where the keys of a party in a closed lab are: "lab", or a custodian. It is nil if they are in the folder.
func VaultOf(dir, name string) (*vault.Config, error) {
	own := filepath.Join(dir, "custodians", name)
	if name == controlPlane {
		own = filepath.Join(dir, "plane")
	}
	return vaultConfig(own)
}

func vaultConfig(dir string) (*vault.Config, error) {
	path := filepath.Join(dir, vaultFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var cfg vault.Config
	if err := strict.ReadYAML(path, &cfg); err != nil {
		return nil, err
	}
	return &cfg, nil
}

// vaultOf is the Vault of the custodian in a folder; nil if its keys are in the folder.
func vaultOf(dir string, opts Options) (*vault.Client, error) {
	cfg, err := vaultConfig(dir)
	if err != nil || cfg == nil {
		return nil, err
	}
	cfg.Logger = opts.Logger
	return vault.New(*cfg)
}

// The names of the control plane's keys in transit. deploy/vault/setup.sh makes them.
const (
	labKey  = "lab"
	nodeKey = "node"
	logKey  = "log"
)

// logInVault is a log's key that transit has. It has no secret text.
func logInVault(ctx context.Context, c *vault.Client, origin string) (pair audit.KeyPair, err error) {
	s, err := signer.Read(ctx, c, controlPlane, logKey)
	if err != nil {
		return pair, err
	}
	pair.Public, err = s.NoteKey(origin)
	return pair, err
}

// planeSigners are the keys that sign grants and receipts: in the control plane's folder, or in its Vault, whose public
// halves are in the first roster.
func (h *Home) planeSigners() (labSigner, nodeSigner lab.Signer, err error) {
	if _, err := os.Stat(h.path("plane", "lab.key")); !errors.Is(err, fs.ErrNotExist) {
		labID, err := keys.LoadIdentity(h.path("plane", "lab.key"))
		if err != nil {
			return nil, nil, err
		}
		nodeID, err := keys.LoadIdentity(h.path("plane", "node.key"))
		return labID, nodeID, err
	}
	roster, err := h.founders()
	if err != nil {
		return nil, nil, err
	}
	c := h.Vaults[controlPlane]
	if c == nil {
		return nil, nil, fmt.Errorf("opening lab: the control plane's keys are neither in %s nor in a Vault", h.path("plane"))
	}
	open := func(role operators.Role, key string) lab.Signer {
		for _, p := range roster.WithRole(role) {
			return signer.Open(c, p.Name, key, p.Key())
		}
		return nil
	}
	return open(operators.RoleLab, labKey), open(operators.RoleNode, nodeKey), nil
}

// logSigner is the log's key, likewise.
func (h *Home) logSigner() (note.Signer, note.Verifier, error) {
	secret, err := os.ReadFile(h.path("plane", "log.key"))
	if err == nil {
		return audit.NewLogSigner(string(secret))
	}
	c := h.Vaults[controlPlane]
	if !errors.Is(err, fs.ErrNotExist) || c == nil {
		return nil, nil, err
	}
	roster, err := h.founders()
	if err != nil {
		return nil, nil, err
	}
	n, err := signer.OpenNote(c, logKey, roster.Log)
	if err != nil {
		return nil, nil, err
	}
	return n, n.Verifier(), nil
}

// openBlobs opens the control plane's blob store.
func (h *Home) openBlobs() error {
	c, err := vaultOf(h.path("plane"), h.opts)
	if err != nil {
		return err
	}
	dir := h.path("plane", "blobs")
	if c == nil {
		h.Blobs, err = store.Open(dir)
	} else {
		h.Vaults[controlPlane], h.dataKeys = c, datakey.New(c)
		h.Blobs, err = store.OpenAtRest(dir, h.dataKeys)
	}
	h.stores = append(h.stores, h.Blobs)
	return err
}

// nodeCopies are the blobs as the node maps them for its workers: the control plane's own, or copies if those are
// encrypted at rest.
func (h *Home) nodeCopies() (*mirror.Mirror, error) {
	own := h.Blobs
	if h.dataKeys != nil {
		var err error
		if own, err = store.Open(h.path("plane", "node")); err != nil {
			return nil, err
		}
		h.stores = append(h.stores, own)
	}
	copies := mirror.New(own, h.Blobs)
	h.closers = append(h.closers, copies)
	return copies, nil
}

// newParty makes a custodian's keys, where they belong, and returns their public halves.
func newParty(ctx context.Context, dir, name string) (verify ed25519.PublicKey, receive []byte, err error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	c, err := vaultOf(dir, Options{})
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		_, verify, receive, err = transit.MakeParty(ctx, c, name)
		return verify, receive, err
	}
	id, err := identity(filepath.Join(dir, "identity.key"), name)
	if err != nil {
		return nil, nil, err
	}
	return id.Verify(), id.HPKE(), nil
}

// NewCustodian makes the keys of a custodian outside of any lab's folder, where its body runs it: in a folder, or, if
// vaultFile names a file with what vault.Config has, in its Vault. It returns what the roster will say of it.
func NewCustodian(ctx context.Context, dir, name, vaultFile string) (p operators.Party, err error) {
	if err := checkName(name); err != nil {
		return p, err
	}
	p = operators.Party{Name: name, Role: operators.RoleCustodian}
	if vaultFile != "" {
		var cfg vault.Config
		if err := strict.ReadYAML(vaultFile, &cfg); err != nil {
			return p, err
		}
		for _, path := range []*string{&cfg.CAFile, &cfg.RoleIDFile, &cfg.SecretIDFile} {
			if *path != "" && !filepath.IsAbs(*path) {
				*path = filepath.Join(filepath.Dir(vaultFile), *path)
			}
		}
		c, err := vault.New(cfg)
		if err != nil {
			return p, fmt.Errorf("%s: %w", vaultFile, err)
		}
		_, p.Verify, p.HPKE, err = transit.MakeParty(ctx, c, name)
		return p, err
	}
	p.Verify, p.HPKE, err = newParty(ctx, dir, name)
	return p, err
}

// openParty opens a custodian's keys. fs.ErrNotExist means that they are not here.
func (h *Home) openParty(p operators.Party) (party, keys.Keyring, error) {
	dir := h.path("custodians", p.Name)
	c, err := vaultOf(dir, h.opts)
	if err != nil {
		return nil, nil, fmt.Errorf("custodian %q: %w", p.Name, err)
	}
	if c != nil {
		h.Vaults[p.Name] = c
		out := transit.OpenParty(c, p.Name, p.Key())
		return out, out.Keyring(), nil
	}
	id, err := keys.LoadIdentity(filepath.Join(dir, "identity.key"))
	if err != nil {
		return nil, nil, err
	}
	ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
	return id, ring, err
}
