package vcpu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/qenex/qenex-kernel/kvm"
)

// SyscallShim makes an unmodified 64-bit kernel run on a KVM whose SYSCALL arrives at
// LSTAR with CPL still 3. There the first instruction fetch raises #PF (user, fetch, CR2 =
// RIP = LSTAR). The shim points the IDT's #PF gate at a stub, placed in the padding before
// the kernel's entry code, that recognises this fault, drops its frame and goes
// on at LSTAR as SYSCALL should have; any other fault goes to the kernel's own handler.
//
// Programs can jump to LSTAR themselves and so choose R11, from which the kernel
// takes the flags to return with; a real SYSCALL would have put their own flags there. The stub
// therefore clears IOPL, NT and VM in R11: nothing is gained by forging it.
//
// One shim serves all vCPUs of a VM. It is armed by LSTAR writes, which KVM hands to us through an
// MSR filter (see Watch), and only used where a probe found the quirk.
type SyscallShim struct {
	mu        sync.Mutex
	lstar     uint64 // what the guest wrote last; 0 = nothing yet; protected by mu
	installed uint64 // the LSTAR value the stub serves; 0 = none; protected by mu
	stub      uint64 // linear address of the stub; protected by mu
	pending   bool   // armed, but the guest's IDT or entry text was not ready; protected by mu
	err       error  // why the last attempt failed; protected by mu
}

// ShimStatus is what a run report says of the shim.
type ShimStatus struct {
	Installed bool   `json:"installed"`
	LSTAR     uint64 `json:"lstar,omitempty"`
	Stub      uint64 `json:"stub,omitempty"`
	Error     string `json:"error,omitempty"`
}

// Status returns what the shim did so far.
func (s *SyscallShim) Status() ShimStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := ShimStatus{Installed: s.installed != 0, LSTAR: s.installed, Stub: s.stub}
	if s.err != nil {
		st.Error = s.err.Error()
	}
	return st
}

// ShimState is the shim's part of a machine's saved state.
type ShimState struct {
	LSTAR uint64 // what the stub in guest memory serves; 0 = none
	Stub  uint64
}

// Save returns what the shim has put into the guest.
func (s *SyscallShim) Save() ShimState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ShimState{LSTAR: s.installed, Stub: s.stub}
}

// Load makes the shim know what is already in the guest's memory.
func (s *SyscallShim) Load(st ShimState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lstar, s.installed, s.stub, s.pending, s.err = st.LSTAR, st.LSTAR, st.Stub, false, nil
}

// Watch makes vm hand every guest write of LSTAR to the vCPUs' run loops.
func (s *SyscallShim) Watch(vm *kvm.VM) error {
	if err := vm.EnableCap(kvm.CapX86UserSpaceMSR, kvm.MSRExitFilter); err != nil {
		return fmt.Errorf("SYSCALL shim: %w", err)
	}
	// One byte stands for 8 MSRs from STAR on; LSTAR's bit is 0 = denied.
	r := kvm.MSRRange{Flags: kvm.MSRFilterWrite, Base: kvm.MSRSTAR, Bitmap: []byte{0xFF &^ (1 << (kvm.MSRLSTAR - kvm.MSRSTAR))}}
	if err := vm.SetMSRFilter([]kvm.MSRRange{r}); err != nil {
		return fmt.Errorf("SYSCALL shim: %w", err)
	}
	return nil
}

// arm notes a write of LSTAR and installs the stub. On v's thread, outside the guest.
func (s *SyscallShim) arm(v *VCPU, lstar uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lstar == 0 || lstar == s.installed {
		return
	}
	s.lstar = lstar
	s.try(v)
}

// retry installs a stub that could not be installed when LSTAR was written. On v's thread, outside the guest.
func (s *SyscallShim) retry(v *VCPU) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending {
		s.try(v)
	}
}

// try installs the stub. mu must be held.
func (s *SyscallShim) try(v *VCPU) {
	s.stub, s.err = s.install(v)
	s.pending = s.err != nil
	if s.err == nil {
		s.installed = s.lstar
	}
}

// Stub layout. The bytes of stub are the assembly beside them; the displacements are filled in.
const (
	stubSize = 45
	// searchBack is how far before LSTAR padding is looked for: within the entry code's own page
	// and the page before.
	searchBack = 4096
	padByte    = 0xCC // what Linux fills text padding with
	pfVector   = 14
)

// makeStub assembles the stub for address at.
func makeStub(at, lstar, handler uint64) ([]byte, error) {
	rel := func(from, to uint64) ([]byte, error) {
		d := int64(to - from)
		if d != int64(int32(d)) {
			return nil, fmt.Errorf("SYSCALL shim: %#x is too far from the stub at %#x", to, at)
		}
		return binary.LittleEndian.AppendUint32(nil, uint32(d)), nil
	}
	toLSTAR, err := rel(at+15, lstar)
	if err != nil {
		return nil, err
	}
	jumpLSTAR, err := rel(at+40, lstar)
	if err != nil {
		return nil, err
	}
	jumpHandler, err := rel(at+45, handler)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{
		{0xF6, 0x44, 0x24, 0x10, 0x03}, //  0 testb $3, 16(%rsp)      saved CS: from CPL 3?
		{0x74, 0x21},                   //  5 jz 40
		{0x50},                         //  7 push %rax
		{0x48, 0x8D, 0x05}, toLSTAR,    //  8 lea lstar(%rip), %rax
		{0x48, 0x39, 0x44, 0x24, 0x10}, // 15 cmp %rax, 16(%rsp)      saved RIP
		{0x58},                         // 20 pop %rax
		{0x75, 0x11},                   // 21 jne 40
		{0x49, 0x81, 0xE3, 0xFF, 0x8F, 0xFD, 0xFF}, // 23 and $~(VM|NT|IOPL), %r11
		{0x48, 0x8B, 0x64, 0x24, 0x20},             // 30 mov 32(%rsp), %rsp      the program's stack, as after SYSCALL
		{0xE9}, jumpLSTAR,                          // 35 jmp lstar
		{0xE9}, jumpHandler, // 40 jmp the kernel's #PF handler
	}, nil), nil
}

// install writes the stub and the gate and returns the stub's linear address.
func (s *SyscallShim) install(v *VCPU) (uint64, error) {
	sregs, err := v.kvm.Sregs()
	if err != nil {
		return 0, err
	}
	l := &linear{mem: v.cfg.Memory, vcpu: v.kvm, sregs: &sregs}
	gate := make([]byte, 16)
	gateAt := sregs.IDT.Base + pfVector*16
	if sregs.IDT.Limit < pfVector*16+15 {
		return 0, fmt.Errorf("SYSCALL shim: the guest's IDT has no #PF gate (limit %#x)", sregs.IDT.Limit)
	}
	if err := l.Read(gateAt, gate); err != nil {
		return 0, fmt.Errorf("SYSCALL shim: read the guest's #PF gate: %w", err)
	}
	if gate[5]&0x80 == 0 {
		return 0, fmt.Errorf("SYSCALL shim: the guest's #PF gate is not present yet")
	}
	handler := gateOffset(gate)
	if handler == s.stub && s.stub != 0 {
		return 0, fmt.Errorf("SYSCALL shim: LSTAR moved from %#x to %#x after the stub was installed", s.installed, s.lstar)
	}
	back := make([]byte, searchBack)
	if err := l.fetch(s.lstar-searchBack, back); err != nil {
		// The page before may not be mapped; the entry code's own page must be.
		back = make([]byte, s.lstar%searchBack)
		if err := l.fetch(s.lstar-uint64(len(back)), back); err != nil {
			return 0, fmt.Errorf("SYSCALL shim: read the text before LSTAR %#x: %w", s.lstar, err)
		}
	}
	i := bytes.LastIndex(back, bytes.Repeat([]byte{padByte}, stubSize))
	if i < 0 {
		return 0, fmt.Errorf("SYSCALL shim: no %d bytes of padding in the %d bytes before LSTAR %#x", stubSize, len(back), s.lstar)
	}
	at := s.lstar - uint64(len(back)) + uint64(i)
	stub, err := makeStub(at, s.lstar, handler)
	if err != nil {
		return 0, err
	}
	if err := l.poke(at, stub); err != nil {
		return 0, fmt.Errorf("SYSCALL shim: write the stub at %#x: %w", at, err)
	}
	setGateOffset(gate, at)
	if err := l.poke(gateAt, gate); err != nil {
		return 0, fmt.Errorf("SYSCALL shim: write the guest's #PF gate: %w", err)
	}
	return at, nil
}

// poke writes to memory that the guest maps read-only: text and the IDT.
func (l *linear) poke(va uint64, p []byte) error { return l.each(va, p, 0, l.mem.Write) }

// gateOffset reads the handler's address from a 64-bit IDT gate (SDM vol. 3, 6.14.1).
func gateOffset(g []byte) uint64 {
	le := binary.LittleEndian
	return uint64(le.Uint16(g)) | uint64(le.Uint16(g[6:]))<<16 | uint64(le.Uint32(g[8:]))<<32
}

func setGateOffset(g []byte, offset uint64) {
	le := binary.LittleEndian
	le.PutUint16(g, uint16(offset))
	le.PutUint16(g[6:], uint16(offset>>16))
	le.PutUint32(g[8:], uint32(offset>>32))
}
