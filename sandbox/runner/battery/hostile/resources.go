package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// exhaust takes one resource until it is stopped; the caller judges. It exits with code 0 if nothing stopped it.
func exhaust(what string, args ...string) {
	count := 96 // three times what a sandbox of package battery may have
	if len(args) > 0 {
		count, _ = strconv.Atoi(args[0])
	}
	switch what {
	case "answer":
		os.Exit(answered)
	case "processes":
		processes(count)
	case "threads":
		threads(count)
	case "memory":
		memory()
	case "processors":
		processors()
	case "output-flood":
		flood(os.Stdout)
	case "error-flood":
		flood(os.Stderr)
	case "slow-output":
		for {
			fmt.Print("x")
			time.Sleep(20 * time.Millisecond)
		}
	case "never-ending":
		for {
			time.Sleep(time.Hour)
		}
	case "ignored-signals":
		signal.Ignore()
		for {
		}
	default:
		os.Exit(64)
	}
}

// processes makes more than there may be, each of which waits. They end with their parent's namespace, or by themselves.
func processes(count int) {
	wait := unix.Timespec{Sec: 5}
	var pids []int
	for range count {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			fmt.Fprintln(os.Stderr, describe(errno))
			os.Exit(1)
		}
		if pid == 0 {
			unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&wait)), 0, 0)
			for {
				unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
		}
		pids = append(pids, int(pid))
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// threads blocks threads until no more are to be had; the runtime then ends the program.
func threads(count int) {
	for range count {
		go func() { wait := unix.Timespec{Sec: 10}; _ = unix.Nanosleep(&wait, nil) }()
		time.Sleep(100 * time.Microsecond)
	}
}

// memory takes four times what there is. Off the runtime's heap, so that its own limit plays no part.
func memory() {
	for i := range 32 {
		b, err := unix.Mmap(-1, 0, 8<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			fmt.Fprintln(os.Stderr, describe(err))
			os.Exit(1)
		}
		for at := 0; at < len(b); at += 4096 {
			b[at] = byte(i)
		}
	}
}

// processors prints how many it got, of four threads.
func processors() {
	fmt.Fprintln(os.Stderr, "spinning")
	stop := time.Now().Add(2 * time.Second)
	for range 4 {
		go func() {
			for {
			}
		}()
	}
	for time.Now().Before(stop) {
		time.Sleep(50 * time.Millisecond)
	}
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used); err != nil {
		os.Exit(1)
	}
	fmt.Printf("%.2f", float64(used.Nano())/1e9/time.Since(stop.Add(-2*time.Second)).Seconds())
}

func flood(w io.Writer) {
	block := bytes.Repeat([]byte("spam and eggs\n"), 1<<12)
	for range 400 { // 22 MB
		if _, err := w.Write(block); err != nil {
			os.Exit(1)
		}
	}
}
