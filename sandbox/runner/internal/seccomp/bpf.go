package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h). Both machines that are supported are little-endian.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

const (
	allow  = unix.SECCOMP_RET_ALLOW
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
)

// Filter is the program for the calling process, which is allowed one thing more: to execute the program that is open
// as file descriptor program, by execveat(2) with an empty path. No path is ever executed. links allows connecting to
// Unix sockets.
func Filter(pid, program int, links bool) []unix.SockFilter {
	list := rules(pid)
	if links {
		list = append(list, linkRules()...)
	}
	list = append(list, rule{"execveat", unix.SYS_EXECVEAT, []check{{0, all, uint64(program)}, {4, all, unix.AT_EMPTY_PATH}}})
	return assemble(list)
}

// assemble makes a chain of blocks, one for each rule. A block is entered with the call's number in the accumulator and
// left either with that still true or for good, by an answer.
func assemble(list []rule) []unix.SockFilter {
	p := []unix.SockFilter{
		load(offArch), jump(unix.BPF_JEQ, auditArch, 1, 0), answer(refuse),
		load(offNumber), jump(unix.BPF_JGE, foreignCalls, 0, 1), answer(refuse),
	}
	for _, r := range list {
		var block []unix.SockFilter
		for _, c := range r.checks {
			for half := range 2 {
				mask, value := uint32(c.mask>>(32*half)), uint32(c.value>>(32*half))
				if mask == 0 {
					continue
				}
				block = append(block, load(offArgs+8*uint32(c.arg)+4*uint32(half)),
					unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask},
					jump(unix.BPF_JEQ, value, 1, 0), answer(refuse))
			}
		}
		block = append(block, answer(allow))
		p = append(p, jump(unix.BPF_JEQ, r.number, 0, uint8(len(block)))) // a block has at most 17 instructions
		p = append(p, block...)
	}
	return append(p, answer(refuse))
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

func answer(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
}

// Load puts the calling thread under the filter; it needs no_new_privs. Threads made from now on and a program executed
// by this thread inherit it, the process's other threads do not.
func Load(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("loading a seccomp filter: %w", errno)
	}
	return nil
}
