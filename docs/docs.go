// Package docs carries the description of the HTTP API into the programs that serve it.
package docs

import _ "embed"

// OpenAPI is the HTTP API as an OpenAPI 3.1 document. ci/generate makes it.
//
//go:embed openapi.json
var OpenAPI []byte
