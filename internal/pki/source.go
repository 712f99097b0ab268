package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Files are where a program finds its certificate, its key and the authorities that it believes, all in PEM.
type Files struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
}

// FilesIn are the files that Authority.IssueTo writes to a folder.
func FilesIn(dir string) Files {
	return Files{Cert: filepath.Join(dir, CertFile), Key: filepath.Join(dir, KeyFile), CA: filepath.Join(dir, CAFile)}
}

// Source is a party's own certificate and the authorities that it believes, as they were last read. Connections keep
// what they began with; new ones see a Reload.
type Source struct {
	lab   string
	files Files
	clock func() time.Time
	now   atomic.Pointer[loaded]
}

type loaded struct {
	cert tls.Certificate
	cas  *x509.CertPool
	name Name
}

// Open reads a party's files. The certificate must be of this lab, verify under the files' own authorities and be in
// force. clock nil is time.Now.
func Open(lab string, f Files, clock func() time.Time) (*Source, error) {
	if clock == nil {
		clock = time.Now
	}
	s := &Source{lab: lab, files: f, clock: clock}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the files again. On an error the source keeps what it had.
func (s *Source) Reload() error {
	l, err := s.load()
	if err != nil {
		return fmt.Errorf("loading certificate %s: %w", s.files.Cert, err)
	}
	s.now.Store(l)
	return nil
}

func (s *Source) load() (*loaded, error) {
	cas, err := os.ReadFile(s.files.CA)
	if err != nil {
		return nil, err
	}
	l := &loaded{cas: x509.NewCertPool()}
	if !l.cas.AppendCertsFromPEM(cas) {
		return nil, fmt.Errorf("%s holds no certificate of an authority", s.files.CA)
	}
	if l.cert, err = tls.LoadX509KeyPair(s.files.Cert, s.files.Key); err != nil {
		return nil, err
	}
	// Both uses: programs here are servers and clients alike.
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if l.name, err = s.verify(l.cas, l.cert.Leaf, l.cert.Certificate[1:], use); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// verify checks a certificate's chain, validity, use and name, and returns the name.
func (s *Source) verify(cas *x509.CertPool, leaf *x509.Certificate, chain [][]byte, use x509.ExtKeyUsage) (Name, error) {
	middle := x509.NewCertPool()
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return Name{}, err
		}
		middle.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: cas, Intermediates: middle, CurrentTime: s.clock(), KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
		return Name{}, err
	}
	n, err := FromCert(leaf)
	if err == nil && n.Lab != s.lab {
		err = fmt.Errorf("%w: it is of lab %q, this is %q", ErrName, n.Lab, s.lab)
	}
	return n, err
}

// Name is the party that the own certificate names.
func (s *Source) Name() Name { return s.now.Load().name }

// Expires is when the own certificate ends.
func (s *Source) Expires() time.Time { return s.now.Load().cert.Leaf.NotAfter }

// Server demands a certificate of the lab from every client. Which parties may call what is for the caller to decide,
// by FromCert of the verified certificate.
func (s *Source) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			l := s.now.Load()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: l.cas, Time: s.clock,
				NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{l.cert},
				// A resumed session would outlive a reload that withdraws an authority.
				SessionTicketsDisabled: true,
				VerifyConnection: func(cs tls.ConnectionState) error {
					_, err := s.peer(l.cas, cs, x509.ExtKeyUsageClientAuth)
					return err
				},
			}, nil
		},
	}
}

// Client demands that the server is a party: of the role want.Role, and named want.Party unless that is empty.
func (s *Source) Client(want Name) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: true, // names are URIs, which crypto/tls does not check; VerifyConnection checks everything
		VerifyConnection: func(cs tls.ConnectionState) error {
			got, err := s.peer(s.now.Load().cas, cs, x509.ExtKeyUsageServerAuth)
			if err == nil && (got.Role != want.Role || want.Party != "" && got.Party != want.Party) {
				err = fmt.Errorf("%w: the server is %s, want %s", ErrName, got, Name{Lab: s.lab, Role: want.Role, Party: want.Party})
			}
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &s.now.Load().cert, nil },
	}
}

func (s *Source) peer(cas *x509.CertPool, cs tls.ConnectionState, use x509.ExtKeyUsage) (Name, error) {
	if len(cs.PeerCertificates) == 0 {
		return Name{}, errors.New("the peer shows no certificate")
	}
	var chain [][]byte
	for _, c := range cs.PeerCertificates[1:] {
		chain = append(chain, c.Raw)
	}
	return s.verify(cas, cs.PeerCertificates[0], chain, use)
}
