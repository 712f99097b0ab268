package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/battery"
)

// ErrUnchecked means that a production lab's machine has not passed the battery as it is now.
var ErrUnchecked = errors.New("the node has not passed its check")

// Checked is what Check came to, as it is kept.
type Checked struct {
	Passed    bool      `json:"passed"`
	Isolation string    `json:"isolation"`
	Kernel    string    `json:"kernel"`
	Probes    int       `json:"probes"`
	Escaped   []string  `json:"escaped"`
	At        time.Time `json:"at"`
}

// Check runs the battery on the isolation that jobs would get, with hostile's program in the worker's place, and notes the
// result. The error says that it could not be run; what got out is in the report.
func (n *Node) Check(ctx context.Context, hostile string, now time.Time) (_ *battery.Report, _ Checked, err error) {
	r, _, err := n.choose(ctx)
	if err != nil {
		return nil, Checked{}, err
	}
	defer func() { err = errors.Join(err, closeRunner(r)) }()
	report, err := battery.Run(ctx, battery.Config{Runner: r, Hostile: hostile, ID: fmt.Sprintf("check-%d", os.Getpid())})
	if err != nil {
		return nil, Checked{}, err
	}
	c := Checked{Isolation: report.Isolation.String(), Kernel: kernel(), Probes: len(report.Results), Escaped: []string{}, At: now.UTC()}
	for _, e := range report.Escapes() {
		c.Escaped = append(c.Escaped, e.Probe.Name)
	}
	c.Passed = len(c.Escaped) == 0 && (!n.cfg.Production || !report.Isolation.Development)
	data, err := json.Marshal(c)
	if err == nil {
		err = durable.WriteFile(n.cfg.StateFile, data, 0o644)
	}
	if err != nil {
		return nil, Checked{}, fmt.Errorf("noting the check: %w", err)
	}
	return report, c, nil
}

// checked returns an error that wraps ErrUnchecked unless the last check was passed with this isolation and kernel.
func (n *Node) checked(now runner.Isolation) error {
	const hint = "run `lab node check`"
	data, err := os.ReadFile(n.cfg.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrUnchecked, hint)
	}
	var c Checked
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: reading %s: %w", ErrUnchecked, n.cfg.StateFile, err)
	case !c.Passed:
		return fmt.Errorf("%w: on %s these got out: %v", ErrUnchecked, c.At.Format(time.DateTime), c.Escaped)
	case c.Isolation != now.String():
		return fmt.Errorf("%w: checked was %q, in force is %q: %s again", ErrUnchecked, c.Isolation, now, hint)
	case c.Kernel != kernel():
		return fmt.Errorf("%w: checked was kernel %s, this is %s: %s again", ErrUnchecked, c.Kernel, kernel(), hint)
	}
	return nil
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
