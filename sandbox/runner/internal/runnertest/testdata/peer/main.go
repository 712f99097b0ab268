// Peer is a member of a group under test. It proves who it is to every other member by mutual TLS, has the same of them,
// and then tries to reach what it should not. It is given its name, the others' names, and addresses to try.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// answer is what a member prints.
type answer struct {
	Served  []string          `json:"served"`  // members that called, by their certificates
	Called  []string          `json:"called"`  // members that were called
	Own     string            `json:"own"`     // own address
	Reached map[string]string `json:"reached"` // address that was tried → what came of it; empty = it answered
	Routes  []string          `json:"routes"`  // destination and gateway, from /proc/net/route
}

const port = "4433"

func main() {
	if err := run(os.Args[1], strings.Split(os.Args[2], ","), os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(own string, others, forbidden []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pair, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		return err
	}
	authority, err := os.ReadFile("ca.pem")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	l, err := tls.Listen("tcp4", ":"+port, cfg)
	if err != nil {
		return err
	}
	a := answer{Reached: map[string]string{}}
	served := make(chan error, 1)
	go func() { served <- a.serve(l, len(others)) }()
	for _, name := range others {
		if err := a.call(ctx, cfg, name); err != nil {
			return fmt.Errorf("calling %q: %w", name, err)
		}
	}
	if err := <-served; err != nil {
		return err
	}
	slices.Sort(a.Served)
	fmt.Fprintln(os.Stderr, "met")
	for _, address := range forbidden {
		a.Reached[address] = reach(address)
	}
	if _, err := net.LookupHost("example.invalid"); err == nil {
		a.Reached["a resolver"] = ""
	}
	data, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n")[1:] {
		f := strings.Fields(line)
		a.Routes = append(a.Routes, f[1]+" "+f[2])
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}

func (a *answer) serve(l net.Listener, n int) error {
	for range n {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		t := c.(*tls.Conn)
		if err := t.Handshake(); err != nil {
			return err
		}
		a.Served = append(a.Served, t.ConnectionState().PeerCertificates[0].Subject.CommonName)
		_, err = io.WriteString(t, "welcome")
		if err = errors.Join(err, t.Close()); err != nil {
			return err
		}
	}
	return nil
}

// call waits until the other listens.
func (a *answer) call(ctx context.Context, cfg *tls.Config, name string) error {
	d := tls.Dialer{Config: cfg}
	for {
		c, err := d.DialContext(ctx, "tcp4", name+":"+port)
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		if err != nil {
			return err
		}
		a.Own = c.LocalAddr().(*net.TCPAddr).IP.String()
		text, err := io.ReadAll(c)
		if err = errors.Join(err, c.Close()); err != nil || string(text) != "welcome" {
			return fmt.Errorf("it said %q: %w", text, err)
		}
		a.Called = append(a.Called, name)
		return nil
	}
}

func reach(address string) string {
	c, err := net.DialTimeout("tcp4", address, time.Second)
	if err != nil {
		return err.Error()
	}
	c.Close()
	return ""
}
