package plan

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

func why(p *enclave.Plan, l *enclave.Layout) Bilingual {
	switch {
	case l.Kind == enclave.Cube:
		return Bilingual{"the smallest sealed cube that has every column and total asked for: additions only, whatever the number of rows",
			"所需列与汇总量齐全的最小密态数据立方体：仅做加法，开销与行数无关"}
	case p.Also != nil:
		return Bilingual{"no cube has all columns; counts under two conditions are one product of sealed indicators",
			"没有数据立方体包含全部所需列；两组条件下的计数用一次密文指示向量乘法完成"}
	}
	return Bilingual{"no cube has all columns and totals; each total is at most one product of a sealed indicator and a sealed value over all rows",
		"没有数据立方体包含全部所需列与汇总量；每个汇总量至多是密文指示向量与密文数值的一次逐行乘法"}
}

// sights says who sees what of a job. It is a promise of the design, the same for every plan but for names.
func sights(p *enclave.Plan, m *enclave.Manifest) []Sight {
	return []Sight{
		{"operator", Bilingual{
			fmt.Sprintf("%s: the released table with noise, standard errors, and which cells were suppressed by which rule; no row", p.Operator),
			fmt.Sprintf("%s：加噪后的结果表、标准误差、被抑制的单元格及所依据的规则；看不到任何一行数据", p.Operator)}},
		{"owner", Bilingual{
			fmt.Sprintf("%s: this query, who asked and what it cost the dataset's budget; the result only if the operator shares it", m.Owner),
			fmt.Sprintf("%s：本查询、申请方及其消耗的数据集预算；除非运营机构提供，看不到结果", m.Owner)}},
		{"lab", Bilingual{
			"control plane and worker: query, plan and ciphertexts; no key, no row, no figure",
			"控制平面与计算容器：查询、计划和密文；没有密钥，看不到数据行和任何数值"}},
		{"custodian", Bilingual{
			"each custodian: query, plan and ciphertexts; those that combine a release also see the noised count of every cell, suppressed ones too",
			"各密钥保管方：查询、计划和密文；负责合并发布的保管方还会看到每个单元格（含被抑制者）的加噪计数"}},
		{"auditor", Bilingual{
			"auditors and the log: digests, parties, ε, numbers of cells and of suppressed cells; no figure",
			"审计人员与日志：摘要、参与方、ε、单元格数与抑制数；没有任何结果数值"}},
	}
}

// notes tells where the query's meaning may surprise.
func notes(p *enclave.Plan, m *enclave.Manifest) []Bilingual {
	var out []Bilingual
	b := &builder{Request: Request{Query: p.Query}}
	if src := b.lex(); src != nil && slices.ContainsFunc(src.tokens, func(t token) bool { return t.is("BETWEEN") }) {
		out = append(out, Bilingual{"BETWEEN a AND b is a ≤ x < b; b itself is included only where it is the last bin edge",
			"BETWEEN a AND b 表示 a ≤ x < b；仅当 b 为最后一个分箱边界时才包含 b"})
	}
	for _, name := range p.Groups {
		c, _ := m.Column(name)
		if c.Nullable {
			out = append(out, Bilingual{fmt.Sprintf("missing values of %s are a group of their own, with an empty label", name),
				fmt.Sprintf("%s 的缺失值单独成组，标签为空", name)})
		}
		shown := func(o enclave.Output) bool { return o.Func == groupFunc && o.Args[0] == name }
		if !slices.ContainsFunc(p.Outputs, shown) {
			out = append(out, Bilingual{fmt.Sprintf("rows are grouped by %s, which is not selected: the result will not say which is which", name),
				fmt.Sprintf("按 %s 分组但未选出该列：结果中无法区分各组", name)})
		}
	}
	if p.Limit > 0 && len(p.OrderBy) == 0 {
		out = append(out, Bilingual{"LIMIT without ORDER BY keeps the first cells in declared order", "LIMIT 未配 ORDER BY：按声明顺序保留前若干单元格"})
	}
	return out
}

// renderer writes lines in one language.
type renderer struct {
	zh  bool
	out strings.Builder
}

// line writes a format with the same arguments in the same order in both languages.
func (r *renderer) line(en, zh string, args ...any) {
	if r.zh {
		en = zh
	}
	fmt.Fprintf(&r.out, en+"\n", args...)
}

func (r *renderer) pick(b Bilingual) string {
	if r.zh {
		return b.Zh
	}
	return b.En
}

func (r *renderer) join(items []string) string {
	if r.zh {
		return strings.Join(items, "、")
	}
	return strings.Join(items, ", ")
}

var useNames = map[operators.Use]Bilingual{
	operators.UseGroup: {"grouped by", "分组"}, operators.UseJoin: {"matched by entity", "按主体匹配"}, operators.UseFilter: {"filtered by", "筛选"}, operators.UseAggregate: {"aggregated", "汇总"},
}

// Text renders the explanation in English, or in simplified Chinese where lang begins with "zh".
func (e *Explanation) Text(lang string) string {
	r := &renderer{zh: strings.HasPrefix(strings.ToLower(lang), "zh")}
	r.line("Query on %s (%s) by %s", "对 %s（%s）的查询，申请方 %s", e.Dataset, e.Title, e.Operator)
	for _, l := range strings.Split(strings.TrimSpace(e.Query), "\n") {
		r.line("    %s", "    %s", l)
	}
	e.textData(r)
	e.textPrivacy(r)
	e.textCost(r)
	r.line("Who sees what:", "各方可见内容：")
	for _, s := range e.Sees {
		r.line("  - %s", "  - %s", r.pick(s.What))
	}
	if len(e.Notes) > 0 {
		r.line("Please note:", "请注意：")
		for _, n := range e.Notes {
			r.line("  - %s", "  - %s", r.pick(n))
		}
	}
	return r.out.String()
}

func (e *Explanation) textData(r *renderer) {
	r.line("Columns used:", "使用的列：")
	if len(e.Columns) == 0 {
		r.line("  none: rows are counted", "  无：仅统计行数")
	}
	for _, c := range e.Columns {
		name, uses := c.Column, make([]string, len(c.Uses))
		if c.Title != "" {
			name += " (" + c.Title + ")"
		}
		for i, u := range c.Uses {
			uses[i] = r.pick(useNames[u])
		}
		r.line("  - %s: %s", "  - %s：%s", name, r.join(uses))
	}
	if len(e.Filter) > 0 {
		r.line("Rows taken in, where:", "纳入的行满足：")
		for _, f := range e.Filter {
			r.line("  - %s is one of %s (%d of %d values)", "  - %s 取值为 %s（%d/%d 个取值）", f.Column, r.join(few(f.Labels)), len(f.Labels), f.Of)
		}
		if !e.FilterExact {
			r.line("  and only %d of %d combinations of these columns", "  且仅限这些列 %d/%d 种取值组合", e.FilterPasses, e.FilterOf)
		}
	}
	if e.Joint != nil {
		e.textJoint(r)
		return
	}
	engine := e.Engine
	if r.zh {
		engine = strings.NewReplacer("homomorphic, ", "同态加密，", enclave.Cube, "立方体", enclave.Rows, "逐行").Replace(engine)
	}
	r.line("Engine: %s, layout %q: %s", "引擎：%s，布局 %q：%s", engine, e.Layout, r.pick(e.Why))
	r.line("Cells: at most %d result rows, from %d of %d sealed cells", "单元格：结果至多 %d 行，取自 %d/%d 个密态单元格", e.Cells, e.KeptCells, e.AxisCells)
}

// few quotes the first of many labels.
func few(labels []string) []string {
	const most = 12
	var out []string
	for _, l := range labels[:min(len(labels), most)] {
		out = append(out, strconv.Quote(l))
	}
	if len(labels) > most {
		out = append(out, "…")
	}
	return out
}

func (e *Explanation) textPrivacy(r *renderer) {
	r.line("Opened in every cell:", "每个单元格解密的量：")
	for _, m := range e.Measures {
		name := string(m.Moment)
		if m.By != "" {
			name += " / " + m.By
		}
		r.line("  - %s: one entity moves it by at most %s; noise of standard deviation %s; ε %s; stage %d, %d openings",
			"  - %s：单个主体至多影响 %s；噪声标准差 %s；ε %s；第 %d 阶段，解密 %d 次",
			name, figure(m.Sensitivity), figure(m.StdDev), figure(m.Epsilon), m.Stage, m.Openings)
	}
	r.line("Privacy: charges ε %s (the scenario has %s in all, %s of it on this dataset). It protects all of an entity's up to %d row(s) at once.",
		"隐私：计费 ε %s（场景总预算 %s，其中本数据集 %s）。对单个主体的全部至多 %d 行数据整体保护。",
		figure(e.Epsilon), figure(e.ScenarioEpsilon), figure(e.DatasetEpsilon), e.EntityRows)
	r.line("  - against the operator: pure ε %s; also (ε %s, δ %s)", "  - 对运营机构：纯 ε %s；亦满足 (ε %s, δ %s)",
		figure(e.Epsilon), figure(e.OperatorEpsilon), figure(e.Delta))
	if e.Joint != nil {
		r.line("  - against one corrupt node together with the operator: ε %s", "  - 对一个失信节点与运营机构合谋：ε %s", figure(e.CustodianEpsilon))
	} else {
		r.line("  - against one corrupt custodian together with the operator: ε %s", "  - 对一个失信保管方与运营机构合谋：ε %s", figure(e.CustodianEpsilon))
	}
	r.line("Small cells: a cell is shown only if its noised count reaches %d rows (surely %d people) + margin %s; one with a person too few is shown with probability %s at most.",
		"小单元格：加噪计数达到 %d 行（必属于至少 %d 人）+ 余量 %s 才会显示；少一人的单元格仍被显示的概率至多 %s。",
		e.CohortRows, e.MinCohort, e.Margin, figure(e.MissProbability))
	r.line("  - worst case: everybody in the cell has %d row(s), so no cell of fewer than %d people is meant to be shown; the totals behind suppressed cells are never opened",
		"  - 最坏情形：单元格内每人都有 %d 行；少于 %d 人的单元格不应显示；被抑制单元格的其余汇总量不会被解密", e.EntityRows, e.MinCohort)
}

func (e *Explanation) textCost(r *renderer) {
	if e.Joint != nil {
		e.textJointCost(r)
		return
	}
	r.line("Openings: at most %d of the %d that the keyset may ever make.", "解密次数：至多 %d 次；该密钥集终身上限 %d 次。", e.Openings, e.OpeningCap)
	r.line("Cost: %d ciphertext products, %s MB read, in the order of %s s on one core.", "开销：密文乘法 %d 次，读取 %s MB，单核约 %s 秒。",
		e.Products, figure(float64(e.Bytes)/1e6), figure(e.Seconds))
}

// figure writes three significant digits, in full where that is readable.
func figure(v float64) string {
	short := strconv.FormatFloat(v, 'g', 3, 64)
	if a := math.Abs(v); a < 1e-3 || a >= 1e9 {
		return short
	}
	rounded, _ := strconv.ParseFloat(short, 64) // written just above
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}
