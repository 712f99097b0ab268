package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
)

// treeStateFile is Tessera's durable record of the integrated tree.
const treeStateFile = ".state/treeState"

// tree reads the tree of one size from the tiles on disk. Tiles are immutable for a size, so they are read once. It is
// for one goroutine and a few calls.
type tree struct {
	dir   string
	size  int64
	tiles map[tlog.Tile][]byte
}

func newTree(dir string, size int64) *tree {
	return &tree{dir: dir, size: size, tiles: make(map[tlog.Tile][]byte)}
}

// width is how many of tile n's hashes at a tile level belong to the tree: 256 for a full tile.
func (t *tree) width(level int, n int64) int {
	hashes := t.size >> (layout.TileHeight * level)
	return int(min(hashes-n*layout.TileWidth, layout.TileWidth))
}

// partial is width as paths write it: 0 for a full tile.
func partial(width int) uint8 { return uint8(width % layout.TileWidth) }

// tile reads one tile's hashes, none of them authenticated.
func (t *tree) tile(level int, n int64) ([]byte, error) {
	w := t.width(level, n)
	id := tlog.Tile{H: layout.TileHeight, L: level, N: n, W: w}
	if data, ok := t.tiles[id]; ok {
		return data, nil
	}
	data, path, have, err := readResource(t.dir, w, func(p uint8) string { return layout.TilePath(uint64(level), uint64(n), p) })
	if err != nil {
		return nil, err
	}
	if len(data) != have*tlog.HashSize {
		return nil, damaged(path, "has %d bytes, want %d", len(data), have*tlog.HashSize)
	}
	data = data[:w*tlog.HashSize]
	t.tiles[id] = data
	return data, nil
}

// bundle reads the entries of one bundle that belong to the tree, not authenticated, and the name of its file.
func (t *tree) bundle(n int64) (raws [][]byte, path string, err error) {
	w := t.width(0, n)
	data, path, have, err := readResource(t.dir, w, func(p uint8) string { return layout.EntriesPath(uint64(n), p) })
	if err != nil {
		return nil, path, err
	}
	var b api.EntryBundle
	if err := b.UnmarshalText(data); err != nil {
		return nil, path, damaged(path, "%v", err)
	}
	if len(b.Entries) != have {
		return nil, path, damaged(path, "has %d entries, want %d", len(b.Entries), have)
	}
	return b.Entries[:w], path, nil
}

// readResource reads a tile or bundle of the given width and tells how many items the file should have. Once the full
// one is there, Tessera removes the partial ones, of which it is an extension (C2SP tlog-tiles, "Partial Tiles").
func readResource(dir string, width int, path func(partial uint8) string) (data []byte, name string, have int, err error) {
	name = path(partial(width))
	data, err = os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) && width < layout.TileWidth {
		if data, err := os.ReadFile(filepath.Join(dir, path(0))); err == nil {
			return data, path(0), layout.TileWidth, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, name, width, damaged(name, "is missing")
	}
	if err != nil {
		return nil, name, width, damaged(name, "cannot be read: %v", err)
	}
	return data, name, width, nil
}

// ReadHashes implements tlog.HashReader without authentication, for computing a root that is not known yet.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		id := tlog.TileForIndex(layout.TileHeight, x)
		data, err := t.tile(id.L, id.N)
		if err != nil {
			return nil, err
		}
		id.W = len(data) / tlog.HashSize
		if out[i], err = tlog.HashFromTile(id, data, x); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Height, ReadTiles and SaveTiles implement tlog.TileReader.
func (t *tree) Height() int { return layout.TileHeight }

func (t *tree) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, id := range tiles {
		data, err := t.tile(id.L, id.N)
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

func (t *tree) SaveTiles([]tlog.Tile, [][]byte) {}

// root computes the tree's root from its tiles.
func (t *tree) root() (enclave.Digest, error) {
	h, err := tlog.TreeHash(t.size, t)
	return enclave.Digest(h), err
}

// under returns a reader of hashes that refuses every tile that root does not vouch for.
func (t *tree) under(root enclave.Digest) tlog.HashReader {
	r := tlog.TileHashReader(tlog.Tree{N: t.size, Hash: tlog.Hash(root)}, t)
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes, err := r.ReadHashes(indexes)
		if err != nil && !errors.Is(err, ErrDamaged) {
			err = fmt.Errorf("%w: tiles of the tree of %d entries: %w", ErrDamaged, t.size, err)
		}
		return hashes, err
	})
}

// entries yields the raw entries from ≤ index < to, each compared with its leaf in the tree of that root. A yielded
// error ends it.
func (t *tree) entries(ctx context.Context, root enclave.Digest, from, to int64) iter.Seq2[int64, rawEntry] {
	return func(yield func(int64, rawEntry) bool) {
		hashes := t.under(root)
		for i := from; i < to; {
			n := i / layout.EntryBundleWidth
			end := min(to, (n+1)*layout.EntryBundleWidth)
			raws, err := t.checkedBundle(ctx, hashes, n, i, end)
			if err != nil {
				yield(i, rawEntry{err: err})
				return
			}
			for _, raw := range raws {
				if !yield(i, rawEntry{data: raw}) {
					return
				}
				i++
			}
		}
	}
}

// rawEntry is a leaf's bytes, or why there are none.
type rawEntry struct {
	data []byte
	err  error
}

// checkedBundle returns entries from ≤ index < end of bundle n after comparing them with their leaf hashes.
func (t *tree) checkedBundle(ctx context.Context, hashes tlog.HashReader, n, from, end int64) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raws, path, err := t.bundle(n)
	if err != nil {
		return nil, err
	}
	raws = raws[from-n*layout.EntryBundleWidth : end-n*layout.EntryBundleWidth]
	indexes := make([]int64, len(raws))
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, from+int64(i))
	}
	leaves, err := hashes.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	for i, raw := range raws {
		if tlog.RecordHash(raw) != leaves[i] {
			return nil, &Problem{Path: path, Index: from + int64(i), What: "is not the one in the tree"}
		}
	}
	return raws, nil
}
