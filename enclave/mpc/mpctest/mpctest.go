// Package mpctest connects three nodes on the loopback interface for tests, with keys that anyone can compute.
package mpctest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
)

// Certificate is node i's, from a key that is i repeated.
func Certificate(i int) (tls.Certificate, error) {
	seed := make([]byte, ed25519.SeedSize)
	for k := range seed {
		seed[k] = byte(i)
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(i) + 1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// Pins are those of the three certificates.
func Pins() (pins [mpc.Nodes]link.Pin, err error) {
	for i := range pins {
		c, err := Certificate(i)
		if err != nil {
			return pins, err
		}
		if pins[i], err = link.PinOf(c); err != nil {
			return pins, err
		}
	}
	return pins, nil
}

// Config is node i's, listening on listener and dialling the address of the node after it.
func Config(i int, listener net.Listener, next string) (link.Config, error) {
	cert, err := Certificate(i)
	if err != nil {
		return link.Config{}, err
	}
	pins, err := Pins()
	return link.Config{Party: i, Certificate: cert, Peers: pins, Job: mpc.Digest{1}, Listener: listener,
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", next)
		}}, err
}

// Configs are those of three nodes on the loopback interface.
func Configs(t testing.TB) [mpc.Nodes]link.Config {
	t.Helper()
	var out [mpc.Nodes]link.Config
	var listeners [mpc.Nodes]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
	}
	for i := range out {
		cfg, err := Config(i, listeners[i], listeners[(i+1)%mpc.Nodes].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		out[i] = cfg
	}
	return out
}

// Connect connects three nodes and closes them when the test ends.
func Connect(t testing.TB, cfgs [mpc.Nodes]link.Config) [mpc.Nodes]*link.Mesh {
	t.Helper()
	var out [mpc.Nodes]*link.Mesh
	var g errgroup.Group
	for i, cfg := range cfgs {
		g.Go(func() (err error) {
			out[i], err = link.Connect(t.Context(), cfg)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range out {
			m.Close()
		}
	})
	return out
}
