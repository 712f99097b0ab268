package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"yingzhou.dev/lab/internal/durable"
)

// Names of the files that Authority.Save and Authority.IssueTo write.
const (
	CAFile    = "ca.crt"
	caKeyFile = "ca.key"
	CertFile  = "tls.crt"
	KeyFile   = "tls.key"
)

const (
	caValid = 10 * 365 * 24 * time.Hour
	// DefaultValid is how long a certificate lives if nobody says otherwise.
	DefaultValid = 24 * time.Hour
	// MaxValid bounds it: there are no revocation lists, a certificate that must go is not renewed.
	MaxValid = 90 * 24 * time.Hour
	// skew is how far a peer's clock may lag behind the authority's.
	skew = 5 * time.Minute
)

// Authority issues the certificates of one lab. Its key belongs on a machine that runs none of the lab's services.
type Authority struct {
	lab  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority draws an authority's key and signs its certificate, valid for ten years.
func NewAuthority(lab string, now time.Time) (*Authority, error) {
	if err := (Name{Lab: lab, Role: "-", Party: "-"}).Check(); err != nil {
		return nil, fmt.Errorf("making an authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an authority: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: subject(lab)}, NotBefore: now.Add(-skew), NotAfter: now.Add(caValid),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making an authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{lab: lab, cert: cert, key: key}, err
}

// subject is how an authority's certificate names its lab.
func subject(lab string) string { return "certificates of lab " + lab }

// serial is 127 random bits (RFC 5280 wants a positive number of at most 20 bytes).
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[0] = b[0]&0x7f | 1
	return new(big.Int).SetBytes(b[:])
}

// Save writes ca.crt and ca.key to a folder that has neither.
func (a *Authority) Save(dir string) error {
	key, err := encodeKey(a.key)
	if err != nil {
		return fmt.Errorf("saving the authority: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, caKeyFile)); err == nil {
		return fmt.Errorf("saving the authority: %s is there already", filepath.Join(dir, caKeyFile))
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("saving the authority: %w", err)
	}
	// The certificate comes last: an authority with it is whole.
	if err := durable.WriteFile(filepath.Join(dir, caKeyFile), key, 0o600); err != nil {
		return fmt.Errorf("saving the authority: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, CAFile), a.PEM(), 0o644)
}

// PEM is the authority's certificate: what everybody else pins.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// LoadAuthority reads what Save wrote.
func LoadAuthority(lab, dir string) (*Authority, error) {
	cert, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("loading the authority: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, fmt.Errorf("loading the authority: %w", err)
	}
	a := &Authority{lab: lab}
	if a.cert, err = decodeCert(cert); err != nil {
		return nil, fmt.Errorf("loading the authority: %s: %w", CAFile, err)
	}
	if got := a.cert.Subject.CommonName; got != subject(lab) {
		return nil, fmt.Errorf("loading the authority: %w: %s is for %q, not for lab %q", ErrName, CAFile, got, lab)
	}
	block, rest := pem.Decode(key)
	if block == nil || len(rest) > 0 {
		return nil, fmt.Errorf("loading the authority: %s is not one PEM block", caKeyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	own, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || !own.PublicKey.Equal(a.cert.PublicKey) {
		return nil, fmt.Errorf("loading the authority: %s is not the key of %s", caKeyFile, CAFile)
	}
	a.key = own
	return a, nil
}

// IssueOptions adjust a certificate. Now is required.
type IssueOptions struct {
	Now   time.Time
	Valid time.Duration // 0 = DefaultValid, at most MaxValid
	Hosts []string      // DNS names and addresses, for clients that check those: browsers, curl
}

// Issue signs a certificate for a fresh key. It serves both ends of a connection.
func (a *Authority) Issue(n Name, o IssueOptions) (certPEM, keyPEM []byte, err error) {
	if err := n.Check(); err != nil {
		return nil, nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	if n.Lab != a.lab {
		return nil, nil, fmt.Errorf("issuing a certificate: %w: this is the authority of lab %q, not of %q", ErrName, a.lab, n.Lab)
	}
	if o.Valid == 0 {
		o.Valid = DefaultValid
	}
	if o.Now.IsZero() || o.Valid < 0 || o.Valid > MaxValid {
		return nil, nil, fmt.Errorf("issuing a certificate for %s: valid for %v from %v: want at most %v from a known time", n, o.Valid, o.Now, MaxValid)
	}
	return a.issue(n.uri(), n.Party, o)
}

func (a *Authority) issue(uri *url.URL, common string, o IssueOptions) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("issuing a certificate for %s: %w", uri, err)
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: common}, URIs: []*url.URL{uri}, NotBefore: o.Now.Add(-skew), NotAfter: o.Now.Add(o.Valid),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range o.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issuing a certificate for %s: %w", uri, err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, fmt.Errorf("issuing a certificate for %s: %w", uri, err)
	}
	return encode("CERTIFICATE", der), keyPEM, nil
}

// IssueTo writes ca.crt, tls.key and tls.crt to a folder, and renews them when called again. A program that reloads
// between two of the writes finds a key that does not fit and keeps what it has.
func (a *Authority) IssueTo(dir string, n Name, o IssueOptions) error {
	cert, key, err := a.Issue(n, o)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("issuing a certificate for %s: %w", n, err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{{CAFile, a.PEM(), 0o644}, {KeyFile, key, 0o600}, {CertFile, cert, 0o644}} {
		if err := durable.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("issuing a certificate for %s: %w", n, err)
		}
	}
	return nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return encode("PRIVATE KEY", der), err
}

func decodeCert(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return nil, errors.New("want one certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
