package docker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/docker"
	"yingzhou.dev/lab/sandbox/runner/internal/runnertest"
)

// authority issues certificates for members.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	n    int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, n: 1}
	a.key = a.newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

// identity is an input folder with a member's key and certificate.
func (a *authority) identity(name string) string {
	a.n++
	key := a.newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := runnertest.Inputs(a.t)
	for file, block := range map[string]pem.Block{"key.pem": {Type: "PRIVATE KEY", Bytes: secret}, "cert.pem": {Type: "CERTIFICATE", Bytes: der}, "ca.pem": {Type: "CERTIFICATE", Bytes: a.cert.Raw}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&block), 0o644); err != nil {
			a.t.Fatal(err)
		}
	}
	return dir
}

// answer is what testdata/peer prints.
type answer struct {
	Served, Called []string
	Own            string
	Reached        map[string]string
	Routes         []string
}

// groups is a Runner for groups on a daemon that has bridges, with the members' program.
func groups(t *testing.T) (r *docker.Runner, image string) {
	t.Helper()
	r = open(t, docker.Config{Instance: fmt.Sprintf("group-%d", os.Getpid())})
	image, _, err := r.Prepare(t.Context(), runnertest.Build(t, "yingzhou.dev/lab/sandbox/runner/internal/runnertest/testdata/peer"), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	return r, image
}

func trio(t *testing.T, id, image string, a *authority, forbidden ...string) runner.Group {
	names := []string{"node-1", "node-2", "node-3"}
	g := runner.Group{ID: id}
	for i, name := range names {
		others := append(append([]string{}, names[:i]...), names[i+1:]...)
		g.Members = append(g.Members, runner.Member{Name: name, Task: runner.Task{ID: id + "-" + name, Image: image, InputDir: a.identity(name),
			Args: append([]string{name, strings.Join(others, ",")}, forbidden...), Limits: runner.Limits{MemoryMiB: 64, Deadline: 40 * time.Second}}})
	}
	return g
}

// TestGroup has three containers meet by mutual TLS on their network, while another group runs beside them, and reach
// neither that nor anything else.
func TestGroup(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six containers")
	}
	r, image := groups(t)
	a := newAuthority(t)
	hostile, _, err := r.Prepare(t.Context(), runnertest.Hostile(t), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	beside := runner.Group{ID: "beside"}
	for _, name := range []string{"a", "b"} {
		beside.Members = append(beside.Members, runner.Member{Name: name, Task: runner.Task{ID: "beside-" + name, Image: hostile, Args: []string{"spin"}, InputDir: runnertest.Inputs(t), Limits: runner.Limits{CPUs: 0.1}}})
	}
	if _, err := r.StartGroup(t.Context(), beside); err != nil {
		t.Fatal(err)
	}
	defer r.RemoveGroup(t.Context(), beside.ID)
	other, err := r.Subnet(t.Context(), beside.ID)
	if err != nil {
		t.Fatal(err)
	}
	mine := docker.FirstSubnet(r, "trio")
	gateway := mine.Addr().Next()
	forbidden := []string{netip.AddrPortFrom(gateway, 2375).String(), netip.AddrPortFrom(other.Addr().Next().Next(), 4433).String()}
	g := trio(t, "trio", image, a, forbidden...)
	g.Members[0].Task.Progress = func(string) { hostStaysOut(t, mine) }
	results, err := runner.RunGroup(t.Context(), r, g)
	if err != nil {
		t.Fatal(err)
	}
	for i, res := range results {
		if err := res.Err(); err != nil {
			t.Fatalf("%s: %v", g.Members[i].Name, err)
		}
		var got answer
		if err := json.Unmarshal(res.Stdout, &got); err != nil {
			t.Fatal(err)
		}
		want := strings.Split(g.Members[i].Task.Args[1], ",")
		if diff := cmp.Diff([][]string{want, want}, [][]string{got.Served, got.Called}); diff != "" {
			t.Errorf("%s met (-want +got):\n%s", g.Members[i].Name, diff)
		}
		for address, how := range got.Reached {
			if how == "" {
				t.Errorf("%s reached %s", g.Members[i].Name, address)
			}
		}
		// Engines before 27.1 give an internal network a default route all the same: to an address that nobody has.
		for _, route := range got.Routes {
			if f := strings.Fields(route); f[1] != "00000000" && f[1] != hexAddress(gateway) {
				t.Errorf("%s has a route %s", g.Members[i].Name, route)
			}
		}
		if !mine.Contains(netip.MustParseAddr(got.Own)) {
			t.Errorf("%s is at %s", g.Members[i].Name, got.Own)
		}
		if !res.Isolation.Has("network-private") || res.Isolation.Has("namespace-network") {
			t.Errorf("isolation says %s", res.Isolation)
		}
		t.Logf("%s: %v", g.Members[i].Name, got.Reached)
	}
	if _, err := r.Subnet(t.Context(), "trio"); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("its network is left: %v", err)
	}
}

// hexAddress is an address as /proc/net/route shows it.
func hexAddress(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("%02X%02X%02X%02X", b[3], b[2], b[1], b[0])
}

// hostStaysOut sees that this machine has no address on a group's network: its bridge is no gateway.
func hostStaysOut(t *testing.T, p netip.Prefix) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Error(err)
	}
	for _, a := range addresses {
		if q, err := netip.ParsePrefix(a.String()); err == nil && p.Contains(q.Addr()) {
			t.Errorf("this machine is on the group's network, at %s", a)
		}
	}
}

// TestGroupOfStrangers has a member whose certificate is by another authority: nobody talks to it, and all end.
func TestGroupOfStrangers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three containers")
	}
	r, image := groups(t)
	g := trio(t, "strangers", image, newAuthority(t))
	g.Members[2].Task.InputDir = newAuthority(t).identity("node-3")
	results, err := runner.RunGroup(t.Context(), r, g)
	if err != nil {
		t.Fatal(err)
	}
	for i, res := range results {
		if res.Err() == nil {
			t.Errorf("%s was satisfied: %s", g.Members[i].Name, res.Stdout)
		}
	}
	if left, err := r.List(t.Context(), nil); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestGroupBattery runs the attacker as a member: what it may do more than alone is make and take connections.
func TestGroupBattery(t *testing.T) {
	if testing.Short() {
		t.Skip("the battery takes too long with -short")
	}
	r, _ := groups(t)
	image, _, err := r.Prepare(t.Context(), runnertest.Build(t, "yingzhou.dev/lab/sandbox/runner/battery/hostile"), enclave.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	g := runner.Group{ID: "battery"}
	for _, name := range []string{"one", "two"} {
		g.Members = append(g.Members, runner.Member{Name: name, Task: runner.Task{ID: "battery-" + name, Image: image, Args: []string{"probes", "1", "none"}, InputDir: runnertest.Inputs(t),
			Limits: runner.Limits{CPUs: 2, MemoryMiB: 64, Pids: 32, TmpMiB: 4, Deadline: 30 * time.Second}}})
	}
	results, err := runner.RunGroup(t.Context(), r, g)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"interfaces": true, "routes": true, "listen": true, "socket-inet": true, "resolver": true,
		"learn-mounts": true, "learn-hardware": true, "learn-load": true, "learn-boot": true, "read-kallsyms": true}
	for _, res := range results {
		got := map[string]bool{}
		for line := range strings.Lines(string(res.Stdout)) {
			var o struct {
				Probe  string
				Worked bool
			}
			if err := json.Unmarshal([]byte(line), &o); err != nil {
				t.Fatal(err)
			}
			if o.Worked {
				got[o.Probe] = true
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || res.Err() != nil {
			t.Errorf("a member can do (-want +got): %v\n%s", res.Err(), diff)
		}
	}
}

func TestGroupRefused(t *testing.T) {
	r, image := groups(t)
	a := newAuthority(t)
	for name, spoil := range map[string]func(*runner.Group){
		"one member":    func(g *runner.Group) { g.Members = g.Members[:1] },
		"one name":      func(g *runner.Group) { g.Members[1].Name = g.Members[0].Name },
		"one task":      func(g *runner.Group) { g.Members[1].Task.ID = g.Members[0].Task.ID },
		"a bad name":    func(g *runner.Group) { g.Members[1].Name = "Node:1" },
		"a bad ID":      func(g *runner.Group) { g.ID = "../x" },
		"a missing dir": func(g *runner.Group) { g.Members[2].Task.InputDir += "/none" },
	} {
		g := trio(t, "refused", image, a)
		spoil(&g)
		if _, err := runner.RunGroup(t.Context(), r, g); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The last member cannot start: the others and the network are taken back.
	g := trio(t, "undone", image, a)
	g.Members[2].Task.Image = enclave.Digest{1}.String()
	if _, err := runner.RunGroup(t.Context(), r, g); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("an unknown image: %v", err)
	}
	if left, err := r.List(t.Context(), nil); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := r.Subnet(t.Context(), "undone"); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("its network is left: %v", err)
	}
}
