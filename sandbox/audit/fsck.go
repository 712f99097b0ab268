package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

// Problem is one thing wrong with a file of a log. It is an ErrDamaged.
type Problem struct {
	Path  string // relative to the log's folder
	Index int64  // of the entry concerned, or -1 if it is the file as a whole
	What  string
}

func (p *Problem) Error() string {
	if p.Index >= 0 {
		return fmt.Sprintf("%v: %s: entry %d %s", ErrDamaged, p.Path, p.Index, p.What)
	}
	return fmt.Sprintf("%v: %s %s", ErrDamaged, p.Path, p.What)
}

// Unwrap makes every problem an ErrDamaged.
func (p *Problem) Unwrap() error { return ErrDamaged }

func damaged(path, format string, args ...any) *Problem {
	return &Problem{Path: path, Index: -1, What: fmt.Sprintf(format, args...)}
}

// Report is what Fsck found.
type Report struct {
	Checkpoint enclave.Checkpoint // cosigned; zero if checkpoint.cosigned does not verify
	Files      int                // bundles and tiles compared
	Uncosigned int64              // entries integrated after the checkpoint: promised to nobody, cosigned at the next Open
	Problems   []*Problem
}

func (r *Report) add(p *Problem) { r.Problems = append(r.Problems, p) }

func (r *Report) addErr(path string, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = damaged(path, "%v", err)
	}
	r.add(p)
}

// Fsck checks a log's folder under the public keys alone and needs nothing running. It hashes every entry of the
// cosigned checkpoint, computes every tile from those hashes, and compares. Where a bundle and a tile disagree, the hash
// above them or the signed root tells which one is wrong. The error is an ErrDamaged if and only if there are problems;
// anything else means that the check did not finish.
func Fsck(ctx context.Context, dir string, keys enclave.LogKeys) (Report, error) {
	c := checker{dir: dir, keys: keys}
	if err := c.check(ctx); err != nil {
		return c.report, fmt.Errorf("checking audit log %q: %w", dir, err)
	}
	switch n := len(c.report.Problems); n {
	case 0:
		return c.report, nil
	case 1:
		return c.report, fmt.Errorf("checking audit log %q: %w", dir, c.report.Problems[0])
	default:
		return c.report, fmt.Errorf("checking audit log %q: %w, and %d more", dir, c.report.Problems[0], n-1)
	}
}

// checker walks a log from left to right and remembers, per level, the hash of each full tile.
type checker struct {
	dir    string
	keys   enclave.LogKeys
	tree   *tree
	report Report

	levels  [][]node // levels[l][n]: what tile n of level l-1 hashes to, as its entries say; levels[0] is not kept
	edge    frontier
	unknown bool // an entry is lost: the root cannot be computed

	early     enclave.Checkpoint // Tessera's own, if it is not ahead of the cosigned one
	earlyRoot tlog.Hash
	hasEarly  bool
}

// node is a hash that could be computed, or could not.
type node struct {
	hash tlog.Hash
	ok   bool
}

func (c *checker) check(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(c.dir, cosignedFile))
	if err != nil {
		c.report.add(damaged(cosignedFile, "cannot be read: %v", errors.Unwrap(err)))
		return nil
	}
	cp, err := c.keys.Open(string(text))
	if err != nil {
		c.report.add(damaged(cosignedFile, "does not verify: %v", err))
		return nil
	}
	c.report.Checkpoint = cp
	c.tree = newTree(c.dir, cp.Size)
	c.readTesseras(cp)
	for n := int64(0); n*layout.EntryBundleWidth < cp.Size; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		c.bundle(n, cp)
		clear(c.tree.tiles) // each level-0 tile is needed once
	}
	for level := 1; level < len(c.levels); level++ {
		c.level(level)
	}
	if !c.unknown && enclave.Digest(c.edge.root()) != cp.Root {
		c.report.add(damaged(cosignedFile, "commits to a root that the %d entries do not hash to", cp.Size))
	}
	if c.hasEarly && !c.unknown && enclave.Digest(c.earlyRoot) != c.early.Root {
		c.report.add(damaged(layout.CheckpointPath, "commits to a root that its %d entries do not hash to", c.early.Size))
	}
	return nil
}

// readTesseras checks Tessera's own two files against the cosigned checkpoint. The tree state is read last: a log in use
// writes it before it publishes.
func (c *checker) readTesseras(cp enclave.Checkpoint) {
	var own enclave.Checkpoint
	text, err := os.ReadFile(filepath.Join(c.dir, layout.CheckpointPath))
	if err == nil {
		own, _, err = openLogNote(c.keys.Log, text)
	}
	if err != nil {
		c.report.add(damaged(layout.CheckpointPath, "does not verify: %v", err))
	} else if own.Size <= cp.Size {
		c.early, c.hasEarly = own, true
		c.earlyRoot, _ = tlog.TreeHash(0, nil)
	}
	var state struct {
		Size int64  `json:"size"`
		Root []byte `json:"root"`
	}
	raw, err := os.ReadFile(filepath.Join(c.dir, treeStateFile))
	if err == nil {
		err = json.Unmarshal(raw, &state)
	}
	switch {
	case err != nil:
		c.report.add(damaged(treeStateFile, "cannot be read: %v", err))
	case state.Size < max(cp.Size, own.Size):
		c.report.add(damaged(treeStateFile, "has %d entries, fewer than a signed checkpoint", state.Size))
	case state.Size == cp.Size && !slices.Equal(state.Root, cp.Root[:]):
		c.report.add(damaged(treeStateFile, "has another root than the cosigned checkpoint of the same size"))
	default:
		c.report.Uncosigned = state.Size - cp.Size
	}
}

// bundle compares one entry bundle with its tile of leaf hashes and pushes the leaves believed to be right.
func (c *checker) bundle(n int64, cp enclave.Checkpoint) {
	raws, path, bundleErr := c.tree.bundle(n)
	tile, tileErr := c.tree.tile(0, n)
	c.report.Files += 2
	stored := split(tile)
	hashed := make([]tlog.Hash, len(raws))
	for i, raw := range raws {
		hashed[i] = tlog.RecordHash(raw)
	}
	switch {
	case bundleErr != nil:
		c.report.addErr(path, bundleErr)
		hashed = stored
	case tileErr == nil && !slices.Equal(hashed, stored):
		if c.believe(n, stored, hashed, cp) {
			i := n*layout.EntryBundleWidth + int64(firstDifference(stored, hashed))
			c.report.add(&Problem{Path: path, Index: i, What: "is not the one in the tree"})
			bundleErr, hashed = ErrDamaged, stored
		} else {
			c.reportTile(0, n, stored, hashed)
		}
	}
	if tileErr != nil {
		c.report.addErr("", tileErr)
	}
	if bundleErr == nil {
		c.parse(path, n, raws)
	}
	c.push(n, hashed)
}

// believe tells whether the stored leaf hashes of bundle n are right and those of its entries wrong, rather than the
// reverse. A full tile has its hash in the level above. The last, partial one completes the signed root.
func (c *checker) believe(n int64, stored, hashed []tlog.Hash, cp enclave.Checkpoint) bool {
	if len(stored) == layout.TileWidth {
		parent, err := c.tree.tile(1, n/layout.TileWidth)
		if err == nil {
			above := split(parent)[n%layout.TileWidth]
			if above == subtree(stored) {
				return true
			}
			if above == subtree(hashed) {
				return false
			}
		}
	}
	// With more damage to the right, or above, neither completes the root: the tile is then named, and the entries'
	// own hashes fail against the checkpoint, which is reported too.
	edge := c.edge.clone()
	for _, h := range stored {
		edge.push(h)
	}
	return enclave.Digest(edge.root()) == cp.Root
}

// parse checks that what is in the tree are audit entries.
func (c *checker) parse(path string, n int64, raws [][]byte) {
	for i, raw := range raws {
		var e enclave.Entry
		if err := canon.Unmarshal(raw, &e); err != nil {
			c.report.add(&Problem{Path: path, Index: n*layout.EntryBundleWidth + int64(i), What: "is in the tree but is not an audit entry"})
		}
	}
}

// push adds the leaves of bundle n to the tree being computed. None means that they are lost.
func (c *checker) push(n int64, leaves []tlog.Hash) {
	if len(leaves) == 0 {
		c.unknown = true
	}
	for i, h := range leaves {
		c.edge.push(h)
		if n*layout.EntryBundleWidth+int64(i)+1 == c.early.Size {
			c.earlyRoot = c.edge.root()
		}
	}
	switch len(leaves) {
	case layout.TileWidth:
		c.pushNode(1, node{subtree(leaves), true})
	case 0:
		if c.tree.width(0, n) == layout.TileWidth {
			c.pushNode(1, node{})
		}
	}
}

func (c *checker) pushNode(level int, n node) {
	for len(c.levels) <= level {
		c.levels = append(c.levels, nil)
	}
	c.levels[level] = append(c.levels[level], n)
}

// level compares the tiles of one level with the hashes computed from the level below and computes the level above.
func (c *checker) level(level int) {
	nodes := c.levels[level]
	for n := int64(0); n*layout.TileWidth < int64(len(nodes)); n++ {
		part := nodes[n*layout.TileWidth : min((n+1)*layout.TileWidth, int64(len(nodes)))]
		computed := make([]tlog.Hash, len(part))
		whole := true
		for i, nd := range part {
			computed[i] = nd.hash
			whole = whole && nd.ok
		}
		c.report.Files++
		tile, err := c.tree.tile(level, n)
		stored := split(tile)
		switch {
		case err != nil:
			c.report.addErr("", err)
		case whole && !slices.Equal(stored, computed):
			c.reportTile(level, n, stored, computed)
		}
		if len(part) == layout.TileWidth {
			c.pushNode(level+1, node{subtree(computed), whole})
		}
	}
}

func (c *checker) reportTile(level int, n int64, stored, computed []tlog.Hash) {
	path := layout.TilePath(uint64(level), uint64(n), partial(len(stored)))
	if _, err := os.Stat(filepath.Join(c.dir, path)); err != nil {
		path = layout.TilePath(uint64(level), uint64(n), 0)
	}
	c.report.add(damaged(path, "differs from the entries below it at hash %d", firstDifference(stored, computed)))
}
