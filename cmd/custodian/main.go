// Custodian holds one body's pieces of the lab's keys. It checks everything about a release by itself before it takes part.
//
//	custodian -config custodian.yaml [-check]
package main

import (
	"os"

	"yingzhou.dev/lab/cmd/internal/custody"
	"yingzhou.dev/lab/cmd/internal/daemon"
)

func main() { os.Exit(daemon.Main("custodian", &custody.Config{})) }
