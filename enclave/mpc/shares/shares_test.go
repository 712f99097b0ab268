package shares_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/internal/canon"
)

var (
	keyset   = canon.Sum([]byte("keyset"))
	scenario = canon.Sum([]byte("scenario"))
	threeKey = [3]shares.Key{{1}, {2}, {3}}
)

// split splits a column in pieces of so many rows.
func split(t interface{ Fatal(...any) }, name string, values []int64, step int) (blob []byte, v enclave.Vector) {
	c, err := shares.NewColumn(name, threeKey)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for part := range slices.Chunk(values, step) {
		if err := c.Add(part); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	commitments, chunks, err := c.Finish(keyset, scenario, &out)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), enclave.Vector{Name: name, Blob: canon.Sum(out.Bytes()), Bytes: int64(out.Len()), Chunks: chunks, Commitments: commitments}
}

func layout(rows int, vectors ...enclave.Vector) *enclave.Layout {
	return &enclave.Layout{Name: "joint", Kind: enclave.Shares, Axes: [][]string{}, Vectors: vectors,
		Shares: &enclave.ShareSet{Scenario: scenario, Rows: int64(rows), Nodes: []string{"a", "b", "c"}, Keys: [][]byte{}}}
}

func open(blobs ...[]byte) func(enclave.Digest) (io.ReadCloser, error) {
	return func(d enclave.Digest) (io.ReadCloser, error) {
		for _, b := range blobs {
			if canon.Sum(b) == d {
				return io.NopCloser(bytes.NewReader(b)), nil
			}
		}
		return nil, enclave.ErrNotFound
	}
}

// held is what node i loads, given its two keys.
func held(t interface{ Fatal(...any) }, l *enclave.Layout, node int, columns []string, blobs ...[]byte) map[string][2]mpc.Component {
	k := shares.Holds(node)
	out, err := shares.Load(context.Background(), keyset, l, node, [2]shares.Key{threeKey[k[0]], threeKey[k[1]]}, columns, open(blobs...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Any two nodes have all of a column, whatever the values and the pieces in which it was written; what two of them hold
// both is the same.
func TestColumnsComeBack(t *testing.T) {
	extremes := []int64{0, 1, -1, math.MaxInt64, math.MinInt64}
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(extremes), rapid.Int64()), 1, 300).Draw(t, "values")
		name := rapid.SampledFrom([]string{"e", "v:x"}).Draw(t, "name")
		blob, v := split(t, name, values, rapid.IntRange(1, 100).Draw(t, "step"))
		l := layout(len(values), v)
		var by [3]map[string][2]mpc.Component
		for n := range by {
			by[n] = held(t, l, n, []string{name}, blob)
		}
		for n := range by {
			mine, next := by[n][name], by[(n+1)%3][name]
			if !slices.Equal(mine[1].Expand(), next[0].Expand()) {
				t.Fatalf("nodes %d and %d hold different components", n, (n+1)%3)
			}
			a, b, c := mine[0].Expand(), mine[1].Expand(), next[1].Expand()
			for i, want := range values {
				got := a[i] + b[i] + c[i]
				if name == "e" {
					got = a[i] ^ b[i] ^ c[i]
				}
				if int64(got) != want {
					t.Fatalf("row %d is %d, want %d", i, int64(got), want)
				}
			}
		}
	})
}

// Exactly one chunk, one word more, one less.
func TestChunkEdges(t *testing.T) {
	for _, rows := range []int{1, 8191, 8192, 8193, 16384} {
		values := make([]int64, rows)
		for i := range values {
			values[i] = int64(i)
		}
		blob, v := split(t, "v:x", values, 1000)
		if want := int64((rows + 8191) / 8192); v.Chunks != want {
			t.Errorf("%d rows make %d chunks, want %d", rows, v.Chunks, want)
		}
		held(t, layout(rows, v), 1, []string{"v:x"}, blob)
	}
}

func TestDamageIsFound(t *testing.T) {
	values := make([]int64, 10_000)
	blob, v := split(t, "v:x", values, 5000)
	header := shares.NewHeader(keyset, scenario, "v:x", 10_000)
	if _, err := shares.Open(bytes.NewReader(blob), threeKey[2], header); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, blob []byte, key shares.Key, h shares.Header) {
		t.Helper()
		if _, err := shares.Open(bytes.NewReader(blob), key, h); !errors.Is(err, enclave.ErrBlob) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, at := range []int{0, 9, 40, len(blob) / 2, len(blob) - 1} {
		bad := bytes.Clone(blob)
		bad[at] ^= 1
		refused("a flipped bit", bad, threeKey[2], header)
	}
	refused("an end cut off", blob[:len(blob)-1], threeKey[2], header)
	refused("a chunk left off", blob[:len(blob)-(10_000-8192)*8-16], threeKey[2], header)
	refused("one byte more", append(bytes.Clone(blob), 0), threeKey[2], header)
	refused("another key", blob, threeKey[1], header)
	refused("another column", blob, threeKey[2], shares.NewHeader(keyset, scenario, "v:y", 10_000))
	refused("another scenario", blob, threeKey[2], shares.NewHeader(keyset, keyset, "v:x", 10_000))
	refused("fewer rows", blob, threeKey[2], shares.NewHeader(keyset, scenario, "v:x", 8192))
	l := layout(10_000, v)
	for c := range 3 {
		l.Vectors[0].Commitments = slices.Clone(v.Commitments)
		l.Vectors[0].Commitments[c] = canon.Sum(nil)
		for node := range 3 {
			k := shares.Holds(node)
			_, err := shares.Load(t.Context(), keyset, l, node, [2]shares.Key{threeKey[k[0]], threeKey[k[1]]}, []string{"v:x"}, open(blob))
			if holds := k[0] == c || k[1] == c; holds != errors.Is(err, enclave.ErrBlob) {
				t.Errorf("node %d with another commitment to component %d: %v", node, c, err)
			}
		}
	}
}

// A component key opens for its two holders only, with the pieces of both, and with nothing in the layout changed.
func TestUnlock(t *testing.T) {
	l := layout(1024)
	for _, n := range []string{"n", "e"} {
		_, v := split(t, n, make([]int64, 1024), 1024)
		l.Vectors = append(l.Vectors, v)
	}
	var ids [3]*keys.Identity
	for i, n := range l.Shares.Nodes {
		var err error
		if ids[i], err = keys.NewIdentity(n); err != nil {
			t.Fatal(err)
		}
	}
	// Three pieces, each held by all but one.
	secret := func(node int) shares.NodeSecret {
		lineage := [][]byte{{1}, {2}, {3}}
		return shares.NewNodeSecret(slices.Delete(lineage, node, node+1))
	}
	for c := range 3 {
		for _, h := range mpc.Holders(c) {
			info := l.ShareInfo(keyset, c, l.Shares.Nodes[h])
			wrapped, err := secret(h).Wrap(info, threeKey[c])
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := keys.SealTo(ids[h].HPKE(), info, wrapped)
			if err != nil {
				t.Fatal(err)
			}
			l.Shares.Keys = append(l.Shares.Keys, sealed)
		}
	}
	for node := range 3 {
		got, err := shares.Unlock(keyset, l, node, secret(node), ids[node].Open)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range shares.Holds(node) {
			if got[i] != threeKey[c] {
				t.Errorf("node %d gets another key for component %d", node, c)
			}
		}
		if _, err := shares.Unlock(keyset, l, node, secret(node), ids[(node+1)%3].Open); err == nil {
			t.Errorf("the keys of node %d open for another", node)
		}
		if _, err := shares.Unlock(keyset, l, node, secret((node+1)%3), ids[node].Open); !errors.Is(err, enclave.ErrBlob) {
			t.Errorf("the keys of node %d open with another's pieces: %v", node, err)
		}
		if _, err := shares.Unlock(keyset, l, node, shares.NodeSecret{}, ids[node].Open); !errors.Is(err, enclave.ErrBlob) {
			t.Errorf("the keys of node %d open without pieces: %v", node, err)
		}
		if _, err := shares.Unlock(scenario, l, node, secret(node), ids[node].Open); err == nil {
			t.Error("the keys open under another keyset")
		}
	}
	l.Vectors[0].Commitments[0] = canon.Sum(nil)
	if _, err := shares.Unlock(keyset, l, 0, secret(0), ids[0].Open); err == nil {
		t.Error("the keys open for another layout")
	}
}

func FuzzOpen(f *testing.F) {
	blob, _ := split(f, "v:x", []int64{1, -2, 3}, 3)
	f.Add(blob)
	f.Add(blob[:20])
	header := shares.NewHeader(keyset, scenario, "v:x", 3)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := shares.Open(bytes.NewReader(data), threeKey[2], header); err == nil && !bytes.Equal(data, blob) {
			t.Fatalf("accepted %x", data)
		}
	})
}
