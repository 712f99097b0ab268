// Package answer makes the smallest program there is, for probes that execute something: it ends with a known code.
package answer

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Code is the program's exit code.
const Code = 42

// Program is a whole static executable file for this machine (elf(5)): a header, one segment, three instructions.
func Program() []byte {
	const base, header = 0x400000, 64 + 56
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	for _, v := range []any{
		uint16(2), machine, uint32(1), uint64(base + header), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), uint64(header + len(code)), uint64(header + len(code)), uint64(0x1000),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // a buffer takes everything
	}
	b.WriteString(code)
	return b.Bytes()
}
