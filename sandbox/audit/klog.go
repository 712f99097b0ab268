package audit

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// RedirectTessera sends the log lines of Tessera's storage, which writes them to the process-wide klog and by default to
// standard error, to a logger. Being process-wide and not safe while a log is open, it is for main to call once before
// the first Open, never for a library.
func RedirectTessera(log *slog.Logger) { klog.SetSlogLogger(log.With("component", "tessera")) }
