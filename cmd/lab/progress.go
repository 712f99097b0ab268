package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"

	"yingzhou.dev/lab/sandbox"
)

// progress shows a job's way on standard error: a bar on a terminal, a line per change elsewhere.
func (a *app) progress() (watch func(sandbox.Job), done func()) {
	if !a.watched() {
		last := ""
		return func(j sandbox.Job) {
			line := string(j.State)
			if j.Stage != "" {
				line += ": " + j.Stage
			}
			if line != last && !a.json {
				fmt.Fprintln(a.errs, line)
			}
			last = line
		}, func() {}
	}
	bar := progressbar.NewOptions(100, progressbar.OptionSetWriter(a.errs), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(false), progressbar.OptionThrottle(40*time.Millisecond))
	return func(j sandbox.Job) {
		stage := j.Stage
		if stage == "" {
			stage = string(j.State)
		}
		bar.Describe(fmt.Sprintf("%-26s", stage))
		bar.Set(int(share(j)))
	}, func() { bar.Finish() }
}

// watched reports whether a person follows standard error.
func (a *app) watched() bool { return !a.json && terminal(a.errs) }

// terminal reports whether a person sees what is written to w as it comes.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// share is how much of a job is done, for a bar: half the way is computing, half is opening.
func share(j sandbox.Job) int64 {
	switch j.State {
	case sandbox.Planned:
		return 2
	case sandbox.Running:
		return 5 + j.Percent*45/100
	case sandbox.Computed:
		return 50
	case sandbox.Opening:
		for i, s := range []string{"commit", "counts", "values", "endorse"} {
			if j.Stage == s {
				return 52 + int64(i)*12
			}
		}
		return 51
	case sandbox.Released:
		return 100
	}
	return 0
}
