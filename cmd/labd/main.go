// Labd is the control plane of a lab as a service: catalogue, statements, jobs, releases and the log, over gRPC and JSON,
// for callers with a certificate of the lab. It holds no key that opens anything and links no code that could.
//
//	labd -config labd.yaml [-check]
package main

import (
	"os"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/plane"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func main() {
	process.Init() // becomes a worker's sandbox when it is executed as one
	os.Exit(daemon.Main("labd", &plane.Config{}))
}
