package release_test

import (
	"syscall"
	"testing"
	"time"
)

// A release that is asked for again does everything but the execution of the plan and the first charge: three checks of
// the dossier, merging, opening, tabulating, endorsing. In one process and over mutual TLS with three servers and a
// control plane the work is the same, so the difference is what the wire costs: cpu-ms/op counts the time of all three, of
// both ends of every connection, and of nobody else on the machine.
func BenchmarkRelease(b *testing.B) {
	w := ready(b)
	job := w.job(cubeQuery, 2_000_000)
	b.Run("in process", func(b *testing.B) {
		b.ReportAllocs()
		defer cpuTime(b)()
		for b.Loop() {
			if _, err := w.custodians["cust-a"].Lead(b.Context(), job, w.members(custodianNames...), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	n := networked(w)
	lead := n.client("cust-a")
	b.Run("over the wire", func(b *testing.B) {
		b.ReportAllocs()
		defer cpuTime(b)()
		for b.Loop() {
			if _, err := lead.Lead(b.Context(), job, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// cpuTime reports the processor time of this process per operation.
func cpuTime(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64((used()-start).Milliseconds())/float64(b.N), "cpu-ms/op") }
}
