module github.com/openbao/go-kms-wrapping/wrappers/transit/v2

go 1.24
