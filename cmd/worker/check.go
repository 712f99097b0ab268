package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
)

// checkFiles reads every input once and compares it with the task: whoever staged them may have been wrong, or the disk,
// or somebody who could write there since. A sealed blob is named by its own digest, which the manifest names; what it was
// expanded to is as the task says.
func checkFiles(dir string, files []enclave.TaskFile) error {
	if len(files) == 0 {
		return fmt.Errorf("task lists no inputs")
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, f := range files {
		g.Go(func() error {
			if filepath.Base(f.Name) != f.Name {
				return fmt.Errorf("input %q: not a plain file name", f.Name)
			}
			if name, ok := strings.CutSuffix(f.Name, "."+evaluator.KindBlob); ok && name != hex.EncodeToString(f.Digest[:]) {
				return fmt.Errorf("input %q: %w: the task says its digest is %s", f.Name, enclave.ErrBlob, f.Digest)
			}
			got, err := digestOf(filepath.Join(dir, f.Name))
			if err != nil {
				return fmt.Errorf("input %q: %w", f.Name, err)
			}
			if got != f.Digest {
				return fmt.Errorf("input %q: %w: its digest is %s, staged was %s", f.Name, enclave.ErrBlob, got, f.Digest)
			}
			return nil
		})
	}
	return g.Wait()
}

func digestOf(path string) (d enclave.Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return d, err
	}
	h.Sum(d[:0])
	return d, nil
}
