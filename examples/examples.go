// Package examples carries the example tables and schemas, so that `lab demo` needs no file but the program itself.
package examples

import "embed"

// Files holds health/health.csv, health/schema.json and water/schema.json. The READMEs beside them give the sources.
//
//go:embed health/health.csv health/schema.json water/schema.json
var Files embed.FS
