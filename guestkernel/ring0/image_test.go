package ring0

import (
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// TestStubs decodes what the assembler made: nothing but the slot is addressed, the marks are instructions, and relocation
// moves every slot address and nothing else.
func TestStubs(t *testing.T) {
	for _, e := range []Entry{EntryCPL0, EntryCPL3} {
		s, err := NewStub(e)
		if err != nil {
			t.Fatal(err)
		}
		const vcpu = 77
		moved := s.For(vcpu)
		marks := map[uint64]x86asm.Op{s.Saved: x86asm.RDFSBASE, s.Out: x86asm.OUT, s.Resume: x86asm.MOV, s.End - 2: x86asm.UD2}
		loads := 0
		for at := uint64(0); at < s.End; {
			a, err := x86asm.Decode(s.code[at:], 64)
			b, err2 := x86asm.Decode(moved[at:], 64)
			if at+5 <= s.End && string(s.code[at:at+3]) == "\xF3\x48\x0F" { // x86asm does not know the FS/GS base instructions
				a, b, err, err2 = x86asm.Inst{Op: x86asm.RDFSBASE, Len: 5}, x86asm.Inst{Op: x86asm.RDFSBASE, Len: 5}, nil, nil
			}
			if err != nil || err2 != nil || a.Op != b.Op || a.Len != b.Len {
				t.Fatalf("%v stub at %#x: %v (%v), moved %v (%v)", e, at, a, err, b, err2)
			}
			if op, ok := marks[at]; ok {
				if a.Op != op {
					t.Errorf("%v stub at %#x: %v, expected %v", e, at, a, op)
				}
				delete(marks, at)
			}
			for i, arg := range a.Args {
				m, ok := arg.(x86asm.Mem)
				if !ok {
					continue
				}
				loads++
				n := b.Args[i].(x86asm.Mem)
				if off := uint64(int64(int32(m.Disp))) - SlotBase; m.Base != 0 || m.Index != 0 || off >= SlotSize {
					t.Errorf("%v stub at %#x: %v addresses something else than slot 0", e, at, a)
				}
				if n.Disp-m.Disp != vcpu*SlotSize {
					t.Errorf("%v stub at %#x: moved by %#x, expected %#x", e, at, n.Disp-m.Disp, vcpu*SlotSize)
				}
			}
			at += uint64(a.Len)
		}
		if len(marks) > 0 || loads < 40 {
			t.Errorf("%v stub: marks not at an instruction: %v; %d memory operands", e, marks, loads)
		}
	}
}

func TestFaultVector(t *testing.T) {
	for v := range vectors {
		at := Base + faultPage*PageSize + uint64(v)*faultSize
		for _, rip := range []uint64{at, at + 2} {
			if got, ok := FaultVector(rip); !ok || got != v {
				t.Errorf("FaultVector(%#x) = %d, %v; expected %d", rip, got, ok, v)
			}
		}
	}
	for _, rip := range []uint64{0, ProbeEntry, ProbeEntry + 2, LSTAR(0), Base + faultPage*PageSize + 1, ^uint64(0)} {
		if v, ok := FaultVector(rip); ok {
			t.Errorf("FaultVector(%#x) = %d", rip, v)
		}
	}
}

// TestRights: nothing of the core but the CPL 3 stub may be reachable by programs.
func TestRights(t *testing.T) {
	for n := range CorePages {
		for _, e := range []Entry{EntryCPL0, EntryCPL3} {
			r := PageRights(n, e)
			if r.User && n != switchPage && (e == EntryCPL0 || n < codePage) || r.User && r.Write {
				t.Errorf("page %d is open to programs with %v: %+v", n, e, r)
			}
			if r.Write && r.Execute {
				t.Errorf("page %d can be written and executed with %v", n, e)
			}
		}
	}
	if SlotRights(EntryCPL0).User {
		t.Error("slots are open to programs where SYSCALL raises the privilege")
	}
}
