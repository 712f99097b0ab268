package seccomp

import "golang.org/x/sys/unix"

const (
	auditArch    = unix.AUDIT_ARCH_AARCH64
	dockerArch   = "SCMP_ARCH_AARCH64"
	foreignCalls = 0x40000000 // no such calls exist
)

func machineRules() []rule { return []rule{{"newfstatat", unix.SYS_FSTATAT, nil}} }
