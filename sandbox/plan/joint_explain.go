package plan

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"strings"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/operators"
)

// JointNote is what an explanation says more of a plan for the secret-shared engine.
type JointNote struct {
	Sources []SourceNote `json:"sources"`
	Base    string       `json:"base"` // dataset whose rows are counted

	Rounds  int64   `json:"rounds"`  // messages that wait for one another, about
	Bytes   int64   `json:"bytes"`   // sent by each node, about
	Seconds float64 `json:"seconds"` // order of magnitude, three nodes in one machine room

	Quantiles []QuantileNote `json:"quantiles,omitempty"`
}

// SourceNote is one dataset of a join.
type SourceNote struct {
	Dataset string   `json:"dataset"`
	Owner   string   `json:"owner"`
	Rows    int64    `json:"rows"`    // touched, all of them; public
	Columns []string `json:"columns"` // shared columns read
}

// QuantileNote says how well a quantile can come out.
type QuantileNote struct {
	Column   string  `json:"column"`
	Fraction float64 `json:"fraction"`
	Within   string  `json:"within"`   // values are told apart to this, in the column's unit
	Steps    int64   `json:"steps"`    // noised counts it takes in every cell
	RankDev  float64 `json:"rank_dev"` // standard deviation of each, in rows
	// RankWithin is how many rows the rank may be off, with 95 % confidence (see rankWithin).
	RankWithin int64 `json:"rank_within"`
	NearEnds   bool  `json:"near_ends"` // stands for MIN or MAX
}

// ExplainJoint describes a joint plan. Manifests and keysets are those of its sources, in order.
func ExplainJoint(p *enclave.Plan, manifests []*enclave.Manifest, keysets []*enclave.Keyset, g *operators.Grant) (*Explanation, error) {
	if p == nil || g == nil || p.Joint == nil || len(manifests) != len(p.Joint.Sources) || len(keysets) != len(manifests) || len(manifests) == 0 {
		return nil, errors.New("explaining plan: a joint plan with every manifest and keyset of its sources is required")
	}
	prog, err := Program(p)
	if err != nil {
		return nil, fmt.Errorf("explaining plan: %w", err)
	}
	view := enclave.View(manifests)
	cells, _, err := p.Expand(view)
	if err != nil {
		return nil, fmt.Errorf("explaining plan: %w", err)
	}
	if len(prog.Releases) != 1 {
		return nil, errors.New("explaining plan: a plan has one release")
	}
	var titles, owners []string
	note := &JointNote{Base: manifests[p.Joint.Base].Dataset}
	for i, m := range manifests {
		s := SourceNote{Dataset: m.Dataset, Owner: m.Owner, Rows: prog.Tables[i].Rows}
		for _, c := range prog.Tables[i].Columns {
			s.Columns = append(s.Columns, c.Name)
		}
		note.Sources = append(note.Sources, s)
		titles, owners = append(titles, m.Catalog.Title), append(owners, m.Owner)
	}
	e := &Explanation{Query: p.Query, Operator: p.Operator, Dataset: strings.Join(datasets(p), " ⋈ "), Title: strings.Join(titles, " ⋈ "), Owner: strings.Join(owners, "、"),
		Engine: "secret-shared, three nodes", Why: whyJoint(p), AxisCells: int64(len(cells)), KeptCells: int64(len(cells)), Cells: int64(len(cells)),
		ScenarioEpsilon: natural(g.EpsilonMicro, 6), EntityRows: p.EntityRows, Openings: int64(len(cells) * len(p.Measures)), FilterExact: true, Joint: note}
	for _, s := range p.Joint.Sources {
		_, limit, ok := g.Dataset(s.Dataset)
		if !ok {
			return nil, fmt.Errorf("explaining plan: grant does not cover dataset %q", s.Dataset)
		}
		if d := natural(limit.EpsilonMicro, 6); e.DatasetEpsilon == 0 || d < e.DatasetEpsilon {
			e.DatasetEpsilon = d
		}
	}
	e.jointUsage(p, view, prog)
	e.jointPrivacy(p, view, prog)
	cost, err := prog.Cost()
	if err != nil {
		return nil, fmt.Errorf("explaining plan: %w", err)
	}
	note.Rounds, note.Bytes, note.Seconds = cost.Rounds, cost.Bytes(), cost.Time(roundTime).Seconds()
	e.Sees = jointSights(p, owners)
	e.Notes = append(notes(p, view), jointNotes(p, note)...)
	return e, nil
}

func datasets(p *enclave.Plan) (out []string) {
	for _, s := range p.Joint.Sources {
		out = append(out, s.Dataset)
	}
	return out
}

func whyJoint(p *enclave.Plan) Bilingual {
	if len(p.Joint.Sources) > 1 {
		return Bilingual{"the query matches rows of several agencies, and nothing multiplies ciphertexts of two owners: three nodes compute on shares instead",
			"查询需匹配多个机构的数据行；不同所有者的密文不能相乘，因此由三个节点在秘密分享上计算"}
	}
	return Bilingual{"no sealed ciphertexts serve the query: it compares numbers, ranks them or counts different values, which three nodes do on shares",
		"没有密文布局可支持该查询：需要比较数值、排序或去重计数，由三个节点在秘密分享上完成"}
}

func (e *Explanation) jointUsage(p *enclave.Plan, view *enclave.Manifest, prog *mpc.Program) {
	aggregated := map[string]bool{}
	for _, o := range p.Outputs {
		if o.Func != groupFunc {
			for _, a := range o.Args {
				aggregated[a] = true
			}
		}
	}
	filtered := map[string]bool{}
	b := &builder{Request: Request{Query: p.Query}}
	if src := b.lex(); src != nil {
		on := false
		for i, t := range src.tokens {
			on = on && !t.is("GROUP") && !t.is("ORDER") && !t.is("HAVING") && !t.is("LIMIT") || t.is("WHERE")
			name := strings.Trim(t.text, `"`)
			if i >= 2 && src.tokens[i-1].text == "." {
				name = strings.Trim(src.tokens[i-2].text, `"`) + "." + name
			}
			if on && (t.kind == word || t.kind == quotedIdent) {
				filtered[name] = true
				if _, plain, ok := strings.Cut(name, "."); ok {
					if _, known := view.Column(name); !known {
						filtered[plain] = true
					}
				}
			}
		}
	}
	for _, c := range view.Columns {
		var uses []operators.Use
		for _, u := range []struct {
			on  bool
			use operators.Use
		}{{aggregated[c.Name], operators.UseAggregate}, {filtered[c.Name], operators.UseFilter}, {slices.Contains(p.Groups, c.Name), operators.UseGroup},
			{c.Type == enclave.TypeKey && len(p.Joint.Sources) > 1, operators.UseJoin}} {
			if u.on {
				uses = append(uses, u.use)
			}
		}
		if uses != nil {
			e.Columns = append(e.Columns, ColumnNote{Column: c.Name, Title: c.Title, Uses: uses})
		}
	}
}

func (e *Explanation) jointPrivacy(p *enclave.Plan, view *enclave.Manifest, prog *mpc.Program) {
	quantile := 0
	for _, me := range p.Measures {
		part := dp.NewLaplacePart(p.EntityRows, me.Delta, me.EpsilonMicro)
		note := MeasureNote{Moment: me.Moment, Stage: me.Stage, Openings: e.Cells, Epsilon: natural(me.EpsilonMicro, 6)}
		unit := math.Pow10(int(scaleOf(me.Moment, view)))
		note.Sensitivity = float64(p.EntityRows) * float64(me.Delta) / unit
		note.StdDev = math.Sqrt(part.Variance(3)) / unit
		if letter, cols := me.Moment.Split(); letter == "t" {
			q := prog.Releases[0].Quantiles[quantile]
			quantile++
			col, _ := view.Column(cols[0])
			each := math.Sqrt(q.Each().Part().Variance(3))
			micro := q.Fractions[0]
			e.Joint.Quantiles = append(e.Joint.Quantiles, QuantileNote{Column: col.Name, Fraction: natural(micro, 6), Within: enclave.FormatScaled(q.Unit, col.Scale), Steps: int64(q.Steps()),
				RankDev: each, RankWithin: rankWithin(q, prog.Releases[0].Count.Part()), NearEnds: micro == endFractions["MIN"] || micro == endFractions["MAX"]})
			note.Sensitivity, note.StdDev = float64(p.EntityRows), each
		}
		e.Measures = append(e.Measures, note)
	}
	e.Epsilon = natural(p.EpsilonMicro, 6)
	e.CustodianEpsilon, e.OperatorEpsilon, e.Delta = e.Epsilon, e.Epsilon, operatorDelta
	part := dp.NewLaplacePart(p.EntityRows, 1, p.Measures[0].EpsilonMicro)
	margin := part.Margin(p.MarginMilli)
	e.MinCohort, e.CohortRows, e.Margin = p.MinCohort, p.MinCohort*p.EntityRows, margin.String()
	// Of one full sample: the third part only spreads it further, to both sides alike.
	e.MissProbability = dp.MissProbability(dp.LaplaceScale(p.EntityRows, 1, p.Measures[0].EpsilonMicro), 2, margin)
}

// rankWithin is a k with which, of a cell of n rows and with probability 95 %, fewer than p·n + k rows lie below the answer,
// and at least p·n − k do not lie above the unit of values that it stands for. The answer lies above a value whose noised
// rank was found to be less than p times the noised count, and below one whose noised rank was not, unless it is at an end
// of the range, where the one or the other is certain. So k is the most that one step's noise comes to, and p times the
// count's, but in one of twenty cells: of all s steps together with the count, each is beyond its bound with probability
// 1 in 20·(s+1) at most, and it does not matter that a step's question depends on the noise before.
func rankWithin(q mpc.Quantile, count dp.LaplacePart) int64 {
	log2p := bits.Len(uint(20*(q.Steps()+1) - 1))
	k := count.TailBound(log2p)
	k.Mul(k, big.NewInt(q.Fractions[0]))
	k.Add(k, big.NewInt(999_999)).Quo(k, big.NewInt(1_000_000))
	return k.Add(k, q.Each().Part().TailBound(log2p)).Int64() // both passed the check of the program
}

// roundTime is what a message takes between nodes in one machine room.
const roundTime = 200 * time.Microsecond

// jointSights says who sees what. It is a promise of the design, the same for every plan but for names.
func jointSights(p *enclave.Plan, owners []string) []Sight {
	return []Sight{
		{"operator", Bilingual{
			fmt.Sprintf("%s: the released table with noise, and which cells were suppressed by which rule; no row", p.Operator),
			fmt.Sprintf("%s：加噪后的结果表，以及被抑制的单元格及所依据的规则；看不到任何一行数据", p.Operator)}},
		{"owner", Bilingual{
			fmt.Sprintf("%s: this query, who asked and what it cost each dataset's budget; nothing of the other's data, not even who is in it", strings.Join(owners, ", ")),
			fmt.Sprintf("%s：本查询、申请方及其消耗的各数据集预算；看不到其他机构的任何数据，包括其中有谁", strings.Join(owners, "、"))}},
		{"node", Bilingual{
			"each of the three nodes: the query, the padded numbers of rows, noised counts of the cells and of the bisections; two nodes that collude see everything, one alone nothing more",
			"三个节点各自：查询、补齐后的行数、各单元格及二分过程的加噪计数；两个节点合谋可见全部，单个节点看不到更多"}},
		{"lab", Bilingual{
			"control plane: query, plan and encrypted shares; no key, no row, no figure",
			"控制平面：查询、计划和加密的份额；没有密钥，看不到数据行和任何数值"}},
		{"auditor", Bilingual{
			"auditors and the log: digests, parties, ε, numbers of cells and of suppressed cells; no figure",
			"审计人员与日志：摘要、参与方、ε、单元格数与抑制数；没有任何结果数值"}},
	}
}

func jointNotes(p *enclave.Plan, n *JointNote) []Bilingual {
	var out []Bilingual
	if len(p.Joint.Sources) > 1 {
		out = append(out, Bilingual{fmt.Sprintf("rows are counted of %s; a row without a partner in every other dataset is left out", n.Base),
			fmt.Sprintf("统计的是 %s 的行；在其他任一数据集中没有匹配的行不计入", n.Base)})
	}
	for _, q := range n.Quantiles {
		if q.NearEnds {
			out = append(out, Bilingual{fmt.Sprintf("MIN and MAX of %s are the quantiles at %s: the very ends are single rows, which noise must drown", q.Column, figure(q.Fraction)),
				fmt.Sprintf("%s 的 MIN/MAX 以 %s 分位数代替：真正的极值是单行数据，必须被噪声掩盖", q.Column, figure(q.Fraction))})
		}
	}
	return out
}

// textJoint renders what differs for this engine.
func (e *Explanation) textJoint(r *renderer) {
	n := e.Joint
	r.line("Engine: %s: %s", "引擎：%s：%s", e.Engine, r.pick(e.Why))
	for _, s := range n.Sources {
		r.line("  - %s of %s: all %d rows (padded), shares of %d columns", "  - %s（%s）：全部 %d 行（已补齐），%d 列份额", s.Dataset, s.Owner, s.Rows, len(s.Columns))
	}
	r.line("Cells: at most %d result rows, rows counted of %s", "单元格：结果至多 %d 行，统计 %s 的行", e.Cells, n.Base)
}

func (e *Explanation) textJointCost(r *renderer) {
	n := e.Joint
	for _, q := range n.Quantiles {
		r.line("Quantile %s of %s: to within %s, by %d noised counts in every cell, each with a standard deviation of %s rows; its rank is within %d rows of the one asked for, with 95 %% confidence.",
			"%[2]s 的 %[1]s 分位数：精确到 %[3]s，每个单元格经 %[4]d 次加噪计数，每次标准差 %[5]s 行；其秩与所求之秩相差不超过 %[6]d 行，置信度 95%%。", figure(q.Fraction), q.Column, q.Within, q.Steps,
			figure(q.RankDev), q.RankWithin)
	}
	r.line("Cost: about %d rounds and %s MB sent by each node, in the order of %s s.", "开销：约 %d 轮通信，每节点发送 %s MB，约 %s 秒。", n.Rounds, figure(float64(n.Bytes)/1e6), figure(n.Seconds))
}
