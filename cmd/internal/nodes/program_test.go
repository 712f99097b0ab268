package nodes_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/cmd/internal/nodejob"
	"yingzhou.dev/lab/cmd/internal/nodes"
	"yingzhou.dev/lab/internal/canon"
)

// A nodehost that is killed cannot look after its node: another one removes it, in the same isolation.
func TestKilledHostIsCleanedUpAfter(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "nodehost")
	program := canon.Sum([]byte("node"))
	text := `#!/bin/sh
echo "$@" >> ` + dir + `/calls
case $1 in
identify) echo '{"Program":"` + program.String() + `","Image":"` + program.String() + `","Isolation":"docker/runc: all"}' ;;
run) kill -KILL $$ ;;
esac
`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p := &nodes.Program{Path: script, Node: "/nowhere/node", Owner: dir}
	_, err := p.Run(t.Context(), nodejob.Run{ID: "plan-1", Program: program})
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("its end is told as %v", err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(calls)), "\n")
	last := lines[len(lines)-1]
	if len(lines) != 3 || !strings.HasPrefix(last, "remove ") || !strings.HasSuffix(last, "-id plan-1") || !strings.Contains(last, "-isolation docker ") {
		t.Errorf("calls were\n%s", calls)
	}
}
