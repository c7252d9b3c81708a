package complete

import "encoding/binary"

// Load reads the state out of a 64-bit FXSAVE area, which begins every XSAVE area too. area has at least 416 bytes.
func (f *FPU) Load(area []byte) {
	le := binary.LittleEndian
	f.FCW, f.FSW = le.Uint16(area[fxFCW:]), le.Uint16(area[fxFSW:])
	f.FTW, f.FOP = area[fxFTW], le.Uint16(area[fxFOP:])
	f.FIP, f.FDP = le.Uint64(area[fxFIP:]), le.Uint64(area[fxFDP:])
	f.MXCSR = le.Uint32(area[fxMXCSR:])
	for i := range f.ST {
		copy(f.ST[i][:], area[fxST+16*i:])
	}
	for i := range f.XMM {
		copy(f.XMM[i][:], area[fxXMM+16*i:])
	}
}

// Store writes the state into a 64-bit FXSAVE area and leaves the rest of it alone.
func (f *FPU) Store(area []byte) {
	le := binary.LittleEndian
	le.PutUint16(area[fxFCW:], f.FCW)
	le.PutUint16(area[fxFSW:], f.FSW)
	area[fxFTW] = f.FTW
	le.PutUint16(area[fxFOP:], f.FOP)
	le.PutUint64(area[fxFIP:], f.FIP)
	le.PutUint64(area[fxFDP:], f.FDP)
	le.PutUint32(area[fxMXCSR:], f.MXCSR)
	for i := range f.ST {
		copy(area[fxST+16*i:], f.ST[i][:])
	}
	for i := range f.XMM {
		copy(area[fxXMM+16*i:], f.XMM[i][:])
	}
}

// MXCSRMask reads the processor's MXCSR_MASK out of an FXSAVE area: the bits of MXCSR that exist, 0 for the default.
func MXCSRMask(area []byte) uint32 { return binary.LittleEndian.Uint32(area[fxMXCSRMask:]) }
