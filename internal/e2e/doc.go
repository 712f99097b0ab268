// Package e2e holds tests of the way from a source file to an answer, across packages that may not import one another:
// schema, sealing, planning, evaluation and opening against a plain SQL database. It has no code of its own.
package e2e
