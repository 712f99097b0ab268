// Package planner is the planner as custodians and auditors run it: the control plane's own, handed to package release,
// which may not import it.
package planner

import (
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/sandbox/plan"
)

// Build is a release.BuildFunc.
func Build(q release.Question) (*enclave.Plan, error) {
	r := plan.Request{Query: q.Query, EpsilonMicro: q.EpsilonMicro, Grant: q.Grant, GrantDigest: q.GrantDigest,
		Keyset: q.Keyset, KeysetDigest: q.KeysetDigest, Manifest: q.Manifest, ManifestDigest: q.ManifestDigest}
	for _, o := range q.Others {
		r.Others = append(r.Others, plan.Source{Keyset: o.Keyset, KeysetDigest: o.KeysetDigest, Manifest: o.Manifest, ManifestDigest: o.ManifestDigest})
	}
	return plan.Build(r)
}
