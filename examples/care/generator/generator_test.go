package generator_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/examples/care/generator"
)

func tables(t *testing.T, people int, seed uint64) (out [3][][]string, raw [3]bytes.Buffer) {
	t.Helper()
	if err := generator.Write(&raw[0], &raw[1], &raw[2], people, seed); err != nil {
		t.Fatal(err)
	}
	for i := range out {
		rows, err := csv.NewReader(strings.NewReader(raw[i].String())).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		out[i] = rows
	}
	return out, raw
}

func TestSameSeedSameFiles(t *testing.T) {
	_, a := tables(t, 500, 7)
	_, b := tables(t, 500, 7)
	_, c := tables(t, 500, 8)
	for i := range a {
		if a[i].String() != b[i].String() || a[i].String() == c[i].String() {
			t.Errorf("file %d: one seed gives two files, or two seeds one", i)
		}
	}
}

// Identity numbers are well formed, belong to nobody, are nobody's twice, and fit sex and age.
func TestIdentityNumbers(t *testing.T) {
	tabs, _ := tables(t, 20_000, 1)
	seen, towns := map[string]bool{}, map[string]int{}
	for _, r := range tabs[0][1:] {
		id := r[0]
		born, err := time.Parse("20060102", id[6:14])
		if len(id) != 18 || !strings.HasPrefix(id, "99") || id[17:] != generator.CheckDigit(id[:17]) || err != nil || seen[id] {
			t.Fatalf("%q: malformed, real or given twice (%v)", id, err)
		}
		seen[id] = true
		towns[r[1]]++
		if male := (id[16]-'0')%2 == 1; male != (r[2] == "男") {
			t.Fatalf("%q is not of sex %s", id, r[2])
		}
		if years := generator.Today.Year() - born.Year(); r[3] != itoa(years) && r[3] != itoa(years-1) {
			t.Fatalf("%q is not of age %s", id, r[3])
		}
		if alone := r[4] == "1"; alone != (r[5] == "是") {
			t.Fatalf("household %s, alone %s", r[4], r[5])
		}
	}
	if len(towns) != 18 || towns["城桥镇"] < towns["新村乡"] {
		t.Errorf("towns %v", towns)
	}
}

func itoa(n int) string {
	return strings.TrimLeft(string([]byte{byte('0' + n/100), byte('0' + n/10%10)}), "0") + string(byte('0'+n%10))
}

// The example check digit of GB 11643-1999, annex A.
func TestCheckDigit(t *testing.T) {
	for body, want := range map[string]string{"11010519491231002": "X", "44052418800101001": "4"} {
		if got := generator.CheckDigit(body); got != want {
			t.Errorf("%s: check digit %s, want %s", body, got, want)
		}
	}
}

// The agencies' files overlap without being the same, and spell numbers differently.
func TestOverlap(t *testing.T) {
	tabs, raw := tables(t, 5_000, 1)
	plain := map[string]bool{}
	for _, r := range tabs[0][1:] {
		plain[r[0]] = true
	}
	exact := 0
	for _, r := range tabs[1][1:] {
		if plain[r[0]] {
			exact++
		}
	}
	n := len(tabs[1]) - 1
	if n < 4_500 || n > 5_000 || exact == 0 || exact > n*9/10 {
		t.Errorf("%d people at clinics, %d of them written plainly", n, exact)
	}
	if len(tabs[2]) < 500 || !strings.Contains(raw[2].String(), "９９０１５１") {
		t.Errorf("%d people draw support", len(tabs[2])-1)
	}
	for i, header := range [][]string{generator.ResidentsHeader, generator.HealthHeader, generator.WelfareHeader} {
		if !slices.Equal(tabs[i][0], header) {
			t.Errorf("header %v", tabs[i][0])
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestRefusals(t *testing.T) {
	var b bytes.Buffer
	if generator.Write(&b, &b, &b, -1, 1) == nil || generator.Write(&b, &b, &b, generator.MaxResidents+1, 1) == nil {
		t.Error("too many or too few residents are generated")
	}
	if generator.Write(&b, full{}, &b, 10, 1) == nil {
		t.Error("a full disk goes unnoticed")
	}
}
