package boot

import "fmt"

// struct hvm_start_info, version 1, with what it points at in the same page.
const (
	pvhMagic       = 0x336ec578
	pvhVersion     = 1
	pvhInfoSize    = 56
	pvhModules     = PVHInfo + 0x40 // one hvm_modlist_entry
	pvhModuleSize  = 32
	pvhMemmap      = PVHInfo + 0x80 // hvm_memmap_table_entry, with the types of E820
	pvhMemmapEntry = 24
	maxPVHMemmap   = (pageSize - (pvhMemmap - PVHInfo)) / pvhMemmapEntry
)

// startInfo makes what goes to PVHInfo.
func startInfo(l *Layout, rsdp uint64) ([]byte, error) {
	if len(l.E820) > maxPVHMemmap {
		return nil, fmt.Errorf("%w: %d ranges of memory, and the PVH start info has room for %d", ErrMemory, len(l.E820), maxPVHMemmap)
	}
	p := make([]byte, pvhMemmap-PVHInfo+len(l.E820)*pvhMemmapEntry)
	le.PutUint32(p, pvhMagic)
	le.PutUint32(p[4:], pvhVersion)
	if l.Initrd.Size != 0 {
		le.PutUint32(p[12:], 1)
		le.PutUint64(p[16:], pvhModules)
		m := p[pvhModules-PVHInfo:]
		le.PutUint64(m, l.Initrd.GPA)
		le.PutUint64(m[8:], l.Initrd.Size)
	}
	le.PutUint64(p[24:], l.Cmdline.GPA)
	le.PutUint64(p[32:], rsdp)
	le.PutUint64(p[40:], pvhMemmap)
	le.PutUint32(p[48:], uint32(len(l.E820)))
	for i, e := range l.E820 {
		t := p[pvhMemmap-PVHInfo+i*pvhMemmapEntry:]
		le.PutUint64(t, e.GPA)
		le.PutUint64(t[8:], e.Size)
		le.PutUint32(t[16:], uint32(e.Type))
	}
	return p, nil
}
