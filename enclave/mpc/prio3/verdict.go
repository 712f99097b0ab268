package prio3

// verdict is what an aggregator says of one report. The worse of two verdicts counts, so both must find it good.
type verdict byte

const (
	good verdict = iota
	malformed
	foreign
	stranger
	forged
	replayed
	second
	sealedWrong
	invalid
	verdicts // how many there are
)

// Rule names a verdict in results; docs/FORMATS.md lists them.
func (v verdict) rule() string {
	return [verdicts]string{"good", "malformed", "of another collection", "from nobody enrolled", "signature does not verify", "seen before",
		"second of one reporter in a batch", "not decryptable", "proof does not verify"}[v]
}
