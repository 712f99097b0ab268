package fence

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "yingzhou.dev/lab"

// node is a package as the fence sees it. Names are import paths, but those of this module begin with "./", as on the go
// command line.
type node struct {
	imports []string // by what is shipped
	tests   []string // by its tests
	std     bool
}

// graph maps every package of this module, and every one that those reach, to its imports.
type graph map[string]*node

func short(path string) string {
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return "./" + rest
	}
	return path
}

func shorten(paths ...string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = short(p)
	}
	return out
}

// load asks the go command, for the programs as they are shipped: without cgo.
func load(t *testing.T) graph {
	t.Helper()
	// go test keeps a result until a folder that the test read changes. The go command reads them in a process of its
	// own, which does not count, so they are read here too.
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && len(e.Name()) > 2 && strings.HasPrefix(e.Name(), ".") {
			return fs.SkipDir // .git changes without the code changing
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-json=ImportPath,Standard,Imports,TestImports,XTestImports", module+"/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath                         string
			Standard                           bool
			Imports, TestImports, XTestImports []string
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return g
		}
		if err != nil {
			t.Fatalf("reading go list's answer: %v", err)
		}
		g[short(p.ImportPath)] = &node{std: p.Standard, imports: shorten(p.Imports...),
			tests: slices.Concat(shorten(p.TestImports...), shorten(p.XTestImports...))}
	}
}

// own names the packages of this module that a pattern takes, in order.
func (g graph) own(patterns ...string) []string {
	var out []string
	for name := range g {
		if strings.HasPrefix(name, "./") && matches(name, patterns...) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// matches reports whether one of the patterns takes name. "a/..." is a and what lies below it, as for the go command.
func matches(name string, patterns ...string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		stem, below := strings.CutSuffix(p, "/...")
		return name == stem || below && strings.HasPrefix(name, stem+"/")
	})
}

// chain is a shortest way from a package to one that the patterns take, both included, or nil. A package does not reach
// itself.
func (g graph) chain(from string, patterns ...string) []string {
	came := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := g[queue[0]]
		if at == nil { // "C" and "unsafe" have no imports to list
			continue
		}
		for _, next := range at.imports {
			if _, seen := came[next]; seen {
				continue
			}
			came[next] = queue[0]
			if matches(next, patterns...) {
				var way []string
				for p := next; p != ""; p = came[p] {
					way = append(way, p)
				}
				slices.Reverse(way)
				return way
			}
			queue = append(queue, next)
		}
	}
	return nil
}
