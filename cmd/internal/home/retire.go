package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/internal/durable"
)

// What a lab's settings are called while the lab is moved elsewhere, and once it has been. Open refuses both: a log that
// grows in two places is a fork.
const (
	movingFile = settingsFile + ".moving"
	movedFile  = settingsFile + ".moved"
)

// BeginMove makes a closed lab's folder one that Open refuses.
func BeginMove(dir string) error { return rename(dir, settingsFile, movingFile) }

// UndoMove makes it a lab's again, where moving it failed or was cut off.
func UndoMove(dir string) error { return rename(dir, movingFile, settingsFile) }

// EndMove says that the lab goes on elsewhere, for good.
func EndMove(dir string) error { return rename(dir, movingFile, movedFile) }

// Moving reports whether a move was begun and not ended.
func Moving(dir string) (bool, error) { return exists(dir, movingFile) }

// Moved reports whether the lab goes on elsewhere.
func Moved(dir string) (bool, error) { return exists(dir, movedFile) }

func exists(dir, name string) (bool, error) {
	_, err := os.Lstat(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func rename(dir, from, to string) error {
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		return fmt.Errorf("moving the lab: %w", err)
	}
	return durable.SyncDir(dir)
}
