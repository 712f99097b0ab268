package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"yingzhou.dev/lab/enclave/vault"
)

// Secret says where a daemon finds a secret. The secret itself never stands in a configuration.
//
//	lab.key.pem              a file, relative to the configuration's folder
//	vault:transit/keys/lab   a key of the transit engine that the daemon's Vault has at transit: it is used there
//	vault:kv/labd#dsn        field dsn of the secret labd in the kv v2 engine that the daemon's Vault has at kv
type Secret struct {
	text string

	File  string // absolute once Check has been called
	Key   string // of the transit engine
	Path  string // in the kv engine
	Field string // of Path
}

const inVault = "vault:"

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = Secret{text: string(b)}
	for _, sign := range []string{"\n", "PRIVATE", "://", "password"} {
		if strings.Contains(s.text, sign) { // a message about a file that is not there would repeat it
			return errors.New("say where the secret is, do not put it here")
		}
	}
	return nil
}

// String is what the configuration says.
func (s Secret) String() string { return s.text }

// IsZero reports whether the configuration says nothing.
func (s Secret) IsZero() bool { return s.text == "" }

// CheckKey completes the place of a signing key: a file that is there, or a transit key.
func (s *Secret) CheckKey(key, dir string, v *vault.Config) error {
	at, there := strings.CutPrefix(s.text, inVault)
	if !there {
		return s.checkFile(key, dir)
	}
	mount, err := mountOf(key, v, func(v *vault.Config) string { return v.Transit }, "transit")
	if err != nil {
		return err
	}
	name, under := strings.CutPrefix(at, mount+"/keys/")
	if !under || !plain(name) {
		return fmt.Errorf("%s: %q is no key of the transit engine: want vault:%s/keys/NAME", key, s.text, mount)
	}
	s.Key = name
	return nil
}

// CheckValue completes the place of a secret that the daemon reads: a file that is there, or a field in kv.
func (s *Secret) CheckValue(key, dir string, v *vault.Config) error {
	at, there := strings.CutPrefix(s.text, inVault)
	if !there {
		return s.checkFile(key, dir)
	}
	mount, err := mountOf(key, v, func(v *vault.Config) string { return v.KV }, "kv")
	if err != nil {
		return err
	}
	path, field, _ := strings.Cut(at, "#")
	path, under := strings.CutPrefix(path, mount+"/")
	for _, elem := range strings.Split(path, "/") {
		under = under && plain(elem)
	}
	if !under || !plain(field) {
		return fmt.Errorf("%s: %q is no field of a secret in kv: want vault:%s/PATH#FIELD", key, s.text, mount)
	}
	s.Path, s.Field = path, field
	return nil
}

// Read reads a value where CheckValue found it. c may be nil if it is in a file.
func (s Secret) Read(ctx context.Context, c *vault.Client) (string, error) {
	if s.Path == "" {
		data, err := os.ReadFile(s.File)
		return strings.TrimSpace(string(data)), err
	}
	var out struct {
		Data map[string]string `json:"data"`
	}
	if err := c.Audited(ctx); err != nil {
		return "", err
	}
	if err := c.Read(ctx, c.KVData(s.Path), &out); err != nil {
		return "", err
	}
	value := strings.TrimSpace(out.Data[s.Field])
	if value == "" {
		return "", fmt.Errorf("%s: the secret has no such field", s)
	}
	return value, nil
}

func (s *Secret) checkFile(key, dir string) error {
	s.File = s.text
	In(dir, &s.File)
	return File(key, s.File)
}

func mountOf(key string, v *vault.Config, of func(*vault.Config) string, otherwise string) (string, error) {
	if v == nil {
		return "", fmt.Errorf("%s: it is in a Vault, but vault says nowhere where that is", key)
	}
	if m := of(v); m != "" {
		return m, nil
	}
	return otherwise, nil
}

// plain reports whether an element of a path in Vault means itself.
func plain(s string) bool {
	return s != "" && s != "." && s != ".." && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// CheckVault completes a Vault's place and refuses a wrong one. It calls nothing.
func CheckVault(key, dir string, v *vault.Config) error {
	if v == nil {
		return nil
	}
	In(dir, &v.CAFile, &v.RoleIDFile, &v.SecretIDFile)
	if _, err := vault.New(*v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	var errs []error
	for name, path := range map[string]string{"role_id_file": v.RoleIDFile, "secret_id_file": v.SecretIDFile} {
		errs = append(errs, File(key+"."+name, path))
	}
	return errors.Join(errs...)
}
