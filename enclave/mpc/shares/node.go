package shares

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
)

// Unlock opens the two component keys that a node of a layout holds, with the custodian's receiving key.
func Unlock(keyset enclave.Digest, l *enclave.Layout, node int, open func(info, sealed []byte) ([]byte, error)) (keys [2]Key, err error) {
	if err := l.CheckShares(); err != nil {
		return keys, err
	}
	for i, c := range Holds(node) {
		at, err := KeyAt(c, node)
		if err != nil {
			return keys, err
		}
		plain, err := open(l.ShareInfo(keyset, c, l.Shares.Nodes[node]), l.Shares.Keys[at])
		if err != nil || len(plain) != len(keys[i]) {
			return keys, fmt.Errorf("layout %q: component key %d of node %d does not open: %w", l.Name, c, node, errors.Join(err, ErrBlob))
		}
		keys[i] = Key(plain)
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
