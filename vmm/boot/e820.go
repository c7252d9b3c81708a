package boot

import "github.com/qenex/qenex-kernel/memmap"

// E820Type is what a range of the memory map is for (ACPI 6.5 table 15.4).
type E820Type uint32

const (
	E820RAM      E820Type = 1
	E820Reserved E820Type = 2
)

// E820Entry is one range of the memory map that the guest is given.
type E820Entry struct {
	Range
	Type E820Type
}

// e820 describes RAM that begins at 0. The ACPI tables are reserved rather than reclaimable: the
// VM generation ID among them must stay.
func e820(ram []memmap.Region) []E820Entry {
	var m []E820Entry
	for _, r := range ram {
		if r.GPA != 0 {
			m = append(m, E820Entry{Range{r.GPA, r.Size}, E820RAM})
			continue
		}
		m = append(m, E820Entry{Range{0, EBDABase}, E820RAM}, E820Entry{Range{EBDABase, HighRAM - EBDABase}, E820Reserved})
		if r.Size > HighRAM {
			m = append(m, E820Entry{Range{HighRAM, r.Size - HighRAM}, E820RAM})
		}
	}
	return m
}
