package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/strict"
)

// What a configuration may say of a secret, and what it may not.
func TestSecret(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own := &vault.Config{KV: "kv-plane"}
	for _, c := range []struct {
		text  string
		value bool // or else a key
		v     *vault.Config
		want  Secret
		fault string
	}{
		{text: "a.key", want: Secret{File: filepath.Join(dir, "a.key")}},
		{text: "a.key", value: true, want: Secret{File: filepath.Join(dir, "a.key")}},
		{text: "vault:transit/keys/log", v: own, want: Secret{Key: "log"}},
		{text: "vault:kv-plane/labd#dsn", value: true, v: own, want: Secret{Path: "labd", Field: "dsn"}},
		{text: "vault:kv-plane/a/b.c#d_e", value: true, v: own, want: Secret{Path: "a/b.c", Field: "d_e"}},
		{text: "", fault: "name a file"},
		{text: "b.key", fault: "no such file"},
		{text: "vault:transit/keys/log", fault: "vault says nowhere"},
		{text: "vault:other/keys/log", v: own, fault: "vault:transit/keys/NAME"},
		{text: "vault:transit/log", v: own, fault: "vault:transit/keys/NAME"},
		{text: "vault:transit/keys/", v: own, fault: "vault:transit/keys/NAME"},
		{text: "vault:transit/keys/../x", v: own, fault: "vault:transit/keys/NAME"},
		{text: "vault:transit/keys/a#b", v: own, fault: "vault:transit/keys/NAME"},
		{text: "vault:kv-plane/labd#dsn", v: own, fault: "vault:transit/keys/NAME"},
		{text: "vault:transit/keys/log", value: true, v: own, fault: "vault:kv-plane/PATH#FIELD"},
		{text: "vault:kv-plane/labd", value: true, v: own, fault: "vault:kv-plane/PATH#FIELD"},
		{text: "vault:kv-plane/#dsn", value: true, v: own, fault: "vault:kv-plane/PATH#FIELD"},
		{text: "vault:kv-plane/a//b#dsn", value: true, v: own, fault: "vault:kv-plane/PATH#FIELD"},
		{text: "vault:kv-plane/a?x#dsn", value: true, v: own, fault: "vault:kv-plane/PATH#FIELD"},
		{text: "vault:kv-plane/a#b#c", value: true, v: own, fault: "vault:kv-plane/PATH#FIELD"},
	} {
		var s Secret
		if err := s.UnmarshalText([]byte(c.text)); err != nil {
			t.Fatal(err)
		}
		check := s.CheckKey
		if c.value {
			check = s.CheckValue
		}
		err := check("keys.log", dir, c.v)
		c.want.text = c.text
		switch {
		case c.fault == "" && (err != nil || s != c.want):
			t.Errorf("%q is %+v, %v", c.text, s, err)
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault) || !strings.HasPrefix(err.Error(), "keys.log: ")):
			t.Errorf("%q gives %v, want it to say %q", c.text, err, c.fault)
		}
	}
	var conf struct{ Key Secret }
	err := strict.YAML([]byte("key: |\n  -----BEGIN PRIVATE KEY-----\n  hunter2\n"), &conf)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a secret in the file gives %v", err)
	}
}
