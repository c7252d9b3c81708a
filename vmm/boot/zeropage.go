package boot

import (
	"fmt"

	"github.com/qenex/qenex-kernel/memmap"
)

// Offsets into the zero page, struct boot_params, beside those of the setup header.
const (
	offRSDP           = 0x070 // acpi_rsdp_addr, protocol 2.14
	offExtRamdisk     = 0x0c0
	offExtRamdiskSize = 0x0c4
	offExtCmdlinePtr  = 0x0c8
	offE820Entries    = 0x1e8
	offE820Table      = 0x2d0
	e820EntrySize     = 20
	maxE820           = 128
)

// zeroPage makes the boot_params for a kernel at load. bz is nil for an ELF kernel that no bzImage
// came with; screen_info stays empty, for there is no screen.
func zeroPage(bz *bzImage, load uint64, l *Layout, rsdp uint64) ([]byte, error) {
	if len(l.E820) > maxE820 {
		return nil, fmt.Errorf("%w: %d ranges of memory, and the zero page has room for %d", ErrMemory, len(l.E820), maxE820)
	}
	p := make([]byte, pageSize)
	if bz != nil {
		copy(p[hdrStart:], bz.header)
	} else {
		le.PutUint16(p[offBootFlag:], bootFlag)
		le.PutUint32(p[offMagic:], hdrMagic)
		le.PutUint16(p[offVersion:], elfProtocol)
		le.PutUint32(p[offAlignment:], elfAlignment)
		le.PutUint32(p[offInitrdMax:], elfInitrdMax)
		le.PutUint32(p[offCmdlineSize:], elfCmdlineSize)
	}
	p[offLoader] = loaderOther
	p[offLoadFlags] |= loadedHigh
	le.PutUint64(p[offSetupData:], 0)
	le.PutUint32(p[offCode32:], uint32(load))

	le.PutUint64(p[offRSDP:], rsdp)
	le.PutUint32(p[offRamdisk:], uint32(l.Initrd.GPA))
	le.PutUint32(p[offRamdiskSize:], uint32(l.Initrd.Size))
	le.PutUint32(p[offExtRamdisk:], uint32(l.Initrd.GPA>>32))
	le.PutUint32(p[offExtRamdiskSize:], uint32(l.Initrd.Size>>32))
	le.PutUint32(p[offCmdlinePtr:], uint32(l.Cmdline.GPA))
	le.PutUint32(p[offExtCmdlinePtr:], uint32(l.Cmdline.GPA>>32))

	p[offE820Entries] = uint8(len(l.E820))
	for i, e := range l.E820 {
		t := p[offE820Table+i*e820EntrySize:]
		le.PutUint64(t, e.GPA)
		le.PutUint64(t[8:], e.Size)
		le.PutUint32(t[16:], uint32(e.Type))
	}
	return p, nil
}

// checkCmdline refuses what the kernel would cut off or never see.
func checkCmdline(s string, limit uint64) error {
	limit = min(limit, CmdlineSize-1)
	if uint64(len(s)) > limit {
		return fmt.Errorf("%w: it has %d bytes, and the kernel takes %d; shorten it", ErrCmdline, len(s), limit)
	}
	for i := range len(s) {
		if s[i] == 0 {
			return fmt.Errorf("%w: byte %d is a NUL; remove it", ErrCmdline, i)
		}
	}
	return nil
}

// writeCmdline puts s at CmdlineBase and returns where it lies, its NUL included.
func writeCmdline(mem *memmap.Memory, s string) (Range, error) {
	b := append([]byte(s), 0)
	if err := mem.Write(CmdlineBase, b); err != nil {
		return Range{}, fmt.Errorf("%w: command line: %w", ErrMemory, err)
	}
	return Range{CmdlineBase, uint64(len(b))}, nil
}
