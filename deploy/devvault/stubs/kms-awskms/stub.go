package awskms

import (
	"context"
	"errors"

	wrapping "github.com/hashicorp/go-kms-wrapping/v2"
)

var errStub = errors.New("awskms seal is not built into this server")

type Wrapper struct{}

var _ wrapping.Wrapper = (*Wrapper)(nil)

func NewWrapper() *Wrapper { return &Wrapper{} }

func (*Wrapper) Type(context.Context) (wrapping.WrapperType, error) { return "awskms", nil }
func (*Wrapper) KeyId(context.Context) (string, error)              { return "", errStub }
func (*Wrapper) SetConfig(context.Context, ...wrapping.Option) (*wrapping.WrapperConfig, error) {
	return nil, errStub
}
func (*Wrapper) Encrypt(context.Context, []byte, ...wrapping.Option) (*wrapping.BlobInfo, error) {
	return nil, errStub
}
func (*Wrapper) Decrypt(context.Context, *wrapping.BlobInfo, ...wrapping.Option) ([]byte, error) {
	return nil, errStub
}

// WithDisallowEnvVars and WithLogger are ignored, as an option of another wrapper is.
func WithDisallowEnvVars(bool) wrapping.Option { return func() interface{} { return nil } }
func WithLogger(interface{}) wrapping.Option   { return func() interface{} { return nil } }

const (
	EnvAwsKmsWrapperKeyId   = "AWSKMS_WRAPPER_KEY_ID"
	EnvVaultAwsKmsSealKeyId = "VAULT_AWSKMS_SEAL_KEY_ID"
)
