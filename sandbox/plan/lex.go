package plan

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The parser knows no identifier outside ASCII, swallows whatever stands where a closing parenthesis should be, reads
// past a semicolon, and lets BETWEEN's range run to the end of the expression ("x BETWEEN 1 AND 2 AND y = 'a'"). So the
// query is first read into tokens here: identifiers in any script are quoted, each plain BETWEEN gets parentheses of its
// own, and parentheses must match. The parser then sees tokens separated by single spaces, and offsets lead back.

type kind int

const (
	word kind = iota // identifier or keyword
	quotedIdent
	text // 'string'
	number
	symbol
)

type token struct {
	kind kind
	text string // as the parser shall read it
	pos  Pos
}

func (t token) is(keyword string) bool { return t.kind == word && strings.EqualFold(t.text, keyword) }

// source is a query as tokens and as the text that the parser reads.
type source struct {
	tokens []token
	text   []rune
	places []Pos // of every rune of text
}

type lexer struct {
	b    *builder
	in   []rune
	at   int
	line int
	col  int
	out  []token
}

// lex reads the query, or reports why it cannot be read and returns nil.
func (b *builder) lex() *source {
	if len(b.Query) > MaxQueryBytes {
		b.refuse(CodeTooLong, Pos{}, fmt.Sprintf("the query has %d bytes; at most %d are read", len(b.Query), MaxQueryBytes),
			"use IN lists and shorter aliases, or split the query")
		return nil
	}
	if !utf8.ValidString(b.Query) {
		b.refuse(CodeSyntax, Pos{}, "the query is not valid UTF-8", "save it as UTF-8")
		return nil
	}
	before := len(b.reasons)
	l := &lexer{b: b, in: []rune(b.Query), line: 1, col: 1}
	for l.next() {
	}
	tokens := l.finish()
	if len(b.reasons) > before {
		return nil
	}
	if b.joint != nil {
		tokens = b.joint.qualify(tokens)
	}
	return render(wrapRanges(tokens))
}

func (l *lexer) peek(n int) rune {
	if l.at+n >= len(l.in) {
		return -1
	}
	return l.in[l.at+n]
}

func (l *lexer) step() rune {
	r := l.in[l.at]
	l.at++
	if r == '\n' {
		l.line, l.col = l.line+1, 1
	} else {
		l.col++
	}
	return r
}

func (l *lexer) take(while func(rune) bool) string {
	start := l.at
	for l.at < len(l.in) && while(l.in[l.at]) {
		l.step()
	}
	return string(l.in[start:l.at])
}

func letter(r rune) bool { return r == '_' || unicode.IsLetter(r) }
func digit(r rune) bool  { return r >= '0' && r <= '9' }
func inner(r rune) bool  { return letter(r) || unicode.IsDigit(r) || unicode.IsMark(r) }

// next reads one token, comment or stretch of space.
func (l *lexer) next() bool {
	pos, r := Pos{l.line, l.col}, l.peek(0)
	switch {
	case r == -1:
		return false
	case unicode.IsSpace(r):
		l.step()
	case r == '-' && l.peek(1) == '-':
		l.take(func(r rune) bool { return r != '\n' })
	case r == '/' && l.peek(1) == '*':
		l.comment(pos)
	case letter(r):
		w := l.take(inner)
		if strings.IndexFunc(w, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0 {
			l.emit(quotedIdent, `"`+w+`"`, pos)
		} else {
			l.emit(word, w, pos)
		}
	case digit(r) || r == '.' && digit(l.peek(1)):
		l.number(pos)
	case r == '\'':
		l.delimited(text, '\'', pos, "text in single quotes is not closed", "close it with '")
	case r == '"':
		l.delimited(quotedIdent, '"', pos, "name in double quotes is not closed", `close it with "`)
	default:
		l.symbol(pos)
	}
	return true
}

func (l *lexer) emit(k kind, s string, pos Pos) { l.out = append(l.out, token{k, s, pos}) }

func (l *lexer) comment(pos Pos) {
	l.step()
	l.step()
	for l.at < len(l.in) {
		if l.step() == '*' && l.peek(0) == '/' {
			l.step()
			return
		}
	}
	l.b.refuse(CodeSyntax, pos, "comment is not closed", "close it with */")
}

func (l *lexer) number(pos Pos) {
	s := l.take(digit)
	if l.peek(0) == '.' {
		l.step()
		s += "." + l.take(digit)
	}
	if tail := l.take(inner); tail != "" {
		l.b.refuse(CodeSyntax, pos, fmt.Sprintf("%q is not a number", clip(s+tail)), "write a plain decimal such as 1000 or 0.25")
	}
	l.emit(number, s, pos)
}

// delimited reads to the closing quote; a doubled quote stands for itself.
func (l *lexer) delimited(k kind, quote rune, pos Pos, text, hint string) {
	start := l.at
	l.step()
	for l.at < len(l.in) {
		if l.step() != quote {
			continue
		}
		if l.peek(0) != quote {
			l.emit(k, string(l.in[start:l.at]), pos)
			return
		}
		l.step()
	}
	l.b.refuse(CodeSyntax, pos, text, hint)
}

const foreign = "，。；：（）＝＜＞！＊、“”‘’《》"

func (l *lexer) symbol(pos Pos) {
	r := l.step()
	s := string(r)
	if next := l.peek(0); next > 0 && next < utf8.RuneSelf {
		switch two := s + string(next); two {
		case "<=", ">=", "<>", "!=", "==", "<<", ">>", "||", "->":
			l.step()
			s = two
		}
	}
	switch {
	case strings.ContainsRune("(),;.*=<>+-/%&|~", r) || s == "!=":
		l.emit(symbol, s, pos)
	case strings.ContainsRune(foreign, r):
		l.b.refuse(CodeSyntax, pos, fmt.Sprintf("%q is a full-width or typographic sign", s), "write the ASCII sign")
	case strings.ContainsRune("?:@$", r):
		l.b.refuse(CodeSyntax, pos, fmt.Sprintf("%q marks a parameter, and plans have none", s), "write the value in the query")
	case strings.ContainsRune("`[]", r):
		l.b.refuse(CodeSyntax, pos, fmt.Sprintf("%q is not a quote of this language", s), `write names in double quotes`)
	default:
		l.b.refuse(CodeSyntax, pos, fmt.Sprintf("%q is not a sign of this language", s), "")
	}
}

// finish takes off one closing semicolon and checks what the parser would overlook.
func (l *lexer) finish() []token {
	var open []Pos
	for i, t := range l.out {
		if t.kind != symbol {
			continue
		}
		switch t.text {
		case ";":
			if i+1 < len(l.out) {
				l.b.refuse(CodeSyntax, l.out[i+1].pos, "there is more after the semicolon", "submit one statement at a time")
				return nil
			}
			l.out = l.out[:i]
		case "(":
			open = append(open, t.pos)
		case ")":
			if len(open) == 0 {
				l.b.refuse(CodeSyntax, t.pos, "closing parenthesis without an opening one", "remove it")
				return nil
			}
			open = open[:len(open)-1]
			if prev := l.out[i-1]; prev.kind == symbol && prev.text == "," {
				l.b.refuse(CodeSyntax, prev.pos, "comma before a closing parenthesis", "remove it")
			}
		}
	}
	for _, pos := range open {
		l.b.refuse(CodeSyntax, pos, "parenthesis is not closed", "close it with )")
	}
	if len(l.out) == 0 {
		l.b.refuse(CodeSyntax, Pos{}, "the query is empty", "write SELECT … FROM …")
	}
	return l.out
}

// wrapRanges puts parentheses around each "[dataset.]name [NOT] BETWEEN literal AND literal". A BETWEEN of another shape is
// left to the allow-list, which refuses it.
func wrapRanges(in []token) []token {
	literal := func(i int) int { // index after an optionally signed literal at i, or 0
		if i < len(in) && in[i].kind == symbol && (in[i].text == "-" || in[i].text == "+") {
			i++
		}
		if i < len(in) && (in[i].kind == number || in[i].kind == text) {
			return i + 1
		}
		return 0
	}
	before, after := map[int]bool{}, map[int]bool{}
	for i, t := range in {
		if !t.is("BETWEEN") {
			continue
		}
		start := i - 1
		if start > 0 && in[start].is("NOT") {
			start--
		}
		if start > 1 && isName(in[start]) && in[start-1].text == "." {
			start -= 2
		}
		if start < 1 || !isName(in[start]) || in[start-1].text == "." {
			continue
		}
		and := literal(i + 1)
		if and == 0 || and >= len(in) || !in[and].is("AND") {
			continue
		}
		if end := literal(and + 1); end > 0 {
			before[start], after[end-1] = true, true
		}
	}
	var out []token
	for i, t := range in {
		if before[i] {
			out = append(out, token{symbol, "(", t.pos})
		}
		out = append(out, t)
		if after[i] {
			out = append(out, token{symbol, ")", t.pos})
		}
	}
	return out
}

func isName(t token) bool { return t.kind == word || t.kind == quotedIdent }

func render(tokens []token) *source {
	s := &source{tokens: tokens}
	for i, t := range tokens {
		if i > 0 {
			s.text, s.places = append(s.text, ' '), append(s.places, t.pos)
		}
		for _, r := range t.text {
			s.text, s.places = append(s.text, r), append(s.places, t.pos)
		}
	}
	return s
}

// clip keeps messages short whatever the query holds.
func clip(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}
