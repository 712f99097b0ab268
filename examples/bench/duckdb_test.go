// Package bench measures the same questions in the clear, in DuckDB (https://duckdb.org), a good column store: what a
// district would have without any of this project's protection. It is a module of its own because DuckDB needs a C
// compiler and a hundred megabytes of library, which nothing that is shipped does.
package bench

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	_ "github.com/duckdb/duckdb-go/v2"

	"yingzhou.dev/lab/examples/water/generator"
)

const rows = 1 << 20

// open loads a million households into a DuckDB in memory.
func open(b *testing.B) (db *sql.DB, path string) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "water.csv")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(generator.Write(w, rows, 1), w.Flush(), f.Close()); err != nil {
		b.Fatal(err)
	}
	if db, err = sql.Open("duckdb", ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	load(b, db, path)
	return db, path
}

// load names the columns' types, as the lab's schema does: nothing is to be guessed.
func load(b *testing.B, db *sql.DB, path string) {
	b.Helper()
	_, err := db.ExecContext(b.Context(), fmt.Sprintf(`CREATE OR REPLACE TABLE water AS FROM read_csv('%s', header = true, columns = {
		'household': 'VARCHAR', 'town': 'VARCHAR', 'building': 'VARCHAR', 'age': 'VARCHAR', 'people': 'INTEGER', 'm3': 'DECIMAL(8,1)', 'tier': 'VARCHAR', 'bill': 'INTEGER'})`, path))
	if err != nil {
		b.Fatal(err)
	}
}

// ask reads every row of an answer.
func ask(b *testing.B, db *sql.DB, query string, groups int) {
	b.Helper()
	answer, err := db.QueryContext(b.Context(), query)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Close()
	n := 0
	for answer.Next() {
		n++
	}
	if answer.Err() != nil || n != groups {
		b.Fatalf("%d groups, want %d: %v", n, groups, answer.Err())
	}
}

func BenchmarkDuckDB(b *testing.B) {
	db, path := open(b)
	for _, q := range []struct {
		name, query string
		groups      int
	}{
		{"sum1Mx18", `SELECT town, SUM(m3) FROM water GROUP BY town`, 18},
		{"rows", `SELECT town, COUNT(*), SUM(m3) FROM water GROUP BY town`, 18},
		{"cube", `SELECT town, age, COUNT(*), AVG(people) FROM water GROUP BY town, age`, 72},
	} {
		b.Run(q.name, func(b *testing.B) {
			for b.Loop() {
				ask(b, db, q.query, q.groups)
			}
		})
	}
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			load(b, db, path)
		}
		b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrows/s")
	})
}
