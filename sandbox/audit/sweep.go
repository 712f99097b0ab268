package audit

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"yingzhou.dev/lab/internal/durable"
)

// leftover is what Tessera writes before it is linked or renamed to its name: the name and a random number. A process that
// is killed in between leaves it.
var leftover = regexp.MustCompile(`^(x?[0-9]{1,3}|checkpoint|treeState|version)[0-9]{4,10}$`)

// sweep removes what a crash left half-written. Nobody else may be writing.
func sweep(dir string) error {
	if err := durable.Sweep(dir); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !leftover.MatchString(e.Name()) {
			return err
		}
		return os.Remove(path)
	})
}
