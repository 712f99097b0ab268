// Package generator makes up a year of household water use in Chongming district, for demonstrations and measurements.
//
// Every household is invented. The towns are real; their sizes, and how use depends on people, building and age, are
// round guesses that make the figures look alive, no statistics of anyone. math/rand/v2 is in its place here: nothing
// secret comes of it, and one seed always gives the same file.
package generator

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
)

// Header lists the columns that Write writes: the household's pseudonym, town or township, building type, age band of
// the head of the household, people in it, the year's water in m³, the tariff step reached and the year's bill in yuan.
var Header = []string{"household", "town", "building", "age", "people", "m3", "tier", "bill"}

// MaxHouseholds is the most rows of one file: the pseudonym has seven digits.
const MaxHouseholds = 9_999_999

// RareTown and RareBuilding make a cell so small that it must be suppressed: of all the files' households there, only
// the first RareHouseholds are of that building type.
const (
	RareTown       = "新村乡"
	RareBuilding   = "别墅"
	RareHouseholds = 6
)

type town struct {
	name   string
	weight float64 // share of households, relative
	urban  float64 // share of apartments
	old    float64 // shifts households to the older age bands
	level  float64 // of water use
}

var towns = []town{
	{"城桥镇", 120, .62, 0.0, 1.06}, {"堡镇", 58, .48, 0.1, 1.02}, {"新河镇", 40, .30, 0.2, 0.99}, {"庙镇", 44, .18, 0.2, 0.97},
	{"竖新镇", 32, .15, 0.3, 0.95}, {"向化镇", 22, .12, 0.3, 0.94}, {"三星镇", 26, .12, 0.3, 0.94}, {"港沿镇", 36, .14, 0.2, 0.95},
	{"中兴镇", 22, .12, 0.3, 0.96}, {"陈家镇", 52, .46, -0.1, 1.08}, {"绿华镇", 9, .12, 0.3, 0.92}, {"港西镇", 22, .14, 0.3, 0.95},
	{"建设镇", 24, .16, 0.2, 0.96}, {"新海镇", 12, .40, 0.3, 0.93}, {"东平镇", 11, .42, 0.2, 0.98}, {"长兴镇", 86, .52, -0.2, 1.04},
	{RareTown, 9, .10, 0.4, 0.90}, {"横沙乡", 26, .08, 0.4, 0.91},
}

var (
	buildings = []string{"公寓", "农宅", "联排", RareBuilding}
	// perBuilding scales use: gardens and washing in the yard take water.
	perBuilding = []float64{1.0, 0.92, 1.15, 1.9}
	ages        = []string{"18-34", "35-49", "50-64", "65+"}
	ageShares   = []float64{.14, .29, .33, .24}
	// people in the household by age band: cumulative shares of 1, 2, … 8.
	peopleShares = [][]float64{
		{.30, .62, .90, .97, .99, .997, .999, 1},
		{.08, .26, .66, .88, .96, .985, .996, 1},
		{.10, .46, .70, .84, .95, .98, .995, 1},
		{.27, .80, .88, .93, .97, .99, .997, 1},
	}
)

// The tariff is stepped like Shanghai's: tenths of m³ at which a step begins, and the price of a tenth in mils of yuan.
var (
	tiers      = []string{"一阶", "二阶", "三阶"}
	tierStarts = []int{0, 2200, 3000}
	tierPrices = []int{345, 483, 583}
)

// maxTenths caps the yearly use at 2000 m³.
const maxTenths = 20000

// Write writes CSV (UTF-8) with the header and one row for each of the households. The same seed and number of rows
// give the same bytes.
func Write(w io.Writer, rows int, seed uint64) error {
	if rows < 0 || rows > MaxHouseholds {
		return fmt.Errorf("generating households: %d rows are not between 0 and %d", rows, MaxHouseholds)
	}
	g := newSource(seed)
	buf := make([]byte, 0, 1<<16)
	for i, name := range Header {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(buf, name...)
	}
	buf = append(buf, '\n')
	for i := range rows {
		buf = g.household(i + 1).append(buf)
		if len(buf) > 1<<16-256 {
			if _, err := w.Write(buf); err != nil {
				return fmt.Errorf("generating households: %w", err)
			}
			buf = buf[:0]
		}
	}
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("generating households: %w", err)
	}
	return nil
}

type household struct {
	number                    int
	town, building, age, tier string
	people, tenths, yuan      int
}

type source struct {
	rnd        *rand.Rand
	townShares []float64 // cumulative
	rare       int
}

func newSource(seed uint64) *source {
	s := &source{rnd: rand.New(rand.NewPCG(seed, 0x59696e677a686f75))}
	total := 0.0
	for _, t := range towns {
		total += t.weight
		s.townShares = append(s.townShares, total)
	}
	for i := range s.townShares {
		s.townShares[i] /= total
	}
	return s
}

func (s *source) household(number int) household {
	t := &towns[pick(s.townShares, s.rnd.Float64())]
	b := s.building(t)
	age := s.age(t, b)
	people := 1 + pick(peopleShares[age], s.rnd.Float64())
	// Lognormal, growing less than in proportion to the people; the elderly are at home more and waste less.
	mean := 62 * math.Pow(float64(people), 0.72) * perBuilding[b] * t.level * (1 - 0.03*float64(age))
	tenths := int(math.Round(10 * mean * math.Exp(0.42*s.rnd.NormFloat64())))
	tenths = min(max(tenths, 0), maxTenths)
	tier, yuan := bill(tenths)
	return household{number: number, town: t.name, building: buildings[b], age: ages[age], tier: tiers[tier], people: people,
		tenths: tenths, yuan: yuan}
}

func (s *source) building(t *town) int {
	r := s.rnd.Float64()
	if t.name == RareTown {
		if s.rare < RareHouseholds {
			s.rare++
			return 3
		}
		r *= 0.985 // no more of them
	}
	switch {
	case r < t.urban:
		return 0
	case r < 0.92:
		return 1
	case r < 0.985:
		return 2
	}
	return 3
}

func (s *source) age(t *town, b int) int {
	r := s.rnd.Float64()
	old := t.old
	if b == 1 { // farmhouses are where the parents stayed
		old += 0.25
	}
	r = math.Pow(r, 1/(1+max(old, -0.5)))
	for i, share := range ageShares {
		if r -= share; r < 0 {
			return i
		}
	}
	return len(ageShares) - 1
}

// pick finds the first cumulative share above r.
func pick(shares []float64, r float64) int {
	for i, s := range shares {
		if r < s {
			return i
		}
	}
	return len(shares) - 1
}

// bill prices a year's use: the step it reaches and whole yuan.
func bill(tenths int) (tier, yuan int) {
	mils := 0
	for i, start := range tierStarts {
		if tenths <= start && i > 0 {
			break
		}
		tier = i
		end := tenths
		if i+1 < len(tierStarts) {
			end = min(end, tierStarts[i+1])
		}
		mils += (end - start) * tierPrices[i]
	}
	return tier, (mils + 500) / 1000
}

func (h household) append(b []byte) []byte {
	b = append(b, 'H')
	for p := 1_000_000; p > h.number && p > 1; p /= 10 {
		b = append(b, '0')
	}
	b = strconv.AppendInt(b, int64(h.number), 10)
	for _, s := range []string{h.town, h.building, h.age} {
		b = append(b, ',')
		b = append(b, s...)
	}
	b = append(b, ',')
	b = strconv.AppendInt(b, int64(h.people), 10)
	b = append(b, ',')
	b = strconv.AppendInt(b, int64(h.tenths/10), 10)
	b = append(b, '.', byte('0'+h.tenths%10), ',')
	b = append(b, h.tier...)
	b = append(b, ',')
	b = strconv.AppendInt(b, int64(h.yuan), 10)
	return append(b, '\n')
}
