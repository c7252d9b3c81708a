package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/kvm"
)

// trial is one instruction to try at CPL 0. It runs with RDI pointing to 2 KiB of zeroed, aligned data of
// which the first four bytes are the reset value of MXCSR, and HLT follows it.
type trial struct {
	name   string
	flag   string // the CPU has it when /proc/cpuinfo shows this; empty: always
	code   []byte
	regs   kvm.Regs
	rax    uint64 // what the low half of RAX must be after it; only looked at when checks is set
	checks bool
	vector byte // the exception or interrupt that it must raise; 0: none
}

const mxcsrReset = 0x1F80

// trials: instructions that kernels use, in groups of what uses them.
var trials = []trial{
	// Atomics and bit counts.
	{name: "cmpxchg16b", flag: "cx16", code: []byte{0x48, 0x0F, 0xC7, 0x0F}, regs: kvm.Regs{RAX: mxcsrReset, RBX: 7}, rax: mxcsrReset, checks: true},
	{name: "popcnt", flag: "popcnt", code: []byte{0xF3, 0x0F, 0xB8, 0xC1}, regs: kvm.Regs{RCX: 0xFF}, rax: 8, checks: true},
	{name: "lzcnt", flag: "abm", code: []byte{0xF3, 0x0F, 0xBD, 0xC1}, regs: kvm.Regs{RCX: 1}, rax: 31, checks: true},
	{name: "tzcnt", flag: "bmi1", code: []byte{0xF3, 0x0F, 0xBC, 0xC1}, regs: kvm.Regs{RAX: 5}, rax: 32, checks: true},
	{name: "andn", flag: "bmi1", code: []byte{0xC4, 0xE2, 0x70, 0xF2, 0xC2}, regs: kvm.Regs{RCX: 0xF0, RDX: 0xFF}, rax: 0x0F, checks: true},
	{name: "crc32", flag: "sse4_2", code: []byte{0xF2, 0x0F, 0x38, 0xF0, 0xC1}},
	{name: "movbe", flag: "movbe", code: []byte{0x0F, 0x38, 0xF0, 0x07}, rax: 0x801F0000, checks: true},
	// Traps and privilege.
	{name: "int3", code: []byte{0xCC}, vector: 3},
	{name: "int n", code: []byte{0xCD, 0x20}, vector: 0x20},
	{name: "clac", flag: "smap", code: []byte{0x0F, 0x01, 0xCA}},
	{name: "stac", flag: "smap", code: []byte{0x0F, 0x01, 0xCB}},
	{name: "swapgs", code: []byte{0x0F, 0x01, 0xF8}},
	{name: "lar", code: []byte{0x0F, 0x02, 0xC1}, regs: kvm.Regs{RCX: kernelCS}, rax: 0x00A09B00, checks: true},
	{name: "verw", code: []byte{0x0F, 0x00, 0xE9}, regs: kvm.Regs{RCX: kernelSS}},
	{name: "rdtscp", flag: "rdtscp", code: []byte{0x0F, 0x01, 0xF9}},
	{name: "rdrand", flag: "rdrand", code: []byte{0x0F, 0xC7, 0xF0}},
	// Floating point and SIMD state.
	{name: "fninit", code: []byte{0xDB, 0xE3}},
	{name: "fnstsw", code: []byte{0xDF, 0xE0}, regs: kvm.Regs{RAX: 0x1234_0000}},
	{name: "fwait", code: []byte{0x9B}},
	{name: "fxsave", code: []byte{0x48, 0x0F, 0xAE, 0x07}},
	{name: "ldmxcsr", code: []byte{0x0F, 0xAE, 0x17}},
	{name: "stmxcsr", code: []byte{0x0F, 0xAE, 0x1F}},
	{name: "xgetbv", flag: "xsave", code: []byte{0x0F, 0x01, 0xD0}},
	{name: "xsave", flag: "xsave", code: []byte{0x48, 0x0F, 0xAE, 0x67, 0x40}, regs: kvm.Regs{RAX: 3}},
	{name: "xrstor", flag: "xsave", code: []byte{0x48, 0x0F, 0xAE, 0x6F, 0x40}, regs: kvm.Regs{RAX: 3}},
	{name: "movq xmm", code: []byte{0x66, 0x48, 0x0F, 0x6E, 0xC0}},
	{name: "pxor", code: []byte{0x66, 0x0F, 0xEF, 0xC0}},
	{name: "movups", code: []byte{0x0F, 0x10, 0x07}},
	{name: "aesenc", flag: "aes", code: []byte{0x66, 0x0F, 0x38, 0xDC, 0xC1}},
}

// trialLimit is how long one instruction may take before it counts as looping.
const trialLimit = 100 * time.Millisecond

// try runs one trial.
func (m *machine) try(tr *trial, cpu map[string]bool) (Instruction, error) {
	result := Instruction{Name: tr.name}
	if tr.flag != "" && !cpu[tr.flag] {
		result.Outcome = Absent
		return result, nil
	}
	data := m.mem[dataGPA : dataGPA+0x800]
	clear(data)
	binary.LittleEndian.PutUint32(data, mxcsrReset)
	regs := tr.regs
	regs.RDI = dataGPA
	if err := m.start(ring0, regs, append(append([]byte(nil), tr.code...), 0xF4)...); err != nil {
		return result, err
	}
	end, err := m.runFor(trialLimit)
	switch {
	case errors.Is(err, errTime):
		result.Outcome = Loops
		return result, nil
	case err != nil:
		return result, fmt.Errorf("try %s: %w", tr.name, err)
	}
	after, err := m.cpu.Regs()
	if err != nil {
		return result, err
	}
	result.Outcome, result.Detail = tr.judge(end, uint32(after.RAX))
	return result, nil
}

// judge says what the end of a trial's run means.
func (tr *trial) judge(end stop, eax uint32) (Outcome, string) {
	exception := end.reason == kvm.ExitIO && end.port == exceptionPort
	switch {
	case end.reason == kvm.ExitInternalError:
		return Fails, ""
	case exception && end.al == tr.vector && tr.vector != 0:
		return Works, ""
	case exception || end.reason == kvm.ExitShutdown:
		return Refused, end.String()
	case end.reason != kvm.ExitHLT:
		return Refused, end.String()
	case tr.vector != 0:
		return Wrong, fmt.Sprintf("did not raise vector %d", tr.vector)
	case tr.checks && eax != uint32(tr.rax):
		return Wrong, fmt.Sprintf("eax is %#x, not %#x", eax, tr.rax)
	}
	return Works, ""
}

// hypercall tries the CPU's own hypercall instruction with a number that no hypercall has.
func (m *machine) hypercall(amd bool) (Instruction, error) {
	tr := trial{name: "vmcall", code: []byte{0x0F, 0x01, 0xC1}, regs: kvm.Regs{RAX: 0xFFFF}}
	if amd {
		tr.name, tr.code = "vmmcall", []byte{0x0F, 0x01, 0xD9}
	}
	return m.try(&tr, nil)
}

// cpuFlags returns the flags that /proc/cpuinfo shows for the first CPU, with its vendor as "vendor:...".
func cpuFlags() (map[string]bool, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	return parseCPUInfo(string(text)), nil
}

func parseCPUInfo(text string) map[string]bool {
	flags := make(map[string]bool)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "vendor_id":
			flags["vendor:"+strings.TrimSpace(value)] = true
		case "flags":
			for _, f := range strings.Fields(value) {
				flags[f] = true
			}
			return flags
		}
	}
	return flags
}
