package boot

// The x86 guest memory map below 1 MiB, guest-physical addresses in bytes. RAM begins again at
// [HighRAM]; the hole from memmap.HoleStart to memmap.HoleEnd holds the devices and the APICs.
const (
	GDTBase       = 0x500  // boot GDT, in page 0 behind the BIOS data area
	PVHInfo       = 0x6000 // hvm_start_info; module list and memory map follow in the same page
	ZeroPage      = 0x7000 // struct boot_params, one page
	PML4Base      = 0x9000 // boot page tables: PML4, PDPT, four page directories
	pdptBase      = PML4Base + 0x1000
	pdBase        = PML4Base + 0x2000
	PageTablesEnd = pdBase + 4*0x1000

	CmdlineBase = 0x20000 // kernel command line, NUL-terminated
	CmdlineSize = 0x10000 // bytes set aside for it, the NUL included

	EBDABase   = 0x9fc00 // extended BIOS data area: the MP floating pointer; end of low RAM
	EBDASize   = 0x400
	ACPIBase   = 0xe0000 // ACPI tables, the RSDP first
	ACPIEnd    = 0xf0000
	MPConfBase = 0xf0000 // MP configuration table too big for the EBDA
	MPConfEnd  = 0x100000
	HighRAM    = 0x100000 // kernel, initrd
)

const (
	pageSize = 0x1000
	maxImage = 1 << 30 // bytes of an ELF kernel, unpacked; more is a mistake or a bomb
)

// Range is Size bytes of guest-physical memory at GPA. The zero Range is no memory.
type Range struct {
	GPA, Size uint64
}

// End returns the first address behind the range.
func (r Range) End() uint64 { return r.GPA + r.Size }
