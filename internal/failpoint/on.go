//go:build failpoint

package failpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled says whether this program was built to be killed.
const Enabled = true

// passed counts how often each point was hit in this process.
var passed struct {
	sync.Mutex
	times map[Point]int
}

// Hit ends the process as a power cut would, if this is the time for it, or waits.
func Hit(p Point) {
	this := fmt.Sprintf("%s:%d", p, count(p))
	for hold := range strings.SplitSeq(os.Getenv(Held), ",") {
		if point, fifo, ok := strings.Cut(hold, "@"); ok && point == this {
			if _, err := os.ReadFile(fifo); err != nil { // opened once there is a writer, read to the end once it has closed
				panic(fmt.Sprintf("%s: %v", Held, err))
			}
		}
	}
}

// count counts a passage, dies if it is the one, and returns the number.
func count(p Point) int {
	passed.Lock()
	defer passed.Unlock()
	if passed.times == nil {
		passed.times = map[Point]int{}
	}
	passed.times[p]++
	if name := os.Getenv(Trace); name != "" {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, p)
			f.Close()
		}
		if err != nil {
			panic(err)
		}
	}
	armed, nth, counted := strings.Cut(os.Getenv(Armed), ":")
	if armed != string(p) {
		return passed.times[p]
	}
	n := 1
	if counted {
		var err error
		if n, err = strconv.Atoi(nth); err != nil {
			panic(fmt.Sprintf("%s: %v", Armed, err))
		}
	}
	if passed.times[p] == n && first() {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal has been sent; nothing more is done
	}
	return passed.times[p]
}

// first makes the file of Once. Of several processes one can.
func first() bool {
	name := os.Getenv(Once)
	if name == "" {
		return true
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		panic(fmt.Sprintf("%s: %v", Once, err))
	}
	return true
}

// Clock is the machine's, set wrong by Shift.
func Clock() time.Time {
	if text := os.Getenv(Shift); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", Shift, err))
		}
		return time.Now().Add(d)
	}
	return time.Now()
}
