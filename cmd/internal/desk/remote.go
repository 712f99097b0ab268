package desk

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/internal/strict"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/operators/registry"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/client"
)

// ConfigFile is the file of a client's folder that says where the lab is. Other paths in it are relative to the folder.
const ConfigFile = "client.yaml"

// Config is a client's configuration.
type Config struct {
	Lab      string    `yaml:"lab"`      // the lab's name
	Server   string    `yaml:"server"`   // host:port of the control plane; several that share a database are separated by commas
	Root     string    `yaml:"root"`     // the lab's root public key in hexadecimal, pinned
	TLS      pki.Files `yaml:"tls"`      // certificate, key and authority
	Identity string    `yaml:"identity"` // the person's signing and receiving keys
	Agency   string    `yaml:"agency"`   // a steward's: folder with the keys and schemas of the agency's datasets
	RootKey  string    `yaml:"root_key"` // only where people are added: the lab's root key
}

// Remote is a lab behind a service, as the person whose folder this is.
type Remote struct {
	*client.Client

	dir   string
	cfg   Config
	root  ed25519.PublicKey
	tls   *pki.Source
	id    *keys.Identity
	clock func() time.Time
}

// OpenRemote reads a client's folder. Nothing is asked of the lab yet. server, if given, goes before the file's.
func OpenRemote(dir, server string, clock func() time.Time) (*Remote, error) {
	cfg := Config{}
	path := filepath.Join(dir, ConfigFile)
	if err := strict.ReadYAML(path, &cfg); err != nil {
		return nil, err
	}
	for _, p := range []*string{&cfg.TLS.Cert, &cfg.TLS.Key, &cfg.TLS.CA, &cfg.Identity, &cfg.Agency, &cfg.RootKey} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if server != "" {
		cfg.Server = server
	}
	root, err := hex.DecodeString(cfg.Root)
	if err != nil || len(root) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%s: root is not a public key of %d hexadecimal digits", path, 2*ed25519.PublicKeySize)
	}
	cfg.Server = strings.TrimPrefix(cfg.Server, "https://")
	if _, err := rpc.Addresses(cfg.Server); err != nil {
		return nil, fmt.Errorf("%s: server: %w", path, err)
	}
	r := &Remote{dir: dir, cfg: cfg, root: root, clock: clock}
	if r.tls, err = pki.Open(cfg.Lab, cfg.TLS, clock); err != nil {
		return nil, err
	}
	if cfg.Identity != "" {
		if r.id, err = keys.LoadIdentity(cfg.Identity); err != nil {
			return nil, err
		}
		if r.id.Name() != r.tls.Name().Party {
			return nil, fmt.Errorf("%s: the keys are of %q, the certificate is of %q", path, r.id.Name(), r.tls.Name().Party)
		}
	}
	r.Client, err = client.Open(client.Config{Address: cfg.Server, TLS: r.tls.Client(pki.Name{Role: string(operators.RoleLab)}), RootKey: root, Clock: clock})
	return r, err
}

// RootKey is the lab's pinned root public key.
func (r *Remote) RootKey() ed25519.PublicKey { return r.root }

// Now is the client's clock.
func (r *Remote) Now() time.Time { return r.clock() }

// Acting is the person that the certificate names.
func (r *Remote) Acting() string { return r.tls.Name().Party }

// Book makes and reads statements.
func (r *Remote) Book() *registry.Registry { return r.Registry }

// Close ends the connection.
func (r *Remote) Close(context.Context) error { return r.Client.Close() }

// Identity is the keys of the person whose folder this is.
func (r *Remote) Identity(name string) (*keys.Identity, error) {
	if r.id == nil || r.id.Name() != name {
		return nil, fmt.Errorf("keys of %q: %w: this folder is of %q", name, sandbox.ErrNotFound, r.Acting())
	}
	return r.id, nil
}

// AddPerson makes a person's keys in this folder, and a new roster with them, which the lab's root key signs here.
func (r *Remote) AddPerson(ctx context.Context, p operators.Party) error {
	root, err := r.rootKey(fmt.Sprintf("adding %q", p.Name))
	if err != nil {
		return err
	}
	_, roster, err := r.Roster(ctx)
	if err != nil {
		return err
	}
	if have, taken := roster.Find(p.Name); taken {
		return fmt.Errorf("adding %q: %w: the name belongs to %s of %s", p.Name, sandbox.ErrConflict, have.Role, have.Body)
	}
	if p.Name == "" || p.Name != filepath.Base(p.Name) || strings.HasPrefix(p.Name, ".") || p.Name == operators.Root {
		return fmt.Errorf("%q cannot be the name of a person: %w", p.Name, operators.ErrInvalid)
	}
	dir := filepath.Join(filepath.Dir(r.cfg.Identity), "people")
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, p.Name+".key")
	id, err := keys.LoadIdentity(path)
	if errors.Is(err, fs.ErrNotExist) { // else: taken up after a failure
		if id, err = keys.NewIdentity(p.Name); err == nil {
			err = id.Save(path)
		}
	}
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.IdentityStored)
	p.Verify, p.HPKE = id.Verify(), id.HPKE()
	return r.putRoster(ctx, root, roster, append(slices.Clone(roster.Parties), p))
}

// agency opens the steward's own side. Sealing writes to a store in the agency's folder, from where blobs are sent.
func (r *Remote) agency(ctx context.Context, steward string) (_ *agency.Agency, done func() error, err error) {
	if r.cfg.Agency == "" {
		return nil, nil, fmt.Errorf("%s names no folder for the agency's keys", ConfigFile)
	}
	outbox := filepath.Join(r.cfg.Agency, "outbox")
	if err := os.RemoveAll(outbox); err != nil { // left by a sealing that was cut off
		return nil, nil, err
	}
	if err := durable.MkdirAll(outbox, 0o700); err != nil {
		return nil, nil, err
	}
	blobs, err := store.Open(outbox)
	if err != nil {
		return nil, nil, err
	}
	a, err := agency.Open(ctx, agency.Config{Identity: r.Identity, Lab: r, Blobs: blobs, Deal: r.deal, Clock: r.clock,
		Send:  func(ctx context.Context, ds []enclave.Digest) error { return r.Upload(ctx, blobs, ds, nil) },
		Sweep: func(context.Context) error { return nil }, // the outbox goes as a whole; the lab sweeps its own
	}, steward, func(string) string { return r.cfg.Agency })
	return a, func() error { return os.RemoveAll(outbox) }, err
}

// deal brings a sealed piece to its custodian, who is held to its name by the certificate.
func (r *Remote) deal(ctx context.Context, keyset enclave.Signed, p seal.DealtPiece) error {
	info, err := r.Info(ctx)
	if err != nil {
		return err
	}
	roster, _, err := r.Roster(ctx)
	if err != nil {
		return err
	}
	err = r.ask(ctx, info, p.Custodian, func(c *custodian.Client) error { return c.Accept(ctx, keyset, p.Piece, p.Sealed, &roster) })
	if err != nil {
		return fmt.Errorf("a key is dealt to all custodians or to none: %w", err)
	}
	return nil
}

// RegisterDataset deals a dataset's key to the custodians and registers its keyset.
func (r *Remote) RegisterDataset(ctx context.Context, s *schema.Schema, steward string) (_ *enclave.Keyset, err error) {
	a, done, err := r.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	return a.Register(ctx, s)
}

// SealTable seals a file as the next version of a dataset and uploads it.
func (r *Remote) SealTable(ctx context.Context, path, dataset, steward string, opts agency.SealOptions) (_ *agency.Sealed, err error) {
	a, done, err := r.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	return a.Seal(ctx, path, dataset, opts)
}

// DestroyProject destroys the agency's copy of a project key.
func (r *Remote) DestroyProject(ctx context.Context, project, steward string) (err error) {
	a, done, err := r.agency(ctx, steward)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	return a.DestroyProject(ctx, project)
}
