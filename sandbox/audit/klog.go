package audit

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"k8s.io/klog/v2"
)

// Tessera's storage writes its log lines to klog, of which a process has one, and which may not be set while a log is open.
// So it is set once, before the first log is opened, to something that passes lines on to whichever logger is named last.
var (
	setKlog  sync.Once
	klogGoes atomic.Pointer[slog.Logger] // nil: slog.Default
)

// RedirectTessera sends the log lines of Tessera's storage, which are the process's and not one log's, to a logger. The last
// call counts. Without any they go to slog.Default.
func RedirectTessera(log *slog.Logger) {
	klogGoes.Store(log.With("component", "tessera"))
	catchKlog()
}

func catchKlog() {
	setKlog.Do(func() { klog.SetSlogLogger(slog.New(forward{})) })
}

// forward is a handler that asks for its target with every line.
type forward struct {
	with func(slog.Handler) slog.Handler // what WithAttrs and WithGroup add; nil = nothing
}

func (f forward) target() slog.Handler {
	log := klogGoes.Load()
	if log == nil {
		log = slog.Default()
	}
	if f.with == nil {
		return log.Handler()
	}
	return f.with(log.Handler())
}

func (f forward) Enabled(ctx context.Context, level slog.Level) bool {
	return f.target().Enabled(ctx, level)
}

func (f forward) Handle(ctx context.Context, r slog.Record) error { return f.target().Handle(ctx, r) }

func (f forward) WithAttrs(attrs []slog.Attr) slog.Handler {
	return f.and(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

func (f forward) WithGroup(name string) slog.Handler {
	return f.and(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (f forward) and(add func(slog.Handler) slog.Handler) slog.Handler {
	if f.with == nil {
		return forward{add}
	}
	return forward{func(h slog.Handler) slog.Handler { return add(f.with(h)) }}
}
