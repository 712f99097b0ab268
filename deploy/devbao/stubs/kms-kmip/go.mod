module github.com/openbao/go-kms-wrapping/wrappers/kmip/v2

go 1.24
