package keys

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// SigningPEM is the identity's signing key alone, as PKCS #8 in PEM: for a daemon that signs and can open nothing. The
// caller erases it.
func (id *Identity) SigningPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(id.sign)
	if err != nil {
		return nil, fmt.Errorf("exporting the signing key of %q: %w", id.name, err)
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
