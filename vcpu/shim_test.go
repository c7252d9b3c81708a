package vcpu

import (
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// TestStubAssembly reads the stub's bytes back with a disassembler.
func TestStubAssembly(t *testing.T) {
	const at, lstar, handler = 0xffffffff81400010, 0xffffffff81400040, 0xffffffff81400af0
	stub, err := makeStub(at, lstar, handler)
	if err != nil {
		t.Fatal(err)
	}
	if len(stub) != stubSize {
		t.Fatalf("stub of %d bytes, want %d", len(stub), stubSize)
	}
	want := []string{
		"testb $0x3,0x10(%rsp)",
		"je .+0x21",
		"push %rax",
		"lea 0x21(%rip),%rax",
		"cmp %rax,0x10(%rsp)",
		"pop %rax",
		"jne .+0x11",
		"and $-0x27001,%r11",
		"mov 0x20(%rsp),%rsp",
		"jmpq .+0x8",
		"jmpq .+0xab3",
	}
	var got []string
	for code := stub; len(code) > 0; {
		i, err := x86asm.Decode(code, 64)
		if err != nil {
			t.Fatalf("% x: %v", code, err)
		}
		got = append(got, x86asm.GNUSyntax(i, 0, nil))
		code = code[i.Len:]
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("stub:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := makeStub(at, lstar, 0x7f0000000000); err == nil {
		t.Error("a handler 128 TiB away was accepted")
	}
}

func TestGateOffset(t *testing.T) {
	g := make([]byte, 16)
	const want = 0xffffffff_81400af0
	setGateOffset(g, want)
	if got := gateOffset(g); got != want {
		t.Errorf("gate offset %#x, want %#x", got, uint64(want))
	}
	if g[2] != 0 || g[3] != 0 || g[4] != 0 || g[5] != 0 {
		t.Errorf("selector or type changed: % x", g)
	}
}
