// Witness cosigns the lab's log, so that nobody can be shown a history that others do not see.
//
//	witness -config witness.yaml [-check]
package main

import (
	"os"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/witnessd"
)

func main() { os.Exit(daemon.Main("witness", &witnessd.Config{})) }
