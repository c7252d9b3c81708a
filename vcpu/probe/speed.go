package probe

import (
	"fmt"
	"math"
	"time"

	"github.com/qenex/qenex-kernel/kvm"
)

const (
	// sampleTime is how long one timed sample should take: loops grow until they do, series
	// of exits stop when they have. The best of samples counts.
	sampleTime = 5 * time.Millisecond
	samples    = 3
	// maxIterations keeps a loop below its time limit on any CPU.
	maxIterations = 1 << 26
)

// loopNS returns what one iteration of dec; jnz costs at a level.
func (m *machine) loopNS(level ring) (float64, error) {
	for n := uint64(1000); ; n *= 8 {
		took, err := m.timeLoop(level, n)
		if err != nil {
			return 0, err
		}
		if took < sampleTime && n < maxIterations {
			continue
		}
		for range samples - 1 {
			again, err := m.timeLoop(level, n)
			if err != nil {
				return 0, err
			}
			took = min(took, again)
		}
		return perStep(took, n), nil
	}
}

// exitNS returns what one exit to user space and the re-entry cost. The code must exit for the reason
// endlessly.
func (m *machine) exitNS(level ring, reason uint32, code ...byte) (float64, error) {
	if err := m.start(level, kvm.Regs{RDI: mmioGPA}, code...); err != nil {
		return 0, err
	}
	best := math.Inf(1)
	for range samples {
		begin := time.Now()
		var n uint64
		for ; time.Since(begin) < sampleTime; n++ {
			end, err := m.run()
			if err != nil {
				return 0, err
			}
			if end.reason != reason || end.port == exceptionPort {
				return 0, fmt.Errorf("time exits at CPL %d: %v", level, end)
			}
		}
		best = min(best, perStep(time.Since(begin), n))
	}
	return best, nil
}

// syscallNS returns what SYSCALL at CPL 3, its target's first instructions and the way back to CPL 3 cost
// without any exit. Where SYSCALL arrives at CPL 3, a jump is the way back.
func (m *machine) syscallNS(entry SyscallEntry) (float64, error) {
	back := []byte{0x48, 0x0F, 0x07} // sysretq
	switch entry {
	case ArrivesAtCPL3:
		back = []byte{0xFF, 0xE1} // jmp rcx
	case Undecided:
		return 0, nil
	}
	const n = 2000
	best := time.Duration(1<<63 - 1)
	copy(m.mem[entryGPA:], back)
	for range samples {
		err := m.start(ring3, kvm.Regs{RBX: n},
			0xE6, reportPort, // out: the guest is warm
			0x0F, 0x05, // syscall
			0x48, 0xFF, 0xCB, // dec rbx
			0x75, 0xF9, // jnz
			0xE6, reportPort)
		if err != nil {
			return 0, err
		}
		if _, err := m.runTo(patience); err != nil {
			return 0, err
		}
		begin := time.Now()
		if _, err := m.runTo(patience); err != nil {
			return 0, fmt.Errorf("time SYSCALL: %w", err)
		}
		best = min(best, time.Since(begin))
	}
	return perStep(best, n), nil
}

// createNS times making a VM with one vCPU and closing both.
func createNS(sys *kvm.System) (float64, error) {
	best := time.Duration(1<<63 - 1)
	for range samples {
		begin := time.Now()
		vm, err := sys.CreateVM()
		if err != nil {
			return 0, err
		}
		cpu, err := vm.CreateVCPU(0)
		if err != nil {
			vm.Close()
			return 0, err
		}
		cpu.Close()
		vm.Close()
		best = min(best, time.Since(begin))
	}
	return perStep(best, 1), nil
}

func perStep(d time.Duration, n uint64) float64 { return float64(d.Nanoseconds()) / float64(n) }
