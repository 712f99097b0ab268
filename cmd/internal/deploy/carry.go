package deploy

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"yingzhou.dev/lab/internal/durable"
)

// carry copies a file, or a folder with all that is in it, from the lab's folder. What is not there is left out: a lab
// that has sealed nothing has no blobs. Locks stay behind.
func (l *layout) carry(from, to string) error {
	src, dst := filepath.Join(l.from, from), filepath.Join(l.out, to)
	err := filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := dst + strings.TrimPrefix(path, src)
		info, err := e.Info()
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return durable.MkdirAll(target, info.Mode().Perm()|0o700)
		case !info.Mode().IsRegular() || e.Name() == "lock" || e.Name() == ".lock":
			return nil
		}
		return copyFile(path, target, info.Mode().Perm())
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func copyFile(from, to string, mode fs.FileMode) error {
	if err := durable.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := durable.Create(to, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Abort())
	}
	return out.Commit()
}
