package boot

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// Offsets into a bzImage file and, alike, into the zero page: the setup header of boot.rst.
const (
	hdrStart       = 0x1f1
	hdrLimit       = 0x290 // the zero page gives the header no byte beyond this
	offSetupSects  = 0x1f1
	offSysSize     = 0x1f4
	offBootFlag    = 0x1fe
	offJump        = 0x200
	offMagic       = 0x202
	offVersion     = 0x206
	offKernelVer   = 0x20e
	offLoader      = 0x210
	offLoadFlags   = 0x211
	offCode32      = 0x214
	offRamdisk     = 0x218
	offRamdiskSize = 0x21c
	offCmdlinePtr  = 0x228
	offInitrdMax   = 0x22c
	offAlignment   = 0x230
	offRelocatable = 0x234
	offXLoadFlags  = 0x236
	offCmdlineSize = 0x238
	offPayload     = 0x248
	offPayloadLen  = 0x24c
	offSetupData   = 0x250
	offPrefAddress = 0x258
	offInitSize    = 0x260
	hdrNeeded      = 0x264 // end of the fields protocol 2.12 has and we read
)

const (
	bootFlag     = 0xaa55
	hdrMagic     = 0x53726448 // "HdrS"
	minProtocol  = 0x020c
	loadedHigh   = 1 << 0
	xlfKernel64  = 1 << 0
	entry64      = 0x200 // 64-bit entry point behind the load address
	setupSector  = 512
	loaderOther  = 0xff // type_of_loader: no assigned number
	elfProtocol  = 0x020f
	elfAlignment = 0x200000
	// Linux's COMMAND_LINE_SIZE, less the NUL, and its ramdisk limit on x86: what an ELF kernel,
	// which cannot say, is taken to have.
	elfCmdlineSize = 2047
	elfInitrdMax   = 0x7fffffff
)

// bzImage is what the setup header says, checked. File offsets are absolute.
type bzImage struct {
	header    []byte // file bytes from hdrStart to the header's own end
	version   uint16 // protocol, 0x020f for 2.15
	versionAt uint64 // file offset of the version string, 0 if none

	code    uint64 // file offset of the protected-mode kernel
	codeLen uint64 // its length

	payload    uint64 // file offset of the compressed ELF kernel
	payloadLen uint64 // 0 if the header names none

	prefAddress uint64
	initSize    uint64 // at least codeLen
	alignment   uint64 // power of two; 1 if the kernel is not relocatable
	initrdMax   uint64 // highest address an initrd byte may have
	cmdlineSize uint64 // without the NUL
}

func isBzImage(head []byte) bool {
	return len(head) >= offMagic+4 && le.Uint32(head[offMagic:]) == hdrMagic && le.Uint16(head[offBootFlag:]) == bootFlag
}

// parseBzImage checks the header in head, the first bytes of a file of size bytes.
func parseBzImage(head []byte, size uint64) (*bzImage, error) {
	if len(head) < hdrNeeded {
		return nil, fmt.Errorf("%w: a bzImage of %d bytes ends in its setup header; fetch or build it again", ErrTruncated, size)
	}
	b := &bzImage{version: le.Uint16(head[offVersion:])}
	if b.version < minProtocol {
		return nil, fmt.Errorf("%w: boot protocol %d.%02d has no 64-bit entry; use a kernel of Linux 3.8 or later (protocol 2.12)", ErrMode, b.version>>8, b.version&0xff)
	}
	end := offMagic + uint64(head[offJump+1])
	if end < hdrNeeded || end > hdrLimit || end > uint64(len(head)) {
		return nil, fmt.Errorf("%w: the setup header claims to end at %#x, outside %#x to %#x", ErrHeader, end, hdrNeeded, hdrLimit)
	}
	b.header = head[hdrStart:end]
	if head[offLoadFlags]&loadedHigh == 0 {
		return nil, fmt.Errorf("%w: a zImage, loaded below 1 MiB; build a bzImage", ErrMode)
	}
	if le.Uint16(head[offXLoadFlags:])&xlfKernel64 == 0 {
		return nil, fmt.Errorf("%w: a 32-bit kernel (XLF_KERNEL_64 is clear); use an x86-64 one", ErrMode)
	}

	sects := uint64(head[offSetupSects])
	if sects == 0 {
		sects = 4 // boot.rst: for backwards compatibility
	}
	b.code = (sects + 1) * setupSector
	b.codeLen = uint64(le.Uint32(head[offSysSize:])) * 16
	// syssize counts 16-byte paragraphs: the last may be incomplete.
	if b.code >= size || b.codeLen > size-b.code+15 {
		return nil, fmt.Errorf("%w: setup code of %d bytes and a kernel of %d are more than the file's %d bytes; fetch or build it again", ErrTruncated, b.code, b.codeLen, size)
	}
	b.codeLen = min(b.codeLen, size-b.code)
	if b.codeLen <= entry64 {
		return nil, fmt.Errorf("%w: a protected-mode kernel of %d bytes has no 64-bit entry at %#x", ErrHeader, b.codeLen, entry64)
	}
	if v := uint64(le.Uint16(head[offKernelVer:])); v != 0 && v+offJump < b.code {
		b.versionAt = v + offJump
	}

	off, n := uint64(le.Uint32(head[offPayload:])), uint64(le.Uint32(head[offPayloadLen:]))
	if n != 0 {
		if off > b.codeLen || n > b.codeLen-off {
			return nil, fmt.Errorf("%w: payload of %d bytes at %#x reaches beyond the kernel's %d bytes", ErrHeader, n, off, b.codeLen)
		}
		b.payload, b.payloadLen = b.code+off, n
	}

	b.prefAddress = le.Uint64(head[offPrefAddress:])
	b.initSize = max(uint64(le.Uint32(head[offInitSize:])), b.codeLen)
	b.alignment = 1
	if head[offRelocatable] != 0 {
		b.alignment = uint64(le.Uint32(head[offAlignment:]))
		if b.alignment == 0 || b.alignment&(b.alignment-1) != 0 {
			return nil, fmt.Errorf("%w: kernel_alignment %#x is not a power of two", ErrHeader, b.alignment)
		}
	}
	b.initrdMax = uint64(le.Uint32(head[offInitrdMax:]))
	b.cmdlineSize = uint64(le.Uint32(head[offCmdlineSize:]))
	return b, nil
}

// place returns where the kernel goes and all it needs while it unpacks itself. Wherever it is
// loaded, it runs at pref_address or, if relocatable, at the next aligned address above that
// (boot.rst, "init_size"); so that is where to load it, and memory ending below cannot be helped.
func (b *bzImage) place(lowRAM uint64) (Range, error) {
	at := max(b.prefAddress, HighRAM)
	if rest := at % b.alignment; rest != 0 {
		at += b.alignment - rest
	}
	if at < b.prefAddress || at > lowRAM || b.initSize > lowRAM-at {
		return Range{}, fmt.Errorf("%w: the kernel needs %#x bytes at %#x to unpack itself, and RAM ends at %#x; give the guest at least %d MiB", ErrMemory, b.initSize, at, lowRAM, mibFor(at, b.initSize))
	}
	return Range{at, b.initSize}, nil
}

// mibFor returns the guest memory, in MiB, whose low RAM holds size bytes at gpa.
func mibFor(gpa, size uint64) uint64 {
	const mib = 1 << 20
	end := gpa + size
	if end < gpa {
		return ^uint64(0) / mib
	}
	return end/mib + min(end%mib, 1)
}
