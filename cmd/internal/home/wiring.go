package home

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// founders are the parties of a new lab. People are added with AddPerson.
var founders = []operators.Party{
	{Name: "wang.fang", Role: operators.RoleOfficial, Body: "区数据局", Title: "王芳 · 数据要素科"},
	{Name: "li.jun", Role: operators.RoleOfficial, Body: "区数据局", Title: "李军 · 安全管理科"},
	{Name: "zhao.min", Role: operators.RoleAuditor, Body: "区网信办", Title: "赵敏 · 审计"},
	{Name: "custodian-bureau", Role: operators.RoleCustodian, Body: "区数据局"},
	{Name: "custodian-cyber", Role: operators.RoleCustodian, Body: "区网信办"},
	{Name: "custodian-notary", Role: operators.RoleCustodian, Body: "区公证处"},
	{Name: "lab", Role: operators.RoleLab, Body: "区数据局"},
	{Name: "node", Role: operators.RoleNode, Body: "区大数据中心"},
}

// custodianLog shows the log to custodians.
type custodianLog struct{ *audit.Log }

func (l custodianLog) Checkpoint(ctx context.Context) (string, error) {
	text, _, err := l.Log.Checkpoint(ctx)
	return text, err
}

func (l custodianLog) Leaves(ctx context.Context, from, to int64) ([][]byte, error) {
	var out [][]byte
	for rec, err := range l.Log.Entries(ctx, from, to) {
		if err != nil {
			return nil, err
		}
		out = append(out, rec.Raw)
	}
	return out, nil
}

// gate lets the control plane ask the custodians.
type gate struct{ h *Home }

func (g gate) Release(ctx context.Context, b *enclave.Bundle, step func(string)) (*lab.Outcome, error) {
	_, roster, err := g.h.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	var leads []*release.Custodian
	var members []release.Member
	var missing []error
	for _, p := range roster.WithRole(operators.RoleCustodian) {
		i := slices.IndexFunc(g.h.Custodians, func(c *release.Custodian) bool { return c.Name() == p.Name })
		if i < 0 {
			members, missing = append(members, away{p.Name}), append(missing, away{p.Name}.gone())
			continue
		}
		leads, members = append(leads, g.h.Custodians[i]), append(members, g.h.Custodians[i])
	}
	if len(leads) == 0 {
		return nil, &release.QuorumError{Need: roster.Quorum, Causes: missing}
	}
	var lost error
	for _, lead := range leads { // any custodian may lead; one that cannot is passed over
		out, err := lead.Lead(ctx, b, members, step)
		if err == nil {
			return &lab.Outcome{Release: out.Release, Table: out.Sealed, Proof: out.Proof}, nil
		}
		if _, refused := g.Refused(err); refused || ctx.Err() != nil {
			return nil, err
		}
		lost = errors.Join(lost, err)
	}
	return nil, lost
}

// away is a custodian whose folder is not here: one that cannot be reached, not one that refuses.
type away struct{ name string }

func (a away) gone() error {
	return &refusal.UnavailableError{What: fmt.Sprintf("custodian %q", a.name)}
}

func (a away) Name() string { return a.name }

func (a away) Records(context.Context, map[string]int64) ([]canon.Signed, error) {
	return nil, a.gone()
}

func (a away) Seen(context.Context) (string, error) { return "", a.gone() }

func (a away) Commit(context.Context, *enclave.Bundle, []string) error { return a.gone() }

func (a away) Share(context.Context, *enclave.Bundle, int, []string, []canon.Signed) (canon.Signed, error) {
	return canon.Signed{}, a.gone()
}

func (a away) Endorse(context.Context, *enclave.Bundle, enclave.Release, enclave.LogProof, []string, []canon.Signed, []canon.Signed) (canon.Signature, error) {
	return canon.Signature{}, a.gone()
}

func (g gate) Refused(err error) (string, bool) {
	if refusal.Final(err) {
		return err.Error(), true
	}
	return "", false
}
