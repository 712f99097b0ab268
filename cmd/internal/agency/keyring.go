package agency

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/keys/transit"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/strict"
)

// VaultFile in an agency's folder says that its keys are in its own Vault: what vault.Config has, with paths relative to
// the file. Without it they are in the folder, in keyring/.
const VaultFile = "vault.yaml"

// keyring is where an agency keeps its own keys. Putting the same under a name again does nothing, another is
// keys.ErrExists; a missing one is fs.ErrNotExist; what is forgotten cannot be had again.
type keyring interface {
	Put(ctx context.Context, name string, secret []byte) error
	Get(ctx context.Context, name string) ([]byte, error)
	Forget(ctx context.Context, name string) error
}

func openKeyring(dir string) (keyring, error) {
	path := filepath.Join(dir, VaultFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		f, err := keys.OpenFile(filepath.Join(dir, "keyring"))
		return files{f}, err
	}
	var cfg vault.Config
	if err := strict.ReadYAML(path, &cfg); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	daemon.In(abs, &cfg.CAFile, &cfg.RoleIDFile, &cfg.SecretIDFile)
	c, err := vault.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return transit.NewSafe(c), nil
}

// files is the embedded default.
type files struct{ *keys.File }

func (f files) Put(_ context.Context, name string, secret []byte) error {
	return f.File.Put(name, secret)
}
func (f files) Get(_ context.Context, name string) ([]byte, error) { return f.File.Get(name) }
func (f files) Forget(_ context.Context, name string) error        { return f.File.Forget(name) }
