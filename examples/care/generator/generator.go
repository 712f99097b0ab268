// Package generator makes up the residents of Chongming district as three agencies would have them on file: who lives
// where and how (residents), what their medical care cost in a year (health), and what support they draw (welfare).
//
// Every person is invented. The sixteen towns and two townships are real; the shares, ages and costs are round guesses
// that make the figures look alive, no statistics of anyone. The identity numbers have the form and the check digit of
// Chinese resident identity numbers (GB 11643-1999) but begin with 990151: no division of the country has a code that
// begins with 99, so no number here is or ever was a person's. The agencies write them as agencies do: plainly, with a
// small x, in groups, or in full-width digits.
//
// math/rand/v2 is in its place here: nothing secret comes of it, and one seed always gives the same files.
package generator

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Region begins every identity number; see the package comment.
const Region = "990151"

// MaxResidents keeps the serial numbers of one birthday within three digits, however many are born on it.
const MaxResidents = 2_000_000

// Towns are the sixteen towns and two townships of the district.
var Towns = []string{"城桥镇", "堡镇", "新河镇", "庙镇", "竖新镇", "向化镇", "三星镇", "港沿镇", "中兴镇", "陈家镇", "绿华镇", "港西镇", "建设镇", "新海镇", "东平镇", "长兴镇",
	"新村乡", "横沙乡"}

// shares of residents in thousandths, and how much older than the district a town is.
var shares = []int{170, 80, 58, 62, 46, 32, 38, 52, 32, 76, 13, 32, 35, 17, 16, 130, 13, 98}
var older = []float64{0, .05, .1, .1, .15, .15, .15, .1, .15, -.1, .2, .15, .1, .1, .1, -.2, .25, .2}

// The three files, each with its header.
var (
	ResidentsHeader = []string{"person", "town", "sex", "age", "household", "alone"}
	HealthHeader    = []string{"person", "insurance", "visits", "cost", "reimbursed", "chronic"}
	WelfareHeader   = []string{"person", "benefit", "care_level", "monthly"}
)

// Today is the day at which ages are taken.
var Today = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Write makes the three files of so many residents. Not everyone is in all of them: some were never ill, some who were
// treated here live elsewhere, and few draw support.
func Write(residents, health, welfare io.Writer, people int, seed uint64) error {
	if people < 0 || people > MaxResidents {
		return fmt.Errorf("generating residents: %d people are not between 0 and %d", people, MaxResidents)
	}
	g := &source{rnd: rand.New(rand.NewPCG(seed, 0x6361726565786d70)), serial: map[int]int{}}
	for _, s := range shares {
		g.total += s
	}
	out := [3]*lines{newLines(residents, ResidentsHeader), newLines(health, HealthHeader), newLines(welfare, WelfareHeader)}
	for range people {
		p := g.person()
		out[0].add(p.id, p.town, p.sex, strconv.Itoa(p.age), strconv.Itoa(p.household), yes(p.household == 1))
		if g.rnd.Float64() < 0.93 {
			out[1].add(g.health(p)...)
		}
		if w := g.welfare(p); w != nil {
			out[2].add(w...)
		}
		if g.rnd.Float64() < 0.02 { // treated here, at home elsewhere
			out[1].add(g.health(g.person())...)
		}
	}
	for i, l := range out {
		if err := l.flush(); err != nil {
			return fmt.Errorf("generating %s: %w", [3]string{"residents", "health", "welfare"}[i], err)
		}
	}
	return nil
}

type person struct {
	id, town, sex  string
	age, household int
}

type source struct {
	rnd    *rand.Rand
	total  int
	serial map[int]int // serial numbers given, by day and sex
}

func (g *source) person() person {
	t, r := 0, g.rnd.IntN(g.total)
	for r >= shares[t] {
		r -= shares[t]
		t++
	}
	// Two humps: those who work, and the many who are old.
	age := 8 + 38*g.rnd.Float64() + 12*g.rnd.NormFloat64()
	if g.rnd.Float64() < 0.38+older[t]/2 {
		age = 67 + 9*g.rnd.NormFloat64()
	}
	age = min(max(age, 0), 104)
	male := g.rnd.IntN(2)
	p := person{town: Towns[t], sex: [2]string{"女", "男"}[male], household: g.household(age)}
	born := Today.AddDate(0, 0, -int(age*365.2425)-1)
	p.age = Today.Year() - born.Year()
	if born.YearDay() > Today.YearDay() {
		p.age--
	}
	p.id = g.identity(born, male)
	return p
}

func (g *source) household(age float64) int {
	r := g.rnd.Float64()
	if age > 60 {
		r = r * r
	}
	if age < 18 {
		return 3 + int(3*r)
	}
	switch {
	case r < .12:
		return 1
	case r < .45:
		return 2
	case r < .75:
		return 3
	}
	return 4 + int(3*g.rnd.Float64())
}

// identity gives the next number of a birthday: region, date, serial (odd for men), check digit.
func (g *source) identity(born time.Time, male int) string {
	for {
		day := born.Year()*1000 + born.YearDay()
		n := g.serial[2*day+male]
		if n < 499 {
			g.serial[2*day+male]++
			body := fmt.Sprintf("%s%s%03d", Region, born.Format("20060102"), 2*n+male)
			return body + CheckDigit(body)
		}
		born = born.AddDate(0, 0, -1) // a day that is full
	}
}

// CheckDigit is the last character of an identity number, by ISO 7064 MOD 11-2.
func CheckDigit(body string) string {
	sum := 0
	for i, c := range body {
		sum += int(c-'0') * (1 << (17 - i) % 11)
	}
	return string("10X98765432"[sum%11])
}

func (g *source) health(p person) []string {
	age := float64(p.age)
	chronic := 0
	for range 2 {
		if g.rnd.Float64() < 0.03+0.62/(1+math.Exp((58-age)/8)) {
			chronic++
		}
	}
	level := 6.1 + 0.013*age + 0.75*float64(chronic)
	if p.household == 1 {
		level -= 0.12 // goes late, or not at all
	}
	fen := int64(100 * math.Exp(level+1.05*g.rnd.NormFloat64()))
	fen = min(fen, 500_000_00)
	visits := min(int(float64(fen)/100/320*(.5+g.rnd.Float64())), 200)
	insurance, paid := "居民医保", .62
	if age >= 20 && g.rnd.Float64() < .45 {
		insurance, paid = "职工医保", .78
	}
	return []string{g.spelling(p.id), insurance, strconv.Itoa(visits), money(fen), money(int64(float64(fen) * paid)), []string{"无", "一种", "多种"}[chronic]}
}

func (g *source) welfare(p person) []string {
	r := g.rnd.Float64()
	benefit, monthly, level := "", 0, "无"
	switch {
	case p.age >= 65:
		benefit, monthly = "高龄津贴", []int{75, 150, 180, 350, 600}[min((p.age-65)/8, 4)]
		if r < .05+.01*float64(p.age-65) {
			level = []string{"二级", "三级", "四级", "五级"}[g.rnd.IntN(4)]
		}
	case r < .015:
		benefit, monthly = "最低生活保障", 1510
	case r < .04:
		benefit, monthly = "残疾人补贴", 330
	default:
		return nil
	}
	return []string{wide(p.id), benefit, level, strconv.Itoa(monthly)}
}

// spelling is how a clinic writes a number.
func (g *source) spelling(id string) string {
	switch g.rnd.IntN(8) {
	case 0:
		return strings.ToLower(id)
	case 1:
		return id[:6] + " " + id[6:14] + " " + id[14:]
	}
	return id
}

// wide is the number in full-width characters.
func wide(id string) string {
	return strings.Map(func(r rune) rune { return r - '!' + '！' }, id)
}

func money(fen int64) string { return fmt.Sprintf("%d.%02d", fen/100, fen%100) }

func yes(b bool) string {
	if b {
		return "是"
	}
	return "否"
}

// lines writes CSV whose fields need no quotes.
type lines struct {
	w   io.Writer
	buf []byte
	err error
}

func newLines(w io.Writer, header []string) *lines {
	l := &lines{w: w}
	l.add(header...)
	return l
}

func (l *lines) add(fields ...string) {
	for i, f := range fields {
		if i > 0 {
			l.buf = append(l.buf, ',')
		}
		l.buf = append(l.buf, f...)
	}
	if l.buf = append(l.buf, '\n'); len(l.buf) > 1<<16 {
		l.flush()
	}
}

func (l *lines) flush() error {
	if l.err == nil {
		_, l.err = l.w.Write(l.buf)
	}
	l.buf = l.buf[:0]
	return l.err
}
