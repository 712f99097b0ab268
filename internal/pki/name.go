// Package pki gives every process and person of a lab a short-lived certificate for mutual TLS, and checks those of
// others. A certificate says who is at the other end of a connection and nothing more: what counts in the lab is signed
// by people's own keys, so whoever steals the authority's key can knock at every door and still approve or open nothing.
//
// A party is named by one URI (RFC 5280, section 4.2.1.6), lab:///LAB/ROLE/NAME, without a host, because names may be of
// any script and hosts may not. Host names are for browsers; peers are held to the URI, wherever they run. Certificates come from an Authority, the lab's own, or from any other that writes
// the same URI into them, Vault's pki with allowed_uri_sans for one. Programs read files and reload them on demand.
package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrName means that a certificate names no party, or not the one that was expected.
var ErrName = errors.New("certificate does not name the party")

const scheme = "lab"

// Name is a party of a lab as certificates write it.
type Name struct {
	Lab   string // the lab's name
	Role  string // as the roster has it, or "witness"
	Party string // name in the roster
}

// String is the URI that a certificate carries.
func (n Name) String() string { return n.uri().String() }

func (n Name) uri() *url.URL {
	return &url.URL{Scheme: scheme, Path: "/" + n.Lab + "/" + n.Role + "/" + n.Party,
		RawPath: "/" + url.PathEscape(n.Lab) + "/" + url.PathEscape(n.Role) + "/" + url.PathEscape(n.Party)}
}

// Check refuses a name with an empty part, or with one that another reader of the URI could take for two.
func (n Name) Check() error {
	for what, part := range map[string]string{"lab": n.Lab, "role": n.Role, "party": n.Party} {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00") {
			return fmt.Errorf("%w: %s is %q", ErrName, what, part)
		}
	}
	return nil
}

// ParseName reads what String writes and nothing else.
func ParseName(s string) (Name, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Name{}, fmt.Errorf("%w: %q is not a URI", ErrName, s)
	}
	n, err := parse(u)
	if err == nil && n.String() != s {
		err = fmt.Errorf("%w: %q is not written as %q", ErrName, s, n)
	}
	return n, err
}

func parse(u *url.URL) (Name, error) {
	parts := strings.Split(u.EscapedPath(), "/")
	if u.Scheme != scheme || u.Opaque != "" || u.Host != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || len(parts) != 4 || parts[0] != "" {
		return Name{}, fmt.Errorf("%w: %q is not like lab:///LAB/ROLE/NAME", ErrName, u)
	}
	var n Name
	for _, f := range []struct {
		to   *string
		from string
	}{{&n.Lab, parts[1]}, {&n.Role, parts[2]}, {&n.Party, parts[3]}} {
		part, err := url.PathUnescape(f.from)
		if err != nil {
			return Name{}, fmt.Errorf("%w: %q is not like lab:///LAB/ROLE/NAME", ErrName, u)
		}
		*f.to = part
	}
	return n, n.Check()
}

// FromCert reads the one name that a certificate carries. It does not verify the certificate.
func FromCert(cert *x509.Certificate) (Name, error) {
	if len(cert.URIs) != 1 {
		return Name{}, fmt.Errorf("%w: it carries %d URIs, want one", ErrName, len(cert.URIs))
	}
	n, err := parse(cert.URIs[0])
	if err == nil && n.String() != cert.URIs[0].String() {
		err = fmt.Errorf("%w: %q is not written as %q", ErrName, cert.URIs[0], n)
	}
	return n, err
}
