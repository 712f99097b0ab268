// Package labv1 is the control plane's API, lab.v1, as generated from the .proto files beside it, and its OpenAPI
// description. It holds nothing written by hand but this comment and the description's bytes.
package labv1

import _ "embed" // for OpenAPI

// OpenAPI describes the JSON form of every call, for programs that are not written in Go.
//
//go:embed openapi.json
var OpenAPI []byte

//go:generate go run -C ../../../internal/protogen . -openapi sandbox/api/v1/openapi.json sandbox/api/v1
