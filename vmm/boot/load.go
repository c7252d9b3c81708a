package boot

import (
	"fmt"

	"github.com/qenex/qenex-kernel/memmap"
)

// Config says what to boot.
type Config struct {
	Kernel  *Kernel
	Mode    Mode
	Initrds []Initrd
	Cmdline string
	RSDP    uint64 // guest-physical address of the ACPI RSDP, 0 for none
	// Fresh says that guest memory reads as zero wherever nobody wrote yet: a new machine, not a
	// rebooted one. Nothing is cleared then, so that no page is touched in vain.
	Fresh bool
}

// Entry is the first vCPU's state at the kernel's entry. What is not named is zero; interrupts
// are off. Other vCPUs wait for INIT and SIPI.
type Entry struct {
	Mode   Mode // Linux64, PVH or Direct
	RIP    uint64
	RSI    uint64 // the zero page (Linux64, Direct)
	RBX    uint64 // the start info (PVH)
	RFLAGS uint64

	CR0, CR3, CR4, EFER uint64

	GDT  Table
	Code Segment // CS
	Data Segment // DS, ES, FS, GS, SS
	Task Segment // TR

	Layout Layout
}

// Layout says what lies where in guest memory.
type Layout struct {
	Kernel  Range // all the kernel needs until it knows the memory map
	Initrd  Range // zero without one
	Cmdline Range // its NUL included
	E820    []E820Entry
}

// Load writes the kernel, its initrds and all it wants to find into mem, and returns how to enter
// it. Each error wraps one of this package's; mem's contents are then undefined.
func Load(mem *memmap.Memory, cfg Config) (*Entry, error) {
	ram := mem.Regions()
	if len(ram) == 0 || ram[0].GPA != 0 || ram[0].Size <= HighRAM {
		return nil, fmt.Errorf("%w: there is no RAM above %#x; give the guest at least 32 MiB", ErrMemory, HighRAM)
	}
	lowRAM := ram[0].Size
	k := cfg.Kernel
	e := &Entry{Mode: cfg.Mode, RFLAGS: rflagsOne, GDT: Table{GDTBase, gdtSize - 1}, Data: flat, Task: task}

	cmdlineLimit, initrdMax := uint64(elfCmdlineSize), uint64(elfInitrdMax)
	if k.bz != nil {
		cmdlineLimit, initrdMax = k.bz.cmdlineSize, k.bz.initrdMax
	}
	if err := checkCmdline(cfg.Cmdline, cmdlineLimit); err != nil {
		return nil, err
	}
	size, err := initrdSize(cfg.Initrds)
	if err != nil {
		return nil, err
	}

	if err := k.load(mem, lowRAM, cfg.Fresh, e); err != nil {
		return nil, err
	}
	l := &e.Layout
	if l.Initrd, err = placeInitrd(size, lowRAM, initrdMax, []Range{l.Kernel}); err != nil {
		return nil, err
	}
	if err := loadInitrds(mem, l.Initrd, cfg.Initrds); err != nil {
		return nil, err
	}
	l.E820 = e820(ram)
	if l.Cmdline, err = writeCmdline(mem, cfg.Cmdline); err != nil {
		return nil, err
	}
	if err := writeGDT(mem); err != nil {
		return nil, err
	}
	return e, e.writeParams(mem, k.bz, cfg.RSDP)
}

// writeParams writes what the kernel is handed in a register, and sets that and the CPU mode.
func (e *Entry) writeParams(mem *memmap.Memory, bz *bzImage, rsdp uint64) error {
	var page []byte
	var at uint64
	var err error
	if e.Mode == PVH {
		e.protectedMode()
		e.RBX, at = PVHInfo, PVHInfo
		page, err = startInfo(&e.Layout, rsdp)
	} else {
		e.longMode()
		e.RSI, at = ZeroPage, ZeroPage
		if err := writePageTables(mem); err != nil {
			return err
		}
		page, err = zeroPage(bz, e.Layout.Kernel.GPA, &e.Layout, rsdp)
	}
	if err != nil {
		return err
	}
	if err := mem.Write(at, page); err != nil {
		return fmt.Errorf("%w: boot parameters: %w", ErrMemory, err)
	}
	return nil
}

// load copies the kernel to its place, settles e's Mode if it is Auto, and sets e's RIP and
// Layout.Kernel.
func (k *Kernel) load(mem *memmap.Memory, lowRAM uint64, fresh bool, e *Entry) error {
	if k.bz != nil && (e.Mode == Auto || e.Mode == Linux64) {
		e.Mode = Linux64
		return k.loadBzImage(mem, lowRAM, fresh, e)
	}
	if e.Mode == Linux64 {
		return fmt.Errorf("%w: mode linux64 is for a bzImage, and this is %s; use mode direct or pvh", ErrMode, k.Format())
	}
	return k.loadELF(mem, fresh, e)
}

func (k *Kernel) loadBzImage(mem *memmap.Memory, lowRAM uint64, fresh bool, e *Entry) error {
	at, err := k.bz.place(lowRAM)
	if err != nil {
		return err
	}
	view, err := mem.View(at.GPA, at.Size)
	if err != nil {
		return fmt.Errorf("%w: kernel: %w", ErrMemory, err)
	}
	if err := readAt(k.file, view[:k.bz.codeLen], k.bz.code); err != nil {
		return err
	}
	if !fresh {
		clear(view[k.bz.codeLen:])
	}
	e.RIP, e.Layout.Kernel = at.GPA+entry64, at
	return nil
}

func (k *Kernel) loadELF(mem *memmap.Memory, fresh bool, e *Entry) error {
	f, headers := &image{at: k.file, size: k.size}, k.elf
	if headers == nil {
		stream, err := k.unpack()
		if err != nil {
			return err
		}
		defer stream.Close()
		if f, err = newStream(stream); err != nil {
			return err
		}
		if headers, err = parseELF(f); err != nil {
			return err
		}
	}
	notes, err := headers.load(mem, f, fresh)
	if err != nil {
		return err
	}
	if err := f.finish(); err != nil {
		return err
	}
	e.Layout.Kernel = headers.span()
	if e.Mode != Direct {
		entry, ok, err := headers.pvhEntry(notes)
		if err != nil {
			return err
		}
		if ok {
			e.Mode, e.RIP = PVH, entry
			return nil
		}
		if e.Mode == PVH {
			return fmt.Errorf("%w: it has no PVH note (XEN_ELFNOTE_PHYS32_ENTRY); use mode direct, or build it with CONFIG_PVH", ErrMode)
		}
		e.Mode = Direct
	}
	e.RIP, err = headers.directEntry()
	return err
}
