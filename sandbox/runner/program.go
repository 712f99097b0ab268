package runner

import (
	"debug/elf"
	"fmt"
	"io"
)

// MaxProgram bounds a worker program's size, in bytes; it is kept in memory.
const MaxProgram = 256 << 20

// CheckProgram returns the GOARCH of a static Linux program. Others are refused with ErrInvalid: a sandbox has no loader
// and no libraries.
func CheckProgram(r io.ReaderAt) (arch string, err error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return "", fmt.Errorf("%w: not a Linux program: %w", ErrInvalid, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%w: not a static program: build it with CGO_ENABLED=0", ErrInvalid)
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("%w: a program for %v: amd64 and arm64 are supported", ErrInvalid, f.Machine)
}
