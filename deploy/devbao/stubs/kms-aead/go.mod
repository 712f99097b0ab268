module github.com/openbao/go-kms-wrapping/wrappers/aead/v2

go 1.24
