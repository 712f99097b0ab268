// Package enclavev1 is the API of custodians and of the log's witness, and what the control plane offers to custodians, as
// generated from the .proto files beside it. It holds nothing written by hand but this comment.
package enclavev1

//go:generate go run -C ../../../internal/protogen . enclave/api/v1
