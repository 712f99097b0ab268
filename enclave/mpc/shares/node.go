package shares

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
)

// NodeSecret is what the pieces that a custodian holds of a keyset give for the component keys of its node. Any other
// custodian lacks one of them, and after a disposal nobody has them: copies of the shares are dead then, whoever still has
// the receiving keys.
type NodeSecret [32]byte

// NewNodeSecret makes it of the lineage secrets of all pieces that the custodian holds, in any order.
func NewNodeSecret(lineage [][]byte) NodeSecret {
	sorted := slices.SortedFunc(slices.Values(lineage), bytes.Compare)
	h := sha256.New()
	io.WriteString(h, "yingzhou node secret v1\x00")
	for _, s := range sorted {
		h.Write(s)
	}
	return NodeSecret(h.Sum(nil))
}

// box encrypts with a key of its own for each component key: HKDF-SHA256 (RFC 5869) of the secret with the component key's
// info, AES-256-GCM, a random nonce first.
func (s NodeSecret) box(info []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, s[:], nil, string(info), 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Wrap encrypts a component key to the node; info is the layout's ShareInfo.
func (s NodeSecret) Wrap(info []byte, key Key) ([]byte, error) {
	box, err := s.box(info)
	if err != nil {
		return nil, fmt.Errorf("wrapping a component key: %w", err)
	}
	return box.Seal(nil, nil, key[:], nil), nil
}

func (s NodeSecret) unwrap(info, wrapped []byte) (key Key, err error) {
	box, err := s.box(info)
	if err != nil {
		return key, err
	}
	plain, err := box.Open(nil, nil, wrapped, nil)
	if err == nil && len(plain) != len(key) {
		err = fmt.Errorf("it has %d bytes, want %d", len(plain), len(key))
	}
	if err != nil {
		return key, err
	}
	defer clear(plain)
	return Key(plain), nil
}

func (s NodeSecret) String() string   { return "[node secret]" }
func (s NodeSecret) GoString() string { return "[node secret]" }

// Unlock opens the two component keys that a node of a layout holds, with its custodian's receiving key and secret.
func Unlock(keyset enclave.Digest, l *enclave.Layout, node int, secret NodeSecret, open func(info, sealed []byte) ([]byte, error)) (keys [2]Key, err error) {
	if err := l.CheckShares(); err != nil {
		return keys, err
	}
	for i, c := range Holds(node) {
		at, err := KeyAt(c, node)
		if err != nil {
			return keys, err
		}
		info := l.ShareInfo(keyset, c, l.Shares.Nodes[node])
		wrapped, err := open(info, l.Shares.Keys[at])
		if err == nil {
			keys[i], err = secret.unwrap(info, wrapped)
		}
		if err != nil {
			return keys, fmt.Errorf("layout %q: component key %d of node %d does not open: %w", l.Name, c, node, errors.Join(err, ErrBlob))
		}
	}
	return keys, nil
}

// Load makes what node holds of some columns of a layout, each component checked against its commitment.
func Load(ctx context.Context, keyset enclave.Digest, l *enclave.Layout, node int, keys [2]Key, columns []string,
	blob func(enclave.Digest) (io.ReadCloser, error)) (map[string][2]mpc.Component, error) {
	out := map[string][2]mpc.Component{}
	for _, name := range columns {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v := l.Find(name)
		if v < 0 {
			return nil, fmt.Errorf("layout %q has no column %q", l.Name, name)
		}
		var pair [2]mpc.Component
		for i, c := range Holds(node) {
			var err error
			if pair[i], err = load(keyset, l, c, keys[i], v, blob); err != nil {
				return nil, fmt.Errorf("layout %q: component %d: %w", l.Name, c, err)
			}
			if pair[i].Commitment() != l.Vectors[v].Commitments[c] {
				return nil, fmt.Errorf("layout %q: component %d of column %q: %w: it is not the one committed to", l.Name, c, name, ErrBlob)
			}
		}
		out[name] = pair
	}
	return out, nil
}

func load(keyset enclave.Digest, l *enclave.Layout, component int, key Key, v int, blob func(enclave.Digest) (io.ReadCloser, error)) (c mpc.Component, err error) {
	name := l.Vectors[v].Name
	if component < mpc.Nodes-1 {
		return key.component(KindOf(name), name, int(l.Shares.Rows)), nil
	}
	r, err := blob(l.Vectors[v].Blob)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return Open(r, key, NewHeader(keyset, l.Shares.Scenario, name, l.Shares.Rows))
}

// Commitments are those of some columns of a layout, under the names that a program gives them: "table.column".
func Commitments(l *enclave.Layout, table string, columns []string) (mpc.Commitments, error) {
	out := mpc.Commitments{}
	for _, name := range columns {
		v := l.Find(name)
		if v < 0 {
			return nil, fmt.Errorf("layout %q has no column %q", l.Name, name)
		}
		out[table+"."+name] = [mpc.Nodes]enclave.Digest(slices.Clone(l.Vectors[v].Commitments))
	}
	return out, nil
}
