package home

import (
	"fmt"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/internal/durable"
)

const retiredFile = settingsFile + ".moved"

// Retire makes a closed lab's folder one that Open refuses: the lab goes on elsewhere.
func Retire(dir string) error { return rename(dir, settingsFile, retiredFile) }

// Reinstate undoes Retire, where moving the lab failed.
func Reinstate(dir string) error { return rename(dir, retiredFile, settingsFile) }

func rename(dir, from, to string) error {
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		return fmt.Errorf("moving the lab: %w", err)
	}
	return durable.SyncDir(dir)
}
