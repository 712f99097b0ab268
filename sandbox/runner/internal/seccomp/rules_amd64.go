package seccomp

import "golang.org/x/sys/unix"

const (
	auditArch    = unix.AUDIT_ARCH_X86_64
	dockerArch   = "SCMP_ARCH_X86_64"
	foreignCalls = 0x40000000 // numbers from here on are of the x32 interface, which has this architecture's name too
)

func machineRules() []rule {
	return []rule{{"newfstatat", unix.SYS_NEWFSTATAT, nil}, {"arch_prctl", unix.SYS_ARCH_PRCTL, nil}}
}
