// Package shares keeps a table at rest in the form that three nodes compute on. A column is split into three components
// (package mpc): the first two follow from keys, the third is a blob. Whoever has a component's key has that component of
// every column of the layout, and each of the three keys is encrypted to the two nodes that hold the component.
//
// An agency writes columns as it reads its table, in memory that does not grow with the rows; a node opens the columns
// that a program names, checks each against the commitments of the manifest, and gets no others.
package shares

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
)

// Key is a component key: what a node must hold to have one component of every column.
type Key [32]byte

func (Key) String() string   { return "[component key]" }
func (Key) GoString() string { return "[component key]" }

// derive gives the key's secrets for a column.
func (k Key) derive(what, column string) [32]byte {
	out, err := hkdf.Expand(sha256.New, k[:], "yingzhou share v1\x00"+what+"\x00"+column, 32)
	if err != nil {
		panic("shares: HKDF-SHA256 gives 32 bytes: " + err.Error())
	}
	return [32]byte(out)
}

// salt keeps the component's commitment from confirming a guess.
func (k Key) salt(column string) [32]byte { return k.derive("salt", column) }

// component is the column's component 0 or 1.
func (k Key) component(kind mpc.Kind, column string, rows int) mpc.Component {
	return mpc.Component{Kind: kind, Rows: rows, Salt: k.salt(column), Seed: k.derive("seed", column)}
}

// aead encrypts the column's component 2 at rest.
func (k Key) aead(column string) cipher.AEAD {
	key := k.derive("blob", column)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("shares: a derived key is an AES-256 key: " + err.Error())
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("shares: AES has blocks of 16 bytes: " + err.Error())
	}
	return gcm
}

// KindOf is how a shared column is split: the entity's pseudonym is a word, everything else a number.
func KindOf(column string) mpc.Kind {
	if column == enclave.EntityShare {
		return mpc.Word
	}
	return mpc.Number
}

// Holds lists the components that a node holds, its own number first, as mpc.Dealt has them.
func Holds(node int) [2]int { return [2]int{node % mpc.Nodes, (node + 1) % mpc.Nodes} }

// KeyAt is where the key of a component for one of its holders stands in a ShareSet.
func KeyAt(component, node int) (int, error) {
	for i, h := range mpc.Holders(component) {
		if h == node {
			return 2*component + i, nil
		}
	}
	return 0, fmt.Errorf("node %d does not hold component %d", node, component)
}
