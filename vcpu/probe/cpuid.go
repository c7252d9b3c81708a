package probe

import (
	"encoding/binary"
	"slices"

	"github.com/qenex/qenex-kernel/kvm"
)

// maskCPUID returns a copy of the table with leaf 1 ECX and leaf 7 EBX clear.
func maskCPUID(table []kvm.CPUIDEntry) []kvm.CPUIDEntry {
	table = slices.Clone(table)
	for i := range table {
		switch {
		case table[i].Function == 1:
			table[i].Ecx = 0
		case table[i].Function == 7 && table[i].Index == 0:
			table[i].Ebx = 0
		}
	}
	return table
}

// osxsave is leaf 1 ECX bit 27: it follows CR4, not the table.
const osxsave = 1 << 27

// cpuidLeaks runs CPUID at both levels of a machine that was made with a masked table.
func (m *machine) cpuidLeaks() (CPUIDMasking, error) {
	var seen CPUIDMasking
	for _, c := range []struct {
		level    ring
		ecx, ebx *uint32
	}{
		{ring0, &seen.CPL0Leaf1ECX, &seen.CPL0Leaf7EBX},
		{ring3, &seen.CPL3Leaf1ECX, &seen.CPL3Leaf7EBX},
	} {
		err := m.start(c.level, kvm.Regs{RAX: 1, RDI: dataGPA},
			0x0F, 0xA2, // cpuid
			0x89, 0x0F, // mov [rdi], ecx
			0xB8, 0x07, 0x00, 0x00, 0x00, // mov eax, 7
			0x31, 0xC9, // xor ecx, ecx
			0x0F, 0xA2, // cpuid
			0x89, 0x5F, 0x04, // mov [rdi+4], ebx
			0xE6, reportPort)
		if err != nil {
			return seen, err
		}
		if _, err := m.runTo(patience); err != nil {
			return seen, err
		}
		*c.ecx = binary.LittleEndian.Uint32(m.mem[dataGPA:]) &^ osxsave
		*c.ebx = binary.LittleEndian.Uint32(m.mem[dataGPA+4:])
	}
	return seen, nil
}
