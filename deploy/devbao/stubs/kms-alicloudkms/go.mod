module github.com/openbao/go-kms-wrapping/wrappers/alicloudkms/v2

go 1.24
