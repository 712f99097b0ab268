package canon

import (
	"crypto/ed25519"
	"crypto/sha256"
	"io"
	"sync"
)

// remembered is how many valid signatures a generation holds. Two of them are about 2 MB, more than a lab has statements.
const remembered = 1 << 14

// verified holds the signatures that this process has found valid. Every call to a custodian brings the whole dossier, and
// all but a few of its signatures were in the one before. Whether a signature is valid depends on nothing but key, message
// and signature, so what was true stays true; what was false is not kept, so that nobody can crowd out what is.
var verified = signatures{most: remembered}

// signatures is a set that forgets: when the young generation is full it becomes the old one, and the old one goes.
type signatures struct {
	most       int // in a generation
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]struct{}
}

// verify is ed25519.Verify of Message(kind, body).
func (v *signatures) verify(pub ed25519.PublicKey, kind string, body, sig []byte) bool {
	if len(sig) != ed25519.SignatureSize {
		return false
	}
	key := signatureKey(pub, kind, body, sig)
	if v.has(key) {
		return true
	}
	if !ed25519.Verify(pub, Message(kind, body), sig) {
		return false
	}
	v.add(key)
	return true
}

// signatureKey hashes two parts whose lengths are fixed, and the message.
func signatureKey(pub ed25519.PublicKey, kind string, body, sig []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(pub)
	h.Write(sig)
	io.WriteString(h, messagePrefix(kind))
	h.Write(body)
	return [sha256.Size]byte(h.Sum(nil))
}

func (v *signatures) has(key [sha256.Size]byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.young[key]; ok {
		return true
	}
	_, ok := v.old[key]
	if ok {
		v.put(key) // in use: it outlives its generation
	}
	return ok
}

func (v *signatures) add(key [sha256.Size]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.put(key)
}

// put is called under mu.
func (v *signatures) put(key [sha256.Size]byte) {
	if v.young == nil || len(v.young) >= v.most {
		v.old, v.young = v.young, map[[sha256.Size]byte]struct{}{}
	}
	v.young[key] = struct{}{}
}
