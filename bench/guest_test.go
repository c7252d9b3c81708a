package bench

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/bobuhiro11/gokvm/pvh"
	"golang.org/x/arch/x86/x86asm"
)

func TestGuestCode(t *testing.T) {
	for _, c := range []struct {
		name string
		code []byte
		want []string
	}{
		{"first", firstGuest(), []string{
			"mov dx, 0x3f8", "mov al, 0x2", "out dx, al", "cli", "hlt", "jmp .-0x3"}},
		{"ports", portGuest(0x12345), []string{
			"mov dx, 0x3f8", "mov al, 0x2", "out dx, al",
			"mov dx, 0xed", "mov ecx, 0x12345", "out dx, al", "dec ecx", "jnz .-0x4",
			"mov dx, 0x3f8", "mov al, 0x3", "out dx, al", "cli", "hlt", "jmp .-0x3"}},
		{"mmio", mmioGuest(0x12345), []string{
			"mov dx, 0x3f8", "mov al, 0x2", "out dx, al",
			"mov esi, 0xf0000000", "mov ecx, 0x12345", "mov eax, dword ptr [esi]", "dec ecx", "jnz .-0x5",
			"mov dx, 0x3f8", "mov al, 0x3", "out dx, al", "cli", "hlt", "jmp .-0x3"}},
	} {
		var got []string
		for rest := c.code; len(rest) > 0; {
			i, err := x86asm.Decode(rest, 32)
			if err != nil {
				t.Fatalf("%s: %v at % x", c.name, err, rest)
			}
			got = append(got, x86asm.IntelSyntax(i, 0, nil))
			rest = rest[i.Len:]
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%q\nwant\n%q", c.name, got, c.want)
		}
	}
}

// The image is what debug/elf and another monitor's loader take it for.
func TestPVHImage(t *testing.T) {
	image := pvhImage(firstGuest())
	r := bytes.NewReader(image)
	if ok, err := pvh.CheckPVH(r); !ok || err != nil {
		t.Errorf("CheckPVH: %v, %v", ok, err)
	}
	f, err := elf.NewFile(r)
	if err != nil {
		t.Fatal(err)
	}
	if entry, err := pvh.ParsePVHEntry(r, f.Progs[0]); entry != loadGPA || err != nil {
		t.Errorf("entry %#x, %v", entry, err)
	}
	load := f.Progs[1]
	text := make([]byte, len(firstGuest()))
	if _, err := load.ReadAt(text, 0); err != nil {
		t.Fatal(err)
	}
	if load.Type != elf.PT_LOAD || load.Paddr != loadGPA || f.Entry != loadGPA || !bytes.Equal(text, firstGuest()) {
		t.Errorf("segment %+v, entry %#x, code % x", load.ProgHeader, f.Entry, text)
	}
}

// The program dies of an illegal instruction at once, here as in a guest.
func TestTrapInit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(path, trapInit(), 0o700); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := exec.Command(path).Run(); !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if s := exit.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGILL {
		t.Errorf("it ended with %v", exit)
	}
}

// object is an ELF file with code at 0x1000 of memory, and a symbol for its byte at.
func object(symbol string, at uint64) []byte {
	const codeAt, symtabAt, strtabAt, sectionsAt = 0x200, 0x300, 0x400, 0x500
	file := make([]byte, sectionsAt, 0x600)
	head := elfHeader(0x1000, elf.Prog64{Type: uint32(elf.PT_LOAD), Off: codeAt, Vaddr: 0x1000, Filesz: 16, Memsz: 32})
	copy(file, head)
	file[0x29], file[0x3C], file[0x3E] = sectionsAt>>8, 3, 2 // e_shoff, e_shnum, e_shstrndx
	copy(file[codeAt:], bytes.Repeat([]byte{0x90}, 16))
	var b bytes.Buffer
	write(&b, []elf.Sym64{{}, {Name: 1, Info: 2, Shndx: 1, Value: at}})
	copy(file[symtabAt:], b.Bytes())
	copy(file[strtabAt+1:], symbol)
	b.Reset()
	write(&b, []elf.Section64{
		{},
		{Type: uint32(elf.SHT_SYMTAB), Off: symtabAt, Size: 48, Link: 2, Entsize: 24},
		{Type: uint32(elf.SHT_STRTAB), Off: strtabAt, Size: uint64(len(symbol)) + 2},
	})
	return append(file, b.Bytes()...)
}

func TestSkipFunction(t *testing.T) {
	file := object(selfTest, 0x1004)
	before := bytes.Clone(file)
	if err := skipFunction(file, selfTest); err != nil {
		t.Fatal(err)
	}
	before[0x204] = 0xC3
	if !bytes.Equal(file, before) {
		t.Error("another byte was changed, or none")
	}
	for name, bad := range map[string][]byte{
		"no such symbol": object("other", 0x1004),
		"below":          object(selfTest, 0xFFF),
		"not in file":    object(selfTest, 0x1010),
		"no ELF":         []byte("#!/bin/sh"),
	} {
		if err := skipFunction(bad, selfTest); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
