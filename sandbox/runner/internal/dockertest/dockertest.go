// Package dockertest starts a Docker daemon of a test's own, to be configured, stopped and hung without harm to others.
package dockertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// GVisor is where Debian's package puts the runtime. The test's daemon knows it as "runsc" where it is installed.
const GVisor = "/usr/bin/runsc"

// Daemon is a running dockerd.
type Daemon struct {
	Host string // for docker.Config
	Dir  string // holds all that it writes
	args []string
	cmd  *exec.Cmd
}

// Skip skips a test for want of something, or fails it where everything is required.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	if os.Getenv("LAB_REQUIRE_ALL") == "1" {
		t.Fatalf("%s (LAB_REQUIRE_ALL=1)", text)
	}
	t.Skipf("%s (LAB_REQUIRE_ALL=1 makes this a failure)", text)
}

// Start starts a daemon without a bridge and without touching the packet filter. It needs root and dockerd.
func Start(t testing.TB) *Daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "only root can start a Docker daemon for the test")
	}
	program, err := exec.LookPath("dockerd")
	if err != nil {
		Skip(t, "no dockerd here to start one for the test")
	}
	dir, err := os.MkdirTemp("", "lab-dockerd-") // a socket's path may have 107 bytes, and t.TempDir's is long
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Host: "unix://" + dir + "/sock", Dir: dir}
	config := map[string]any{}
	if _, err := os.Stat(GVisor); err == nil {
		config["runtimes"] = map[string]any{"runsc": map[string]any{"path": GVisor, "runtimeArgs": []string{"--network=none"}}}
	}
	data, err := json.Marshal(config)
	if err := errors.Join(err, os.WriteFile(dir+"/daemon.json", data, 0o600)); err != nil {
		t.Fatal(err)
	}
	d.args = []string{program, "--config-file", dir + "/daemon.json", "--data-root", dir + "/data", "--exec-root", dir + "/exec", "--pidfile", dir + "/pid",
		"-H", d.Host, "--bridge=none", "--iptables=false", "--ip6tables=false"}
	t.Cleanup(func() {
		d.Stop(t)
		d.sweep(t)
	})
	d.Run(t)
	return d
}

// Run starts the daemon, again if it has been stopped, and waits until it answers.
func (d *Daemon) Run(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(d.Dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: 0, Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if d.answers() {
			return
		}
		if time.Now().After(deadline) || unix.Kill(d.cmd.Process.Pid, 0) != nil {
			text, _ := os.ReadFile(d.Dir + "/log")
			t.Fatalf("the test's dockerd does not answer:\n%s", text)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (d *Daemon) answers() bool {
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Dir+"/sock")
	}}}
	res, err := c.Get("http://docker/_ping")
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Signal sends the daemon a signal.
func (d *Daemon) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the daemon, and with it its containers.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(unix.SIGCONT)
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(30*time.Second, func() { _ = d.cmd.Process.Kill() })
	_ = d.cmd.Wait()
	kill.Stop()
	d.cmd = nil
}

// sweep removes the daemon's files, and mounts if it was killed.
func (d *Daemon) sweep(t testing.TB) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], d.Dir+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
	if err := os.RemoveAll(filepath.Clean(d.Dir)); err != nil {
		t.Error(err)
	}
}
