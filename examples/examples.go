// Package examples carries the example tables and schemas, so that `lab demo` needs no file but the program itself.
package examples

import "embed"

// Files holds health/health.csv, health/schema.json, water/schema.json and care/*.schema.json. The READMEs beside them give the sources.
//
//go:embed health/health.csv health/schema.json water/schema.json care/residents.schema.json care/health.schema.json care/welfare.schema.json
var Files embed.FS
