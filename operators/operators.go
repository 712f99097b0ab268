// Package operators holds who may ask for what: the roster of people and machines, licences, scenario applications,
// consents, decisions, and the Grant that follows from them. The rules are pure: Authorize reads statements and a time,
// touches nothing else, and gives every custodian the same answer. It follows the district's regulation, cited as
// "art. N".
//
// It holds no data, no keys and no state; operators/registry records the statements. It refuses whatever it cannot
// verify: a statement that is not canonical, not signed by the one person it names, signed in the wrong role or dated in
// the future counts for nothing, and a denial lists every reason at once.
package operators

import (
	"crypto/ed25519"

	"yingzhou.dev/lab/internal/canon"
)

// Kinds of statement. A signature under one kind never verifies under another.
const (
	KindRoster   = "yingzhou.roster.v1"
	KindLicense  = "yingzhou.license.v1"
	KindScenario = "yingzhou.scenario.v1"
	KindConsent  = "yingzhou.consent.v1"
	KindDecision = "yingzhou.decision.v1"
	KindGrant    = "yingzhou.grant.v1"
)

type (
	// Digest names a statement by the SHA-256 of its canonical bytes.
	Digest = canon.Digest
	// Time is an instant in whole seconds, UTC.
	Time = canon.Time
	// Signed is a statement's bytes with the signatures over them.
	Signed = canon.Signed
)

// Role is what a party of the roster may sign.
type Role string

const (
	RoleSteward   Role = "steward"   // data steward of an agency: manifests, keysets, consents
	RoleAnalyst   Role = "analyst"   // at a licensed operator: scenario applications, jobs
	RoleOfficial  Role = "official"  // at the bureau: licences and decisions
	RoleAuditor   Role = "auditor"   // reads and verifies; signs nothing that has effect
	RoleCustodian Role = "custodian" // holds pieces of keys; signs releases
	RoleNode      Role = "node"      // runs workers; signs receipts
	RoleLab       Role = "lab"       // control plane; signs plans
)

// Party is a person or machine with its keys.
type Party struct {
	Name   string `json:"name"` // unique in the roster
	Role   Role   `json:"role"`
	Body   string `json:"body"`             // organisation it acts for: agency, operator, bureau
	Verify []byte `json:"verify"`           // Ed25519 public key, 32 bytes
	HPKE   []byte `json:"hpke,omitempty"`   // HPKE public key (ML-KEM-768 + X25519) for those who receive secrets
	Title  string `json:"title,omitempty"`  // shown to people, any language
	Absent bool   `json:"absent,omitempty"` // has left: what it permitted no longer counts, what it forbade still does
}

// Key is the party's verification key.
func (p Party) Key() ed25519.PublicKey { return ed25519.PublicKey(p.Verify) }

// Roster lists every party of a lab. It is signed by the lab's root key, which all parties pin when they join; nobody
// trusts a key that is not in it. A later roster has a higher Serial. A party is never taken out, only marked absent:
// else the refusals it signed would lose their force.
type Roster struct {
	Lab     string  `json:"lab"` // lab's name, also the log's origin
	Serial  int64   `json:"serial"`
	Quorum  int     `json:"quorum"`  // custodians needed to open, q with 2q > n
	Log     string  `json:"log"`     // log's note verifier key
	Witness string  `json:"witness"` // witness's note verifier key
	Parties []Party `json:"parties"`
	Made    Time    `json:"made"`
}

// Find looks a party up by name.
func (r *Roster) Find(name string) (Party, bool) {
	for _, p := range r.Parties {
		if p.Name == name {
			return p, true
		}
	}
	return Party{}, false
}

// WithRole lists the active parties of a role in roster order.
func (r *Roster) WithRole(role Role) []Party {
	var out []Party
	for _, p := range r.Parties {
		if p.Role == role && !p.Absent {
			out = append(out, p)
		}
	}
	return out
}

// License lets an operator work in the lab (授权运营). Validity is at most five years; the security review and the
// confidentiality agreement must be on file (art. 31).
type License struct {
	Operator       string `json:"operator"` // the operator's body
	Title          string `json:"title,omitempty"`
	NotBefore      Time   `json:"not_before"`
	NotAfter       Time   `json:"not_after"`
	SecurityReview string `json:"security_review"` // file reference of the review
	Agreement      string `json:"agreement"`       // file reference of the confidentiality agreement
	By             string `json:"by"`              // official
	Made           Time   `json:"made"`
}

// Use is what may be done with one column.
type Use string

const (
	UseGroup     Use = "group"     // may stand in GROUP BY
	UseFilter    Use = "filter"    // may stand in WHERE
	UseAggregate Use = "aggregate" // may be summed, averaged, correlated, ranked
	UseJoin      Use = "join"      // of the entity key alone: rows may be matched, under secret sharing, with other agencies' rows of the same person
)

// ColumnUse asks for, or grants, uses of one column.
type ColumnUse struct {
	Column string `json:"column"`
	Uses   []Use  `json:"uses"` // sorted, no duplicates
}

// DatasetUse asks for, or grants, columns of one dataset.
type DatasetUse struct {
	Dataset string      `json:"dataset"`
	Columns []ColumnUse `json:"columns"` // sorted by column
}

// May reports whether the dataset's column may be used this way.
func (d DatasetUse) May(column string, use Use) bool {
	for _, c := range d.Columns {
		if c.Column == column {
			for _, u := range c.Uses {
				if u == use {
					return true
				}
			}
		}
	}
	return false
}

// Scenario is an operator's application to use data for one purpose. Any change makes new bytes, thus a new digest,
// thus a chain of consents and approvals that starts again: a material change cannot ride on an old approval.
type Scenario struct {
	Name            string       `json:"name"`
	Operator        string       `json:"operator"` // body
	Purpose         string       `json:"purpose"`
	Datasets        []DatasetUse `json:"datasets"`          // sorted by dataset
	EpsilonMicro    int64        `json:"epsilon_micro"`     // whole budget in 1e-6
	JobEpsilonMicro int64        `json:"job_epsilon_micro"` // most that one job may spend, and its default
	MinCohort       int64        `json:"min_cohort"`        // people per released cell, at least 10
	MarginMilli     int64        `json:"margin_milli"`      // z of the suppression margin in 1e-3
	Workers         []Digest     `json:"workers"`           // approved worker programs (binary or image config digests), sorted
	NotAfter        Time         `json:"not_after"`
	By              string       `json:"by"` // analyst who applies
	Made            Time         `json:"made"`
}

// Consent is a data steward's word that a scenario may use columns of the agency's dataset.
type Consent struct {
	Scenario     Digest     `json:"scenario"`
	Use          DatasetUse `json:"use"`           // no wider than what was asked
	EpsilonMicro int64      `json:"epsilon_micro"` // most that this scenario may spend on this dataset
	By           string     `json:"by"`
	Made         Time       `json:"made"`
}

// Verdict is what a Decision does to its subject.
type Verdict string

const (
	Approve Verdict = "approve" // a scenario; two different officials are needed
	Refuse  Verdict = "refuse"  // a scenario, for good
	Suspend Verdict = "suspend" // a licence or scenario, until resumed
	Resume  Verdict = "resume"
	Revoke  Verdict = "revoke" // a licence, scenario or consent, for good
)

// Decision is an official's word on a licence, scenario or consent; a steward may revoke the agency's own consent.
type Decision struct {
	Subject Digest  `json:"subject"`
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	By      string  `json:"by"`
	Made    Time    `json:"made"`
}

// Grant is what Authorize concludes: who may do what until when, and the statements it rests on.
type Grant struct {
	Operator        string       `json:"operator"`
	Scenario        Digest       `json:"scenario"`
	License         Digest       `json:"license"`
	Consents        []Digest     `json:"consents"`  // sorted
	Approvals       []Digest     `json:"approvals"` // sorted, two officials'
	Datasets        []DatasetUse `json:"datasets"`  // asked and consented
	Limits          []Limit      `json:"limits"`    // per dataset, in the same order
	EpsilonMicro    int64        `json:"epsilon_micro"`
	JobEpsilonMicro int64        `json:"job_epsilon_micro"`
	MinCohort       int64        `json:"min_cohort"`
	MarginMilli     int64        `json:"margin_milli"`
	Workers         []Digest     `json:"workers"`
	NotAfter        Time         `json:"not_after"` // earliest end of licence and scenario
}

// Limit is a dataset's share of a scenario's budget.
type Limit struct {
	Dataset      string `json:"dataset"`
	EpsilonMicro int64  `json:"epsilon_micro"`
}

// Dataset finds the granted uses of a dataset and its limit.
func (g *Grant) Dataset(name string) (DatasetUse, Limit, bool) {
	for i, d := range g.Datasets {
		if d.Dataset == name {
			return d, g.Limits[i], true
		}
	}
	return DatasetUse{}, Limit{}, false
}
