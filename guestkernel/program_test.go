package guestkernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/qenex/qenex-kernel/guestkernel/internal/tinyprog"
	"github.com/qenex/qenex-kernel/guestkernel/ring0"
)

// TestRegisters lets a program compare its registers around many system calls, most of them without an exit.
func TestRegisters(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, c := program(t, m, tinyprog.Code(tinyprog.Registers)...)
		r := ring0.Regs{RIP: TinyCode, RSP: TinyStack, FSBase: 0x7000_1234_5000, GSBase: 0xFFFF_8000_0000_1000}
		fs, gs := r.FSBase, r.GSBase
		for n := range 5000 {
			trap := c.Run(p.space, &r)
			if trap.Kind != Syscall || r.RAX != TinyClock {
				t.Fatalf("call %d: %+v, rax %d, rdi %d", n, trap, r.RAX, r.RDI)
			}
			if r.RIP != r.RCX || r.RFLAGS != r.R11 || r.RFLAGS&1 == 0 {
				t.Fatalf("call %d: rip %#x, rcx %#x, rflags %#x, r11 %#x", n, r.RIP, r.RCX, r.RFLAGS, r.R11)
			}
			if r.FSBase != fs || r.GSBase != gs {
				t.Fatalf("call %d: FS base %#x, GS base %#x", n, r.FSBase, r.GSBase)
			}
			switch n % 100 {
			case 30: // as after a change by the host
				c.SetFP(nil)
			case 60:
				c.Sleep()
			case 90:
				fs += 0x1000
				r.FSBase = fs
			}
			r.RAX = uint64(n)
		}
	})
}

// tcg says whether the CPU is QEMU's TCG, under the svm lane: it gives INT n that is refused another error code and address, and knows no
// alignment checks and no ICEBP.
func tcg() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(info, []byte("QEMU TCG"))
}

// TestExceptions: each instruction that a program must not, or does not usefully, execute ends in the exception that the architecture
// has for it, reported at that instruction.
func TestExceptions(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		read := func(addr uint64) []byte { // mov rax, addr; mov al, [rax]
			return append(append([]byte{0x48, 0xB8}, binary.LittleEndian.AppendUint64(nil, addr)...), 0x8A, 0x00)
		}
		write := func(addr uint64) []byte {
			return append(append([]byte{0x48, 0xB8}, binary.LittleEndian.AppendUint64(nil, addr)...), 0x88, 0x00)
		}
		jump := func(addr uint64) []byte {
			return append(append([]byte{0x48, 0xB8}, binary.LittleEndian.AppendUint64(nil, addr)...), 0xFF, 0xE0)
		}
		tcg := tcg()
		const behind = 1 << 63 // the exception is a trap: RIP is behind the instruction
		for name, test := range map[string]struct {
			code   []byte
			vector uint8
			error  uint32
			at     uint64 // offset of the instruction in code; or an address above it all
			addr   uint64
		}{
			"ud2":               {code: []byte{0x0F, 0x0B}, vector: VectorUD},
			"hlt":               {code: []byte{0xF4}, vector: VectorGP},
			"cli":               {code: []byte{0xFA}, vector: VectorGP},
			"sti":               {code: []byte{0xFB}, vector: VectorGP},
			"out other port":    {code: []byte{0xE6, 0x80}, vector: VectorGP},
			"out our port":      {code: []byte{0xE6, ring0.Port}, vector: VectorGP},
			"out our port, dx":  {code: []byte{0x66, 0xBA, ring0.Port, 0, 0xEE}, vector: VectorGP, at: 4},
			"in our port":       {code: []byte{0xE4, ring0.Port}, vector: VectorGP},
			"in other port":     {code: []byte{0xE4, 0x60}, vector: VectorGP},
			"div by zero":       {code: []byte{0x31, 0xC9, 0xF7, 0xF1}, vector: VectorDE, at: 2},
			"int3":              {code: []byte{0xCC}, vector: VectorBP, at: behind | 1},
			"int 0x80":          {code: []byte{0xCD, 0x80}, vector: VectorGP, error: 0x80<<3 | 2},
			"int 14":            {code: []byte{0xCD, 14}, vector: VectorGP, error: 14<<3 | 2},
			"int 3, long":       {code: []byte{0xCD, 3}, vector: VectorBP, at: behind | 2},
			"int 2":             {code: []byte{0xCD, 2}, vector: VectorGP, error: 2<<3 | 2},
			"mov cr3":           {code: []byte{0x0F, 0x20, 0xD8}, vector: VectorGP},
			"wrmsr":             {code: []byte{0x0F, 0x30}, vector: VectorGP},
			"rdmsr":             {code: []byte{0x0F, 0x32}, vector: VectorGP},
			"swapgs":            {code: []byte{0x0F, 0x01, 0xF8}, vector: VectorGP},
			"lgdt":              {code: []byte{0x0F, 0x01, 0x10}, vector: VectorGP},
			"invd":              {code: []byte{0x0F, 0x08}, vector: VectorGP},
			"sysret":            {code: []byte{0x48, 0x0F, 0x07}, vector: VectorGP},
			"read nothing":      {code: read(0x10), vector: VectorPF, error: FaultUser, at: 10, addr: 0x10},
			"write nothing":     {code: write(0x7FFF_FFFF_E000), vector: VectorPF, error: FaultUser | FaultWrite, at: 10, addr: 0x7FFF_FFFF_E000},
			"read the core":     {code: read(ring0.GDTBase), vector: VectorPF, error: FaultUser, at: 10, addr: ring0.GDTBase},
			"write the core":    {code: write(ring0.IDTBase), vector: VectorPF, error: FaultUser | FaultWrite, at: 10, addr: ring0.IDTBase},
			"jump into a fault": {code: jump(ring0.ProbeEntry), vector: VectorPF, error: FaultUser | FaultExecute, at: behind, addr: ring0.ProbeEntry},
			"write the stub":    {code: write(ring0.LSTAR(0)), vector: VectorPF, error: FaultUser | FaultWrite, at: 10, addr: ring0.LSTAR(0)},
			"write the switch":  {code: write(ring0.SwitchEntry), vector: VectorPF, error: FaultUser | FaultWrite, at: 10, addr: ring0.SwitchEntry},
			"read the kernel":   {code: read(0xFFFF_8000_0000_0000), vector: VectorPF, error: FaultUser, at: 10, addr: 0xFFFF_8000_0000_0000},
			"non-canonical":     {code: read(0x8000_0000_0000), vector: VectorGP, at: 10},
			"jump nowhere":      {code: jump(0x5000), vector: VectorPF, error: FaultUser | FaultExecute, at: behind, addr: 0x5000},
			"write read-only":   {code: write(0x600000), vector: VectorPF, error: FaultUser | FaultPresent | FaultWrite, at: 10, addr: 0x600000},
			"execute data":      {code: jump(0x600000), vector: VectorPF, error: FaultUser | FaultPresent | FaultExecute, at: behind, addr: 0x600000},
			"monitor":           {code: []byte{0x31, 0xC9, 0x31, 0xD2, 0x48, 0x89, 0xE0, 0x0F, 0x01, 0xC8}, vector: VectorUD, at: 7},
			"trap flag":         {code: []byte{0x9C, 0x81, 0x0C, 0x24, 0, 1, 0, 0, 0x9D, 0x90, 0x90}, vector: VectorDB, error: FaultStep, at: behind | 10},
			"icebp":             {code: []byte{0xF1}, vector: VectorDB, at: behind | 1},
			"alignment check": {code: []byte{0x9C, 0x81, 0x0C, 0x24, 0, 0, 4, 0, 0x9D, 0x48, 0xB8, 1, 0x10, 0x40, 0, 0, 0, 0, 0, 0x48, 0x8B, 0x00},
				vector: VectorAC, at: 19},
		} {
			t.Run(name, func(t *testing.T) {
				if tcg && (test.vector == VectorAC || name == "icebp") {
					t.Skip("NOT TESTED: this CPU makes no alignment checks, and ICEBP an illegal instruction")
				}
				p, c := program(t, m, test.code...)
				if err := p.space.Map(0x600000, Backing{Key: p, FD: p.fd}, 0, 4096, Rights{}, false); err != nil {
					t.Fatal(err)
				}
				_, err := p.Run(c, &ring0.Regs{})
				var fault *FaultError
				if !errors.As(err, &fault) {
					t.Fatalf("ended with %v", err)
				}
				want := TinyCode + test.at
				switch {
				case test.at == behind:
					want = test.addr
				case test.at&behind != 0:
					want = TinyCode + test.at&^uint64(behind)
				}
				code := fault.Trap.Code
				if n := test.code[len(test.code)-1]; tcg && test.code[0] == 0xCD && code == uint32(n)<<4|2 && fault.RIP-want <= 2 {
					code, want = test.error, fault.RIP
				}
				if fault.Trap.Vector != test.vector || code != test.error || fault.Trap.Addr != test.addr || fault.RIP != want {
					t.Errorf("%v; expected exception %d at %#x, error code %#x, address %#x", err, test.vector, want, test.error, test.addr)
				}
			})
		}
	})
}

// TestRemap changes mappings under a program and looks whether it ever sees an old page, or a page that is gone.
func TestRemap(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, c := program(t, m, tinyprog.Code(tinyprog.Touch)...)
		const pages, at = 64, 0x10000000
		fd, err := unix.MemfdCreate("pages", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Ftruncate(fd, pages*4096); err != nil {
			t.Fatal(err)
		}
		content := make([]byte, pages)
		for i := range content {
			content[i] = byte(i * 3)
			if _, err := unix.Pwrite(fd, content[i:i+1], int64(i)*4096); err != nil {
				t.Fatal(err)
			}
		}
		rng := rand.New(rand.NewPCG(3, 4))
		shown := map[uint64]int{} // by address: the page of the file
		writable := map[uint64]bool{}
		for range 400 {
			addr := at + rng.Uint64N(16)*4096
			switch page := rng.IntN(pages); rng.IntN(4) {
			case 0:
				if err := p.space.Unmap(addr, 4096); err != nil {
					t.Fatal(err)
				}
				delete(shown, addr)
			case 1:
				w := rng.IntN(2) == 0
				if err := p.space.Map(addr, Backing{Key: &content, FD: fd, Large: false}, uint64(page)*4096, 4096, Rights{Write: w}, false); err != nil {
					t.Fatal(err)
				}
				shown[addr], writable[addr] = page, w
			default:
				exit, err := p.Run(c, &ring0.Regs{RDI: addr, RSI: 1})
				page, ok := shown[addr]
				var fault *FaultError
				switch {
				case !ok:
					if !errors.As(err, &fault) || fault.Trap.Addr != addr || fault.Trap.Code != FaultUser {
						t.Fatalf("a page that is gone: exit %d, %v", exit, err)
					}
				case !writable[addr]:
					if !errors.As(err, &fault) || fault.Trap.Addr != addr || fault.Trap.Code != FaultUser|FaultPresent|FaultWrite {
						t.Fatalf("a read-only page: exit %d, %v", exit, err)
					}
				case err != nil:
					t.Fatal(err)
				case exit != uint64(content[page]):
					t.Fatalf("the program reads %d on page %d, which holds %d", exit, page, content[page])
				default:
					content[page]++
				}
			}
		}
		if m.Stats().Flushes == 0 {
			t.Error("nothing was flushed")
		}
	})
}

// TestSpacesReused makes so many address spaces that page tables are used again, and looks whether a program sees another's memory.
func TestSpacesReused(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		for n := range arenaStep/chunkSize + 200 {
			p, err := m.NewTiny(tinyprog.Code(tinyprog.Touch))
			if err != nil {
				t.Fatal(err)
			}
			c := m.NewContext()
			p.mem[0x2000] = byte(n)
			exit, err := p.Run(c, &ring0.Regs{RDI: TinyCode + 0x2000, RSI: 1})
			if err != nil || exit != uint64(byte(n)) || p.mem[0x2000] != byte(n+1) {
				t.Fatalf("program %d: exit %d, %v, then %d", n, exit, err, p.mem[0x2000])
			}
			if _, err := p.Run(c, &ring0.Regs{RDI: 0x10000000, RSI: 1}); err == nil {
				t.Fatalf("program %d sees what it has not mapped", n)
			}
			if err := closeAll(c, p); err != nil {
				t.Fatal(err)
			}
		}
		if m.Stats().FullFlushes == 0 {
			t.Error("page tables were not used again")
		}
	})
}

// TestManyContexts runs more contexts at once than there are CPUs, each with vector state of its own.
func TestManyContexts(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, err := m.NewTiny(tinyprog.Code(tinyprog.Spin))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range 40 {
			wg.Go(func() {
				c := m.NewContext()
				r := ring0.Regs{RIP: TinyCode, RSP: TinyStack - uint64(n)*4096, RDI: 0x0101010101010101 * uint64(n+1), RSI: m.xcr0 & 0xE0}
				for calls := 0; calls < 20; {
					switch trap := c.Run(p.space, &r); {
					case trap.Kind == Syscall && r.RAX == TinyClock:
						calls++
						if calls%5 == 0 {
							c.Sleep()
						}
					case trap.Kind == Interrupted:
					default:
						t.Errorf("context %d: %+v, rax %d", n, trap, r.RAX)
						calls = 20
					}
				}
				var fp [832]byte
				if err := c.FP(fp[:]); err != nil {
					t.Error(err)
				}
				if got := binary.LittleEndian.Uint64(fp[160+16*7:]); got != r.RDI {
					t.Errorf("context %d: XMM7 holds %#x in the saved state, expected %#x", n, got, r.RDI)
				}
				c.Release()
			})
		}
		wg.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestVectorsAcrossFaults lets contexts fault in the middle of vector code, with the host mapping the page then, and other contexts on
// their vCPUs meanwhile.
func TestVectorsAcrossFaults(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, err := m.NewTiny(tinyprog.Code(tinyprog.Fill))
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(*stress)
		var wg sync.WaitGroup
		for n := range uint64(8) {
			wg.Go(func() {
				c := m.NewContext()
				page := 0x10000000 + n*4096
				r := ring0.Regs{RIP: TinyCode, RSP: TinyStack - n*4096, RDI: page, RSI: 0x0101010101010101 * (n + 1)}
				for calls := 0; time.Now().Before(deadline); {
					switch trap := c.Run(p.space, &r); {
					case trap.Kind == Exception && trap.Vector == VectorPF && trap.Addr == page:
						if err := p.space.Map(page, Backing{Key: p, FD: p.fd}, 0x40000+n*4096, 4096, Rights{Write: true}, false); err != nil {
							t.Error(err)
						}
					case trap.Kind == Syscall && r.RAX == TinyClock:
						if err := p.space.Unmap(page, 4096); err != nil {
							t.Error(err)
						}
						if calls++; calls%3 == 0 {
							c.Sleep()
						}
					default:
						t.Errorf("context %d: %+v, rax %d after %d calls", n, trap, r.RAX, calls)
						return
					}
				}
				c.Release()
			})
		}
		wg.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOldVCPU moves a context to and fro between vCPUs that all still hold it, stopped in the stub: only the last one's registers count.
func TestOldVCPU(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, c := program(t, m, tinyprog.Code(tinyprog.Tally)...)
		r := ring0.Regs{RIP: TinyCode, RSP: TinyStack}
		turns := make([]chan struct{}, 3)
		for i := range turns {
			turns[i] = make(chan struct{})
		}
		var wg sync.WaitGroup
		for i, turn := range turns {
			wg.Go(func() { // each has a thread, and with it a direct vCPU
				runtime.LockOSThread()
				next := turns[(i+1)%len(turns)]
				defer close(next)
				for range 100 {
					if _, ok := <-turn; !ok {
						return
					}
					for range i + 1 {
						if trap := c.Run(p.space, &r); trap.Kind != Syscall || r.RAX != TinyClock {
							t.Errorf("%+v, rax %d, %d calls", trap, r.RAX, r.RBX)
							return
						}
					}
					c.Sleep()
					next <- struct{}{}
				}
				<-turn
			})
		}
		turns[0] <- struct{}{}
		wg.Wait()
	})
}

// TestInterrupt: a program that never traps can be interrupted, again and again, and goes on where it was.
func TestInterrupt(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, c := program(t, m, 0x48, 0xFF, 0xC3, 0xEB, 0xFB) // inc rbx; jmp
		r := ring0.Regs{RIP: TinyCode, RSP: TinyStack}
		for n := range 50 {
			before := r.RBX
			timer := time.AfterFunc(time.Duration(n)*100*time.Microsecond, c.Interrupt)
			trap := c.Run(p.space, &r)
			timer.Stop()
			if trap.Kind != Interrupted {
				t.Fatalf("interruption %d: %+v", n, trap)
			}
			if r.RIP-TinyCode > 4 || r.RBX < before {
				t.Fatalf("interruption %d: rip %#x, rbx %d, before %d", n, r.RIP, r.RBX, before)
			}
		}
		if r.RBX == 0 {
			t.Error("the program never ran")
		}
		c.Interrupt() // before Run: the first returns at once
		if trap := c.Run(p.space, &r); trap.Kind != Interrupted {
			t.Errorf("%+v", trap)
		}
	})
}

// TestInterruptedCalls interrupts a program that makes system calls without pause: whatever the stub was doing, no call is lost, made
// twice, or has the wrong registers.
func TestInterruptedCalls(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, c := program(t, m, tinyprog.Code(tinyprog.Registers)...)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.Interrupt()
					time.Sleep(20 * time.Microsecond)
				}
			}
		})
		r := ring0.Regs{RIP: TinyCode, RSP: TinyStack}
		interruptions := 0
		for calls := 0; calls < 3000; {
			switch trap := c.Run(p.space, &r); {
			case trap.Kind == Interrupted:
				interruptions++
			case trap.Kind == Syscall && r.RAX == TinyClock:
				calls++
			default:
				t.Errorf("call %d: %+v, rax %d, rip %#x", calls, trap, r.RAX, r.RIP)
				calls = 3000
			}
		}
		close(stop)
		wg.Wait()
		if interruptions == 0 {
			t.Error("no interruption was seen")
		}
	})
}

// TestInterruptedFaults interrupts a program that faults all the time: no fault is reported with another's address, or comes from the interruption.
func TestInterruptedFaults(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, c := program(t, m, tinyprog.Code(tinyprog.Fill)...)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.Interrupt()
					time.Sleep(20 * time.Microsecond)
				}
			}
		})
		const page = 0x10000000
		r := ring0.Regs{RIP: TinyCode, RSP: TinyStack, RDI: page, RSI: 0x0101010101010101}
		deadline := time.Now().Add(*stress)
		for calls := 0; time.Now().Before(deadline); {
			trap := c.Run(p.space, &r)
			switch {
			case trap.Kind == Interrupted:
			case trap.Kind == Syscall && r.RAX == TinyClock:
				calls++
				if err := p.space.Unmap(page, 4096); err != nil {
					t.Error(err)
				}
			case trap.Kind == Exception && trap.Vector == VectorPF && trap.Addr == page:
				if err := p.space.Map(page, Backing{Key: p, FD: p.fd}, 0x40000, 4096, Rights{Write: true}, false); err != nil {
					t.Error(err)
				}
			default:
				t.Errorf("call %d: %+v, rax %d, rip %#x", calls, trap, r.RAX, r.RIP)
				deadline = time.Time{}
			}
		}
		close(stop)
		wg.Wait()
	})
}

// TestForgedSlots lets one thread of a program write to all slots that it can reach while another makes system calls. Whatever that one's registers become,
// both can be interrupted and taken off their vCPUs.
func TestForgedSlots(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		p, err := m.NewTiny(append(tinyprog.Code(tinyprog.Clock), tinyprog.Code(tinyprog.Scribble)...))
		if err != nil {
			t.Fatal(err)
		}
		scribble := uint64(TinyCode + len(tinyprog.Code(tinyprog.Clock)))
		contexts := []*Context{m.NewContext(), m.NewContext()}
		starts := []ring0.Regs{
			{RIP: TinyCode, RSP: TinyStack, RDI: 1 << 40},
			{RIP: scribble, RSP: TinyStack - 4096, RDI: ring0.SlotBase, RSI: 4096 / 4},
		}
		deadline := time.Now().Add(300 * time.Millisecond)
		var wg sync.WaitGroup
		for i, c := range contexts {
			wg.Go(func() {
				r := starts[i]
				for time.Now().Before(deadline) {
					timer := time.AfterFunc(5*time.Millisecond, c.Interrupt)
					trap := c.Run(p.space, &r)
					timer.Stop()
					switch trap.Kind {
					case Syscall, Interrupted:
					case Exception: // its registers were overwritten: start again
						r = starts[i]
						c.SetFP(nil)
					default:
						t.Errorf("context %d: %+v", i, trap)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, c := range contexts {
			c.Release()
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSwitch hands the CPU between two contexts through the core's switch.
func TestSwitch(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		const switches = 100000
		p, c := program(t, m, tinyprog.Code(tinyprog.Switch)...)
		h, err := runSwitches(p, c, switches)
		if err != nil {
			t.Fatal(err)
		}
		if h.total != switches {
			t.Errorf("%d switches in the histogram, expected %d", h.total, switches)
		}
		if s := m.Stats(); s.Exits > switches/100 {
			t.Errorf("%d exits for %d switches", s.Exits, switches)
		}
	})
}

// TestTablesExhausted: page tables for too many address spaces are an error, and what there is works on.
func TestTablesExhausted(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		var spaces []*AddressSpace
		for range arenaSize/chunkSize + 1 {
			as, err := m.NewAddressSpace()
			if err != nil {
				if !errors.Is(err, ErrTables) {
					t.Error(err)
				}
				break
			}
			spaces = append(spaces, as)
		}
		if n := len(spaces); n < 8000 || n > arenaSize/chunkSize {
			t.Errorf("%d address spaces", n)
		}
		for _, as := range spaces {
			if err := as.Release(); err != nil {
				t.Error(err)
			}
		}
		p, c := program(t, m, tinyprog.Code(tinyprog.Hello)...)
		if exit, err := p.Run(c, &ring0.Regs{}); err != nil || exit != 6 {
			t.Errorf("a program after that: exit %d, %v", exit, err)
		}
	})
}

// TestSoftwareInterrupts: of all INT n, programs may use 3 and 4 only.
func TestSoftwareInterrupts(t *testing.T) {
	modes(t, func(t *testing.T, m *Machine) {
		for n := range 256 {
			if n == 26 && m.entry == ring0.EntryCPL3 {
				continue // nothing to that software KVM
			}
			p, c := program(t, m, 0xCD, byte(n), 0x0F, 0x0B)
			_, err := p.Run(c, &ring0.Regs{})
			var fault *FaultError
			if !errors.As(err, &fault) {
				t.Errorf("int %d: %v", n, err)
				continue
			}
			want := FaultError{Trap: Trap{Kind: Exception, Vector: VectorGP, Code: uint32(n)<<3 | 2}, RIP: TinyCode}
			if n == VectorBP || n == VectorOF {
				want = FaultError{Trap: Trap{Kind: Exception, Vector: uint8(n)}, RIP: TinyCode + 2}
			}
			if tcg() && fault.Trap.Code == uint32(n)<<4|2 { // see TestExceptions
				*fault = want
			}
			if *fault != want {
				t.Errorf("int %d: %v; expected %v", n, err, &want)
			}
		}
	})
}
