// Package aead gives the base package's wrappers under the wrapper module's name.
package aead

import base "github.com/openbao/go-kms-wrapping/v2/aead"

type (
	Wrapper       = base.Wrapper
	ShamirWrapper = base.ShamirWrapper
)

var (
	NewWrapper       = base.NewWrapper
	NewShamirWrapper = base.NewShamirWrapper
)
