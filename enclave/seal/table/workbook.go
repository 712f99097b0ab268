package table

import (
	"archive/zip"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	// maxShared bounds the table of shared strings, the one part of a workbook that must be held in memory.
	maxShared = 512 << 20
	// maxSheetColumns is the last column of a worksheet, XFD.
	maxSheetColumns = 16384
)

var errGuard = errors.New("one XML token is too long")

// tokenGuard keeps the XML decoder from collecting a text of any length: it fails once more than limit bytes were read
// since the count was last set to zero.
type tokenGuard struct {
	r            io.Reader
	spent, limit int
}

func (g *tokenGuard) Read(p []byte) (int, error) {
	if g.spent > g.limit {
		return 0, errGuard
	}
	n, err := g.r.Read(p[:min(len(p), 4096)])
	g.spent += n
	return n, err
}

func guarded(r io.Reader, limit int) (*xml.Decoder, *tokenGuard) {
	g := &tokenGuard{r: r, limit: limit}
	return xml.NewDecoder(g), g
}

type workbook struct {
	sheet  string // path of the worksheet in the archive
	shared []string
}

type relationship struct {
	ID     string `xml:"Id,attr"`
	Type   string `xml:"Type,attr"`
	Target string `xml:"Target,attr"`
}

// readWorkbook follows the package relationships (ECMA-376, part 2) from the root to the chosen worksheet and the
// shared strings.
func readWorkbook(archive *zip.Reader, opts Options) (*workbook, error) {
	root, err := relationships(archive, "")
	if err != nil {
		return nil, err
	}
	main := ""
	for _, r := range root {
		if strings.HasSuffix(r.Type, "/officeDocument") {
			main = r.Target
		}
	}
	var doc struct {
		Sheets []struct {
			Name string `xml:"name,attr"`
			ID   string `xml:"http://schemas.openxmlformats.org/officeDocument/2006/relationships id,attr"`
			// ISO/IEC 29500 strict workbooks use another name space for the same attribute.
			StrictID string `xml:"http://purl.oclc.org/ooxml/officeDocument/relationships id,attr"`
		} `xml:"sheets>sheet"`
	}
	if err := readPart(archive, main, &doc); err != nil {
		return nil, err
	}
	var names []string
	id := ""
	for _, s := range doc.Sheets {
		names = append(names, s.Name)
		if s.Name == opts.Sheet || opts.Sheet == "" && len(doc.Sheets) == 1 {
			id = s.ID + s.StrictID
		}
	}
	if id == "" {
		return nil, &Error{Err: ErrFormat, Problem: fmt.Sprintf("no worksheet %q: name one of %q with the sheet option", opts.Sheet, names)}
	}
	rels, err := relationships(archive, main)
	if err != nil {
		return nil, err
	}
	var book workbook
	for _, r := range rels {
		switch {
		case r.ID == id:
			book.sheet = r.Target
		case strings.HasSuffix(r.Type, "/sharedStrings"):
			if book.shared, err = sharedStrings(archive, r.Target, opts.maxRow()); err != nil {
				return nil, err
			}
		}
	}
	if book.sheet == "" {
		return nil, &Error{Err: ErrFormat, Problem: "the workbook does not say where its worksheet is"}
	}
	return &book, nil
}

// relationships reads the relationships of a part, "" being the package itself, with targets made absolute.
func relationships(archive *zip.Reader, part string) ([]relationship, error) {
	dir, base := path.Split(part)
	var doc struct {
		Relationship []relationship
	}
	if err := readPart(archive, dir+"_rels/"+base+".rels", &doc); err != nil {
		return nil, err
	}
	for i, r := range doc.Relationship {
		if strings.HasPrefix(r.Target, "/") {
			doc.Relationship[i].Target = strings.TrimPrefix(r.Target, "/")
		} else {
			doc.Relationship[i].Target = path.Join(dir, r.Target)
		}
	}
	return doc.Relationship, nil
}

// readPart decodes one of the small parts of the package.
func readPart(archive *zip.Reader, name string, v any) error {
	f, err := archive.Open(name)
	if err != nil {
		return &Error{Err: ErrFormat, Problem: "not an xlsx workbook: a part of it is not in the file"}
	}
	defer f.Close()
	const limit = 4 << 20
	if err := xml.NewDecoder(io.LimitReader(f, limit)).Decode(v); err != nil {
		return &Error{Err: ErrFormat, Problem: "a part of the workbook is damaged"}
	}
	return nil
}

// sharedStrings reads the table of strings that cells point into (part 1, clause 18.4). Runs of formatted text are
// joined; pronunciation is left out.
func sharedStrings(archive *zip.Reader, name string, limit int) ([]string, error) {
	f, err := archive.Open(name)
	if err != nil {
		return nil, &Error{Err: ErrFormat, Problem: "the shared strings are not in the file"}
	}
	defer f.Close()
	dec, guard := guarded(f, limit)
	var out []string
	var b strings.Builder
	total, text, phonetic := 0, false, false
	for {
		guard.spent = 0
		tok, err := dec.RawToken()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, &Error{Err: ErrFormat, Problem: "the shared strings are damaged or one is too long"}
		}
		switch t := tok.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "si":
				b.Reset()
			case "t":
				text = true
			case "rPh":
				phonetic = true
			}
		case xml.EndElement:
			switch t.Name.Local {
			case "si":
				out = append(out, b.String())
				b = strings.Builder{}
			case "t":
				text = false
			case "rPh":
				phonetic = false
			}
		case xml.CharData:
			if text && !phonetic {
				if total += len(t); b.Len()+len(t) > limit || total > maxShared {
					return nil, &Error{Err: ErrTooLong, Problem: "the workbook's shared strings are too large: save the sheet as CSV UTF-8"}
				}
				b.Write(t)
			}
		}
	}
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}

// columnOf takes the column, from 0, out of a cell reference such as "AB12".
func columnOf(ref string) (int, error) {
	n, i := 0, 0
	for ; i < len(ref) && ref[i] >= 'A' && ref[i] <= 'Z'; i++ {
		if n = n*26 + int(ref[i]-'A') + 1; n > maxSheetColumns {
			return 0, errors.New("a cell lies outside the worksheet")
		}
	}
	if i == 0 || i == len(ref) {
		return 0, errors.New("a cell has no valid reference")
	}
	return n - 1, nil
}
