module github.com/openbao/go-kms-wrapping/wrappers/static/v2

go 1.24
