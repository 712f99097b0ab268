package schema

import (
	"strings"
	"time"
)

// profile gathers what Describe needs of one column in memory that does not grow with the table, but for the counters
// of columns that may be the entity key.
type profile struct {
	name      string
	maxLabels int

	count, missing int64
	labels         map[string]int64 // rows per distinct value; nil once there are too many

	numeric     bool // every value is a plain decimal
	booleans    bool // every value is true or false
	dates       bool // every value is an ISO date
	coded       bool // some value has a leading zero or sign, or ends in a point: a code, not a quantity
	decimals    int
	least, most int64 // in units of 10^-maxScale, rounded

	idName   bool           // the column's name says identifier
	unique   bool           // no value came twice so far
	entities *entityCounter // rows per value, while the column may be a key
}

func newProfile(name string, maxLabels int) profile {
	return profile{name: name, maxLabels: maxLabels, labels: map[string]int64{}, numeric: true, booleans: true, dates: true,
		idName: namesIdentifier(name), unique: true, entities: newEntityCounter()}
}

// namesIdentifier recognises the usual names of identifiers.
func namesIdentifier(name string) bool {
	for _, part := range []string{"编号", "户号", "证号", "账号", "卡号", "身份证", "统一社会信用代码"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	lower := strings.ToLower(name)
	for _, word := range strings.FieldsFunc(lower, func(r rune) bool { return r == '_' || r == '-' || r == ' ' || r == '.' }) {
		switch word {
		case "id", "uid", "uuid", "guid", "key", "household", "person", "patient", "account", "customer", "resident":
			return true
		}
	}
	return strings.HasSuffix(name, "ID") || strings.HasSuffix(name, "Id")
}

func (p *profile) see(text string) {
	if text == "" {
		p.missing++
		return
	}
	p.count++
	if p.entities != nil {
		if p.entities.add(text) > 1 {
			p.unique = false
		}
		if !p.unique && !p.idName {
			p.entities = nil // can no longer be a key; give the memory back
		}
	}
	if p.labels != nil {
		if _, ok := p.labels[text]; !ok {
			text = strings.Clone(text) // the map must not hold on to the reader's block
		}
		if p.labels[text]++; len(p.labels) > p.maxLabels {
			p.labels = nil
		}
	}
	if p.numeric {
		p.seeNumber(text)
	}
	if p.booleans {
		l := strings.ToLower(text)
		p.booleans = l == "true" || l == "false"
	}
	if p.dates {
		_, err := time.Parse(time.DateOnly, text)
		p.dates = err == nil
	}
}

func (p *profile) seeNumber(text string) {
	v, _, err := parseScaled(text, maxScale)
	if err != nil {
		p.numeric = false
		return
	}
	if p.count == 1 || v < p.least {
		p.least = v
	}
	if p.count == 1 || v > p.most {
		p.most = v
	}
	if dot := strings.IndexByte(text, '.'); dot >= 0 {
		p.decimals = max(p.decimals, len(strings.TrimRight(text[dot+1:], "0")))
	}
	digits := strings.TrimLeft(text, "+-")
	p.coded = p.coded || text[0] == '+' || text[len(text)-1] == '.' || len(digits) > 1 && digits[0] == '0' && digits[1] != '.'
}

// identifying reports whether values single out rows: by the column's name, as codes with leading zeros, or as text or
// whole numbers that never repeat.
func (p *profile) identifying() bool {
	few := p.labels != nil && p.count >= 2*int64(len(p.labels))
	return p.idName || !few && p.numeric && p.coded && p.decimals == 0 || p.unique && p.count > rareLabel && p.decimals == 0 && !p.dates
}

// isCategory reports whether there are few distinct values, each standing for several rows.
func (p *profile) isCategory() bool {
	return p.labels != nil && p.count >= 2*int64(len(p.labels))
}

// chooseKey picks the column that tells entities apart, -1 if none does: one that is named like an identifier, else one
// that never repeats; the first of several. A column with missing values cannot be it.
func chooseKey(profiles []profile, rows int64) int {
	for _, named := range []bool{true, false} {
		for i := range profiles {
			p := &profiles[i]
			if p.count == rows && p.entities != nil && p.idName == named && (named || p.identifying()) && p.decimals == 0 {
				return i
			}
		}
	}
	return -1
}
